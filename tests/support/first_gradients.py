"""How large the gradients of the parts of a new model are before the first step, and how large its vectors are."""

import re
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_videollm.build.linvt import make_linvt
from hf_videollm.build.options import find_design
from hf_videollm.build.video_llm import make_video_llm
from hf_videollm.models.iva_hooks import call_adapter, decoder_layers, drop_context
from hf_videollm.models.video_llm_word_size import word_size

# Modules that no source has, where they are not just the connector.
NEW = {
    "linvt": ("linvt", "multi_modal_projector"),
    "iva": ("connector", "query_tokens", "adapter"),
    "videollama2_av": ("connector", "audio_projector"),
}


def make(design: str, places: Mapping[str, Path], dtype: torch.dtype | None = None, **options: Any) -> tuple[Any, Any]:
    """Model and processor as `build_checkpoint` makes them, without the files."""
    function = make_linvt if design == "linvt" else make_video_llm
    with tempfile.TemporaryDirectory() as workspace:
        made = function(find_design(design), places, options, dtype, 0, Path(workspace))
    if design == "iva":
        # The hooks are on the layers that the model had before it got those of the language model.
        layers = decoder_layers(made.model.model.language_model, made.model.config.text_config.num_hidden_layers)
        for index, layer in enumerate(layers):
            hook = call_adapter if index in made.model.config.insertion_layers else drop_context
            layer.register_forward_pre_hook(hook, with_kwargs=True)
    return made.model, made.processor


def new_parts(model: Any) -> tuple[str, ...]:
    return NEW.get(model.config.model_type, ("connector",))


def new_patterns(model: Any) -> list[str]:
    """Patterns of the parameters of the new parts, for `trainable` of a recipe."""
    return [rf"(^|\.){part}\." for part in new_parts(model)]


def train_new_parts(model: Any) -> None:
    """Freeze all but the new parts."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and any(re.search(pattern, name) for pattern in new_patterns(model)))


def part_of(name: str, parts: Iterable[str]) -> str:
    """The part that a parameter belongs to: a layer, a list of layers or a single parameter of a new module."""
    path = name.split(".")
    start = next(number for number, word in enumerate(path) if word in parts)
    return ".".join(path[start : start + 2])


def gradients_of_parts(model: Any) -> dict[str, float]:
    """The norm of the gradient of each part that has one. Parts behind weights of 0 have none before the first step."""
    squares: dict[str, float] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.grad is not None:
            part = part_of(name, new_parts(model))
            squares[part] = squares.get(part, 0.0) + weight.grad.float().square().sum().item()
    return {part: square**0.5 for part, square in squares.items() if square > 0}


def largest_share(gradients: Mapping[str, float]) -> float:
    """The largest norm, as a multiple of the median."""
    return max(gradients.values()) / statistics.median(gradients.values())


@torch.no_grad()
def sizes_of_vectors(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The root mean square of the vectors of each medium, as a multiple of that of words."""
    base, found = model.model, {}
    if model.config.model_type == "linvt":
        frames = batch["pixel_values_videos"]
        found["video"] = base.backbone.get_image_features(pixel_values=frames).pooler_output
    else:
        found["video"] = base.get_video_features(batch["pixel_values_videos"], return_dict=True).pooler_output
    if "input_features" in batch:
        found["audio"] = base.get_audio_features(batch["input_features"], return_dict=True).pooler_output
    queries: nn.Module | None = dict(base.named_children()).get("query_tokens")
    if queries is not None:
        found["query"] = list(queries.parameters())
    words = word_size(model.get_input_embeddings())
    assert words is not None
    return {kind: torch.cat(list(vectors)).square().mean().sqrt().item() / words for kind, vectors in found.items()}
