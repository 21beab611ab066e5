"""Turns the config.json of an official VideoLLaMA2 checkpoint into our configurations.

The file holds the fields of the language model and a few others (`mm_*`). It names the vision tower, but does not
describe it. Every field is read. If the official code has a default for a missing field, the same default is used here.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ...known_models import KNOWN_TOWERS
from ...models.configuration_beats import BeatsConfig
from ...models.configuration_videollama2 import VideoLlama2Config, connector_preset
from ...models.configuration_videollama2_av import VideoLlama2AVConfig
from ...models.errors import CheckpointError, one_line
from ..configs import config_dtype, tower_config
from ..stream import read_json

# Official `model_type` -> language model. The official loader accepts `videollama2` as an alias.
LANGUAGE_MODELS = {
    "videollama2": "mistral",
    "videollama2_llama": "llama",
    "videollama2_mistral": "mistral",
    "videollama2_mixtral": "mixtral",
    "videollama2_qwen2": "qwen2",
    "videollama2_gemma2": "gemma2",
    "videollama2_phi3": "phi3",
}
# The official code searches the name of the tower for these words, in this order. They are also the model types that
# transformers gives to the complete models, of which the tower is a part.
TOWER_KINDS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
DEFAULT_NUM_FRAMES = 8
DEFAULT_PROJECTOR = "linear"


def read_source_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of an official VideoLLaMA2 checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, already converted, or belongs to another model.
    """
    file = folder / "config.json"
    raw = read_json(file)
    model_type = raw.get("model_type")
    if isinstance(raw.get("text_config"), dict) and str(model_type).startswith(VideoLlama2Config.model_type):
        raise CheckpointError(f"{file} is already converted: load {folder} with from_pretrained.")
    if model_type not in LANGUAGE_MODELS:
        raise CheckpointError(
            f"{file} is no VideoLLaMA2 configuration (model_type {model_type!r}, not one of "
            f"{', '.join(LANGUAGE_MODELS)}). Pass a language model as the base of a partial checkpoint."
        )
    if not isinstance(raw.get("mm_vision_tower"), str):
        raise CheckpointError(f"{file} names no vision tower (mm_vision_tower), so this is only a language model.")
    return raw


def can_hear(raw: dict[str, Any]) -> bool:
    """Whether the checkpoint is a VideoLLaMA2-AV, by the rule of the official code."""
    return raw.get("mm_audio_tower") is not None


def language_model(raw: dict[str, Any]) -> str:
    """Name of the language model in transformers."""
    return LANGUAGE_MODELS[raw["model_type"]]


def build_vision_config(raw: dict[str, Any], description: Path | None, vision: Path | None) -> PreTrainedConfig:
    """Make the configuration of the vision tower.

    Args:
        raw: content of the official config.json.
        description: file with the configuration of the tower, if the user passed one.
        vision: folder of a CLIP or SigLIP, if the user passed one. Its config.json is used if the name is unknown.

    Raises:
        CheckpointError: there is no configuration of the tower, or it is damaged.
    """
    name = raw["mm_vision_tower"]
    if description is None:
        known = next((KNOWN_TOWERS[part] for part in reversed(Path(name.lower()).parts) if part in KNOWN_TOWERS), None)
        if known is not None:
            return tower_config(known, known["model_type"])
        if vision is None or not (vision / "config.json").is_file():
            raise CheckpointError(
                f"The vision tower {name!r} of config.json is not one of {', '.join(KNOWN_TOWERS)}: pass its "
                "configuration (--vision-config FILE)."
            )
        description = vision / "config.json"
    section = read_json(description)
    model_type = section.get("model_type")
    if isinstance(section.get("vision_config"), dict):
        section = section["vision_config"]
    if model_type is None:
        model_type = next((word for word in TOWER_KINDS if word in name.lower()), None)
    model_type = TOWER_KINDS.get(str(model_type), str(model_type))
    if model_type not in TOWER_KINDS.values():
        raise CheckpointError(
            f"{description} describes a tower of the type {model_type!r}: VideoLLaMA2 supports only "
            f"{' and '.join(TOWER_KINDS.values())}."
        )
    try:
        return tower_config(section, model_type)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{description} cannot be used: {one_line(error)}") from error


def build_config(
    raw: dict[str, Any], file: Path, vision_config: Any, audio_config: BeatsConfig | None
) -> tuple[VideoLlama2Config, list[str]]:
    """Make our configuration, and notes on fields that the official inference ignores.

    Args:
        raw: content of the official config.json.
        file: its path, for messages.
        vision_config: configuration of the vision tower.
        audio_config: configuration of BEATs; `None` for a checkpoint without audio.

    Raises:
        CheckpointError: a value is missing or impossible, or one with which the original code does not run.
    """
    if "mm_vision_select_layer" not in raw:
        raise CheckpointError(f"{file} has no mm_vision_select_layer, which the original needs (-2 in all recipes).")
    num_frames = raw.get("num_frames")
    projector = raw.get("mm_projector_type", DEFAULT_PROJECTOR)
    fields: dict[str, Any] = {
        "vision_config": vision_config,
        "num_frames": DEFAULT_NUM_FRAMES if num_frames is None else num_frames,
        "connector_type": projector,
        "vision_feature_layer": raw["mm_vision_select_layer"],
        "vision_feature_select_strategy": _select_strategy(raw, file, vision_config.model_type),
        "tie_word_embeddings": False,
        "dtype": config_dtype(raw, file),
    }
    config_class: type[VideoLlama2Config] = VideoLlama2Config
    if audio_config is not None:
        config_class = VideoLlama2AVConfig
        fields |= {"audio_config": audio_config, "audio_projector_depth": _audio_depth(raw, file)}
    try:
        config = config_class(text_config=tower_config(raw, language_model(raw)), **fields)
        config.validate()
        # This raises an error for impossible settings now, instead of for the first video.
        config.num_video_tokens(config.num_frames)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} cannot be converted: {one_line(error)}") from error
    width = raw.get("mm_hidden_size", vision_config.hidden_size)
    if width != vision_config.hidden_size:
        raise CheckpointError(
            f"{file}: mm_hidden_size {width} does not fit a vision tower of width {vision_config.hidden_size}: pass "
            "the configuration of the right tower (--vision-config)."
        )
    return config, _notes(raw, file)


def _select_strategy(raw: dict[str, Any], file: Path, tower: str) -> str:
    feature = raw.get("mm_vision_select_feature", "patch")
    if feature == "patch":
        # CLIP's class token is dropped; SigLIP has none.
        return "default" if tower == "clip_vision_model" else "full"
    if feature == "cls_patch" and tower == "clip_vision_model":
        return "full"
    raise CheckpointError(f"{file}: mm_vision_select_feature {feature!r} does not run with {tower}.")


def _audio_depth(raw: dict[str, Any], file: Path) -> int:
    """Number of linear layers of the audio projector."""
    name = raw.get("mm_projector_a_type", DEFAULT_PROJECTOR)
    if name == "linear" or str(name).startswith("mlp"):
        try:
            return connector_preset(str(name))["mlp_depth"]
        except ValueError:
            pass
    raise CheckpointError(f"{file}: mm_projector_a_type {name!r} is unknown, only linear and mlp<N>x_gelu are.")


def _notes(raw: dict[str, Any], file: Path) -> list[str]:
    notes = []
    if raw.get("image_aspect_ratio") == "pad":
        notes.append(
            f"image_aspect_ratio 'pad' in {file} was used in training. The official inference does not pad, and the "
            'converted processor does not either; processor.video_processor.padding_mode = "pad" pads.'
        )
    return notes


__all__ = ["build_config", "build_vision_config", "can_hear", "language_model", "read_source_config"]
