"""Builds the designs whose parts are a vision tower, a connector and a language model: all designs except LinVT."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..convert.options import check_space
from ..convert.parts import (
    load_language_model,
    load_part,
    load_tower,
    read_config,
    read_language_config,
    read_vision_config,
)
from ..convert.videollama2.beats import convert_beats
from ..models.errors import CheckpointError
from ..models.feature_extraction_beats import BeatsFeatureExtractor
from ..models.modeling_beats import BeatsModel
from .designs import Design
from .joining import check_text, check_tower, join
from .made import Made, mixed_types_note
from .options import make_config, refuse_impossible
from .pixels import image_processor_class, pixel_settings
from .words import build_generation_config, read_words, template_notes


def make_video_llm(
    design: Design,
    places: Mapping[str, Path],
    options: Mapping[str, Any],
    dtype: torch.dtype | None,
    seed: int,
    workspace: Path,
) -> Made:
    """Make a model of a design from its sources.

    Args:
        design: the design.
        places: folders of the sources: `vision`, `language_model`, and optionally `audio` and `tokenizer`.
        options: fields of the design's configuration.
        dtype: type of all weights; `None` keeps the stored types.
        seed: random seed of the new parts.
        workspace: folder for temporary files, on the disk that will hold the result.

    Raises:
        CheckpointError: a source is not what it should be, is damaged, or does not fit.
    """
    folder, vision_folder = places["language_model"], places["vision"]
    text_config, raw = read_language_config(folder)
    vision_config = read_vision_config(vision_folder)
    pixels = pixel_settings(vision_folder, vision_config, design.crops)
    words, ids, notes = read_words(folder, places.get("tokenizer"), design.placeholders, text_config.vocab_size)
    wanted = dtype or "auto"
    audio = load_audio_tower(places["audio"], wanted, workspace) if "audio" in places else None
    values = {
        **design.config.fields_for_parts(vision_config, text_config),
        **options,
        **{f"{modality}_token_id": token_id for modality, token_id in ids.items()},
        "vision_config": vision_config,
        "text_config": text_config,
        **({} if audio is None else {"audio_config": audio.config}),
    }
    config = make_config(design, values)
    with refuse_impossible(design):
        needed = needed_bytes(design, config, dtype)
    check_space(workspace, needed)
    generation_config, more = build_generation_config(folder, raw, text_config, words)
    language = load_language_model(folder, copy.deepcopy(text_config), workspace, wanted)
    tower = load_tower(vision_folder, copy.deepcopy(vision_config), workspace, wanted)

    def check(joined: Any) -> None:
        check_text(joined, language, set(ids.values()))
        check_tower(joined.config.vision_config, vision_folder, lambda frames: count_features(joined.model, frames))

    model, new_parameters = join(design, config, tower, language, audio, seed, check)
    model.config.dtype = dtype or language.dtype
    parts = {"tower": tower, "language model": language, **({} if audio is None else {"audio tower": audio})}
    with refuse_impossible(design):
        processor = make_processor(design, model.config, words, pixels)
    return Made(
        model=model,
        processor=processor,
        generation_config=generation_config,
        new_parts=[name for name in design.new_parts if name in dict(model.model.named_children())],
        new_parameters=new_parameters,
        token_ids=ids,
        notes=[*notes, *more, *mixed_types_note(parts, model.config.dtype), *template_notes(processor)],
    )


def count_features(base: Any, frames: torch.Tensor) -> int:
    """Number of features of one frame that the connector gets."""
    count: int = base.encode_frames(frames).last_hidden_state.shape[1]
    return count


def make_processor(design: Design, config: Any, tokenizer: Any, pixels: Mapping[str, Any]) -> Any:
    """Make the processor for a model.

    Args:
        design: the design of the model.
        config: configuration of the model.
        tokenizer: a tokenizer that has the placeholders.
        pixels: options of the image processor and of the video processor.
    """
    video_options = {**pixels}
    if design.video_processor.num_frames is not None:
        video_options["num_frames"] = config.num_frames
    parts: dict[str, Any] = {
        "image_processor": image_processor_class(config.vision_config)(**pixels),
        "tokenizer": tokenizer,
        "video_processor": design.video_processor(**video_options),
    }
    if "audio" in config.modalities:
        audio = config.audio_config
        parts["feature_extractor"] = BeatsFeatureExtractor(num_mel_bins=audio.num_mel_bins, patch_size=audio.patch_size)
    return design.processor(**parts, **design.processor.options_from_config(config))


def load_audio_tower(place: Path, dtype: torch.dtype | str, workspace: Path) -> Any:
    """Load a BEATs from a folder that `hf-videollm convert beats` wrote, or from the file that this command converts.

    Raises:
        CheckpointError: there is no BEATs, or it is damaged.
    """
    if place.is_file():
        with tempfile.TemporaryDirectory(dir=workspace, prefix="beats.") as temporary:
            convert_beats(place, Path(temporary) / "beats")
            return load_audio_tower(Path(temporary) / "beats", dtype, workspace)
    config = read_config(place)
    if config.model_type != "beats":
        raise CheckpointError(
            f"{place / 'config.json'} describes a model of type {config.model_type!r}, which is no "
            "BEATs: pass Microsoft's .pt, or a "
            "folder that hf-videollm convert beats wrote."
        )
    return load_part(BeatsModel, place, config, workspace, dtype)


def needed_bytes(design: Design, config: Any, dtype: torch.dtype | None) -> int:
    """The least number of bytes of the weights, before they are loaded: two bytes per value if `dtype` is `None`."""
    with torch.device("meta"):
        model = design.model(config)
    tied = config.text_config.vocab_size * config.text_config.hidden_size if config.tie_word_embeddings else 0
    count: int = sum(weight.numel() for weight in model.parameters()) - (0 if _is_shared(model) else tied)
    return count * (dtype.itemsize if dtype is not None else 2)


def _is_shared(model: Any) -> bool:
    """Whether head and embedding are the same tensor, which `parameters()` then counts once."""
    return model.lm_head.weight is model.get_input_embeddings().weight


__all__ = ["make_processor", "make_video_llm"]
