"""Turns configurations of official checkpoints into configurations of transformers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_config import check_config_values
from .options import DTYPES
from .stream import read_json

# Fields that no tensor shape reveals. A base with other values is probably the wrong base.
SILENT_FIELDS = ("rope_theta", "rms_norm_eps", "num_attention_heads", "hidden_act", "rope_scaling")
# Fields that do not describe the architecture: the first is left from training and would make generation slow, the
# second has no effect.
DROPPED_FIELDS = ("use_cache", "pretraining_tp")


def config_dtype(raw: Mapping[str, Any], file: Path) -> torch.dtype | None:
    """The `torch_dtype` of a config.json; `None` if it has none.

    Raises:
        CheckpointError: the type is not one in which weights can be stored.
    """
    name = raw.get("torch_dtype", raw.get("dtype"))
    if name in (None, "auto"):
        return None
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise CheckpointError(f"{file}: torch_dtype {name!r} is not one of {', '.join(DTYPES)}.")
    return dtype


def tower_config(
    section: Mapping[str, Any], model_type: str, defaults: Mapping[str, Any] | None = None
) -> PreTrainedConfig:
    """Make the configuration of a tower or language model from the fields that describe its architecture.

    Args:
        section: fields of an official config.json. Fields that this model does not have are ignored.
        model_type: name of the model in transformers.
        defaults: values for fields that are absent or null, if the file was written with other defaults than those of
            today's transformers.

    Raises:
        ValueError: the name is unknown.
    """
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type {model_type!r} is unknown to transformers.")
    config_class = CONFIG_MAPPING[model_type]
    known = {entry.name for entry in dataclasses.fields(config_class)} | {"rope_theta", "rope_scaling"}
    known -= {entry.name for entry in dataclasses.fields(PreTrainedConfig)} | set(DROPPED_FIELDS)
    values = dict(defaults or {})
    for name in known & section.keys():
        # If a default is known, null means this default. Otherwise null may be a value itself.
        if section[name] is not None or (name not in values and name != "rope_scaling"):
            values[name] = section[name]
    return config_class(**values)


def token_ids(source: Path, raw: Mapping[str, Any], text: Any) -> dict[str, Any]:
    """The token ids for the beginning of a text, the end of a text, and padding.

    Args:
        source: checkpoint folder. Values in its generation_config.json override those in config.json.
        raw: content of the official config.json.
        text: configuration of the language model, for ids that both files lack.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is not a token id.
    """
    file = source / "generation_config.json"
    stored = read_json(file) if file.is_file() else {}
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = next((place[name] for place in (stored, raw) if place.get(name) is not None), getattr(text, name, None))
        allowed = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(item is None or (isinstance(item, int) and not isinstance(item, bool)) for item in allowed):
            place = file if name in stored else source / "config.json"
            raise CheckpointError(f"{place}: {name} {value!r} is not a token id.")
        ids[name] = value
    return ids


def compare_bases(theirs: Any, ours: Any, file: Path) -> list[str]:
    """Notes on fields of a base's language model that contradict the source, whose values are used.

    Args:
        theirs: fields of the base's language model.
        ours: fields of the source's language model.
        file: config.json of the base.
    """
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return []
    return [
        f"{name} of the language model is {theirs[name]} in {file} and {ours[name]} in the source, which is used: "
        "is this the base that it was trained from?"
        for name in SILENT_FIELDS
        if name in theirs and name in ours and theirs[name] != ours[name]
    ]


def pixel_options(vision: Any) -> dict[str, Any]:
    """Options that image and video processor share.

    For CLIP, the short side is resized and a square is cropped. For SigLIP, the image is resized to a square without
    cropping.
    """
    size = vision.image_size
    if vision.model_type == "clip_vision_model":
        return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return {
        "size": {"height": size, "width": size},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def check_raw_config(content: Mapping[str, Any], file: Path) -> None:
    """Raise `CheckpointError` if a configuration holds impossible numbers, or is nested too deeply."""
    try:
        check_config_values(content)
    except ValueError as error:
        raise CheckpointError(f"{file} describes no model that can be built ({error}).") from error
