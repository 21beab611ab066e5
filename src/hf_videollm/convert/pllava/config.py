"""Turns the config.json of an official PLLaVA checkpoint into a `PllavaConfig` and generation settings.

The released files leave out many fields, for which the defaults of transformers 4.37 hold. These defaults are written
here, so that later changes of the defaults cannot change a converted checkpoint.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig

from ...models.configuration_pllava import PllavaConfig
from ...models.errors import CheckpointError, one_line
from ..configs import config_dtype, token_ids, tower_config
from ..stream import read_json

# `model_type` and `architectures` of the released files name other models. These three fields identify PLLaVA.
PLLAVA_FIELDS = ("pooling_shape", "num_frames", "frame_shape")

LLAMA_DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
# The tower if the file names none: CLIP ViT-L/14 at 336 pixels.
DEFAULT_TOWER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
DEFAULT_IMAGE_TOKEN = 32000


def read_source_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a PLLaVA checkpoint. It is recognised by its fields, not by its `model_type`.

    Raises:
        CheckpointError: the file is missing, damaged, already converted, or belongs to another model.
    """
    file = folder / "config.json"
    raw = read_json(file)
    missing = [name for name in PLLAVA_FIELDS if name not in raw]
    if not missing:
        return raw
    if raw.get("model_type") == PllavaConfig.model_type:
        raise CheckpointError(f"{file} is already converted: load {folder} with from_pretrained.")
    raise CheckpointError(
        f"{file} is no PLLaVA configuration: it has no {', '.join(missing)} (model_type {raw.get('model_type')!r}). "
        "Pass a LLaVA-NeXT folder as the base of a partial checkpoint, not as the source."
    )


def build_config(raw: dict[str, Any], file: Path) -> tuple[PllavaConfig, list[str]]:
    """Make our configuration, and notes on fields that have no effect.

    Args:
        raw: content of the official config.json.
        file: its path, for messages.

    Raises:
        CheckpointError: a value is impossible, or one with which the original code does not run.
    """
    text_section, vision_section = _section(raw, "text_config", file), _section(raw, "vision_config", file)
    if not vision_section:
        vision_section = DEFAULT_TOWER
    if "vocab_size" not in text_section:
        text_section = {**text_section, "vocab_size": raw.get("vocab_size", 32000)}
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise CheckpointError(f"{file}: vision_feature_select_strategy {strategy!r} does not run, only 'default' does.")
    image_token_id = raw.get("image_token_index", DEFAULT_IMAGE_TOKEN)
    dtype = config_dtype(raw, file)
    try:
        config = PllavaConfig(
            vision_config=_tower(vision_section, "clip_vision_model", CLIP_DEFAULTS),
            text_config=_tower(text_section, "llama", LLAMA_DEFAULTS),
            image_token_id=image_token_id,
            video_token_id=image_token_id,
            num_frames=raw["num_frames"],
            pooling_shape=raw["pooling_shape"],
            projector_hidden_act=raw.get("projector_hidden_act", "gelu"),
            vision_feature_layer=raw.get("vision_feature_layer", -2),
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            dtype=dtype,
        )
        config.validate()
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} cannot be converted: {one_line(error)}") from error
    _check_grid(config, raw["frame_shape"], file)
    return config, _notes(raw, file)


def _section(raw: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    section = raw.get(name) or {}
    if not isinstance(section, dict):
        raise CheckpointError(f"{file}: {name} must be an object, not {type(section).__name__}.")
    return section


def _tower(section: dict[str, Any], model_type: str, defaults: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a tower. The defaults are used only if the section does not name another model."""
    if (named := section.get("model_type") or model_type) != model_type:
        return tower_config(section, named)
    return tower_config(section, model_type, defaults)


def _check_grid(config: PllavaConfig, frame_shape: Any, file: Path) -> None:
    vision: Any = config.vision_config
    rows = vision.image_size // vision.patch_size
    if frame_shape not in ([rows, rows], (rows, rows)):
        raise CheckpointError(
            f"{file}: frame_shape {frame_shape} does not fit a tower of {vision.image_size} pixels in patches of "
            f"{vision.patch_size}, which gives [{rows}, {rows}]."
        )


def _notes(raw: dict[str, Any], file: Path) -> list[str]:
    notes = []
    if raw.get("pooling_method", "avg") != "avg":
        notes.append(
            f"pooling_method {raw['pooling_method']!r} in {file} has no effect: the original always averages, so do we."
        )
    if raw.get("use_pooling") is False:
        notes.append(f"use_pooling=false in {file} has no effect: the original pools even then, so do we.")
    return notes


def build_generation_config(source: Path, raw: dict[str, Any], config: PllavaConfig) -> GenerationConfig:
    """Greedy decoding, as in the official evaluation, with the token ids of the checkpoint.

    Args:
        source: checkpoint folder; values in its generation_config.json override those in config.json.
        raw: content of the official config.json.
        config: converted configuration.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is not a token id.
    """
    return GenerationConfig(do_sample=False, **token_ids(source, raw, config.text_config))


__all__ = ["build_config", "build_generation_config", "read_source_config"]
