"""Loads vision towers and language models of transformers as parts of a new model, and makes the weights of new parts.

transformers loads both from safetensors; missing or left over tensors are errors. Pickles are first copied to
safetensors in a separate process.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    CLIPImageProcessor,
    GenerationConfig,
    PreTrainedModel,
    SiglipImageProcessor,
)

from ..models.configuration_video_llm import PublishedConfig
from ..models.errors import CheckpointError, one_line
from ..models.video_llm_checkpoint_config import IMPOSSIBLE
from .configs import check_raw_config, token_ids
from .pickle_reader import as_safetensors
from .stream import read_json
from .tensors import refuse, shape_text
from .tokenizers import compare_eos

# The image processor of each family, for folders without preprocessor_config.json.
IMAGE_PROCESSORS: dict[str, Any] = {
    "clip_vision_model": CLIPImageProcessor,
    "siglip_vision_model": SiglipImageProcessor,
}
# Families of a vision tower with a text tower, and the names of the tensors that do not belong to the vision tower.
PAIRS = ("clip", "siglip")
TEXT_SIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_")
# Settings of sampling in a generation_config.json. They are dropped, because the new model answers greedily.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def read_config(folder: Path) -> Any:
    """Read the configuration of a folder with transformers. Code in the folder is never run.

    Raises:
        CheckpointError: transformers does not know this kind of model.
    """
    file = folder / "config.json"
    check_raw_config(read_json(file), file)
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, *IMPOSSIBLE) as error:
        reason = one_line(error, 200)
        raise CheckpointError(f"{file} describes no model that transformers knows ({reason}).") from error


def read_language_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The configuration of a causal language model: as transformers reads it, and as the content of the file.

    Raises:
        CheckpointError: the folder holds no causal language model of transformers.
    """
    config = read_config(folder)
    is_plain = config.get_text_config() is config and not isinstance(config, PublishedConfig)
    if not is_plain or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of type {config.model_type!r}, which is no "
            "causal language model: pass the "
            "folder of a causal language model (Vicuna 7B in the papers)."
        )
    # These fields belong to the old checkpoint, not to the model. The new checkpoint has a dtype for all parts, and
    # generates with a cache.
    config.dtype, config.use_cache, config.architectures = None, True, None
    return config, read_json(folder / "config.json")


def read_vision_config(folder: Path, known: Iterable[str] | None = None) -> Any:
    """The configuration of a vision tower, which may be part of a CLIP or SigLIP with its text tower.

    Args:
        folder: folder of the tower.
        known: model types that are accepted; `None` accepts every tower with a grid of patches.

    Raises:
        CheckpointError: the folder holds no such tower, or the tower has no grid of patches.
    """
    file, config = folder / "config.json", read_config(folder)
    found = config.vision_config if config.model_type in PAIRS else config
    fields = ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
    lacking = [name for name in fields if not isinstance(getattr(found, name, None), int | list | tuple)]
    is_known = found.model_type in known if known is not None else type(found) in MODEL_MAPPING
    if not is_known or type(found) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(found, "vision_config"):
        raise CheckpointError(
            f"{file} describes a model of type {config.model_type!r}: pass the folder of a CLIP or SigLIP."
        )
    if lacking:
        raise CheckpointError(
            f"{file} describes a model of type {config.model_type!r}, which has no {lacking[0]}: use a "
            "tower with a grid of "
            "patches, such as a CLIP or SigLIP."
        )
    found.dtype, found.architectures = None, None
    return found


def load_language_model(
    folder: Path, config: Any, workspace: Path, dtype: torch.dtype | str = "auto"
) -> PreTrainedModel:
    """Load a causal language model with all its weights.

    Args:
        folder: folder of the checkpoint.
        config: configuration of the model.
        workspace: see `load_part`.
        dtype: see `load_part`.

    Raises:
        CheckpointError: see `load_part`.
    """
    return load_part(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], folder, config, workspace, dtype)


def load_tower(folder: Path, config: Any, workspace: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Load a vision tower with all its weights. The text tower of a CLIP or SigLIP is skipped.

    Args:
        folder: folder of the checkpoint.
        config: configuration of the model.
        workspace: see `load_part`.
        dtype: see `load_part`.

    Raises:
        CheckpointError: see `load_part`.
    """
    return load_part(MODEL_MAPPING[type(config)], folder, config, workspace, dtype, TEXT_SIDE)


def load_part(
    model_class: Any,
    folder: Path,
    config: Any,
    workspace: Path,
    dtype: torch.dtype | str,
    skipped: tuple[str, ...] = (),
) -> PreTrainedModel:
    """Load a model with all its weights.

    Args:
        model_class: class of the model.
        folder: folder of the checkpoint.
        config: configuration of the model.
        workspace: folder on the disk of the destination, for copies of pickles, which are as large as the weights. If
            the run fails, the folder is removed; if the process is killed, the next run removes it.
        dtype: type of the weights; `"auto"` keeps the stored type.
        skipped: prefixes of tensor names in the folder that are ignored.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape, NaN or infinite, or a file is damaged.
    """
    try:
        # The copies can be deleted at once: what is mapped into memory exists until the model is deleted.
        with tempfile.TemporaryDirectory(prefix="copies.", dir=workspace) as copies:
            model, found = model_class.from_pretrained(
                str(as_safetensors(folder, Path(copies))),
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                use_safetensors=True,
            )
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = one_line(error, 300)
        raise CheckpointError(f"The weights in {folder} cannot be read ({reason}).") from error
    mismatched = {entry[0]: entry[1:] for entry in found["mismatched_keys"]}
    refuse(
        [
            *(f"{folder} lacks {name}" for name in sorted(set(found["missing_keys"]) - set(mismatched))),
            *(
                f"{folder} holds {name}, which has no place in {model_class.__name__}"
                for name in sorted(found["unexpected_keys"])
                if not name.startswith(skipped)
            ),
            *(
                f"{name} in {folder} has the shape {shape_text(tuple(stored))} instead of {shape_text(tuple(wanted))}"
                for name, (stored, wanted) in sorted(mismatched.items())
            ),
        ]
    )
    loaded: PreTrainedModel = model.eval()
    return loaded


def put_in(model: Any, tower: Any, language: Any) -> None:
    """Put the tower, the language model and its head into a model of a design that was made on the meta device.

    Raises:
        CheckpointError: the language model is more than a decoder and a linear head.
    """
    head: Any = language.get_output_embeddings()
    base = language.base_model
    is_plain = isinstance(head, nn.Linear) and getattr(head, "bias", None) is None
    if not is_plain or type(base) is not type(model.model.language_model):
        raise CheckpointError(
            f"{type(language).__name__} is not just a decoder and a head without bias: use a LLaMA-like language model."
        )
    model.model.vision_tower, model.model.language_model, model.lm_head = tower, base, head


@torch.no_grad()
def check_text(model: Any, language: Any, placeholders: set[int]) -> None:
    """Check that a few tokens of text give bitwise the same logits in the model and in its language model.

    Args:
        model: the model of the design.
        language: the language model with its head.
        placeholders: ids that are not used for this check.

    Raises:
        CheckpointError: the language model does something that the design does not do.
    """
    name = type(language).__name__
    numbers = torch.linspace(0, language.get_input_embeddings().num_embeddings - 1, 12).long().tolist()
    ids = torch.tensor([[number for number in numbers if number not in placeholders]])
    expected = language(input_ids=ids).logits
    try:
        found = model(input_ids=ids).logits
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = one_line(error, 200)
        raise CheckpointError(
            f"{name} does not accept embeddings ({reason}): use a LLaMA-like language model."
        ) from error
    if not torch.equal(found, expected):
        worst = (found.float() - expected.float()).abs().max().item()
        raise CheckpointError(
            f"{name} does more to its logits than a linear head (they would differ by {worst:.2g}): use a LLaMA-like "
            "language model."
        )


def start_parts(
    model: Any, parts: Iterable[nn.Module], seed: int, dtype: torch.dtype, scale: Callable[[], None] | None = None
) -> int:
    """Initialise parts that have no weights yet, as in a new model of the design.

    The random values are drawn in float32, so that they are the same for every type of weights. The global random state
    is not changed.

    Args:
        model: the base model of the design; its `_init_weights` is used.
        parts: some of its modules.
        seed: random seed.
        dtype: type of the weights.
        scale: changes the size of the new weights, while they are still float32 (`scales.py`).

    Returns:
        The number of values in these parts.

    Raises:
        RuntimeError: `_init_weights` does not initialise a weight.
    """
    parts = list(parts)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for part in parts:
            part.to_empty(device="cpu").float()
            for weight in part.parameters():
                weight.fill_(torch.nan)
            part.apply(model._init_weights)
            if forgotten := [name for name, weight in part.named_parameters() if weight.isnan().any()]:
                raise RuntimeError(f"{type(model).__name__} has no initial weights for {forgotten[0]}.")
        if scale is not None:
            scale()
        for part in parts:
            part.to(dtype)
    return sum(weight.numel() for part in parts for weight in part.parameters())


def language_generation_config(
    folder: Path, raw: dict[str, Any], text_config: Any, tokenizer: Any
) -> tuple[GenerationConfig, list[str]]:
    """Settings for greedy decoding with the language model's token ids, and notes if they do not fit its tokenizer.

    Args:
        folder: folder of the language model. Values in its generation_config.json override those in config.json.
        raw: content of its config.json.
        text_config: its configuration.
        tokenizer: tokenizer of the processor, whose padding token is used; `None` if there is none.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is not a token id.
    """
    ids = token_ids(folder, raw, text_config)
    notes = []
    if tokenizer is not None:
        ids["pad_token_id"] = tokenizer.pad_token_id
        if ids["eos_token_id"] is None:
            ids["eos_token_id"] = tokenizer.eos_token_id
        notes = compare_eos(tokenizer, ids["eos_token_id"])
    return GenerationConfig(do_sample=False, **ids), notes


__all__ = [
    "IMAGE_PROCESSORS",
    "SAMPLING",
    "check_text",
    "language_generation_config",
    "load_language_model",
    "load_part",
    "load_tower",
    "put_in",
    "read_config",
    "read_language_config",
    "read_vision_config",
    "start_parts",
]
