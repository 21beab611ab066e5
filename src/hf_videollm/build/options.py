"""Checks the fields of a design's configuration that the user sets, and makes the configuration from them."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig

from .. import designs
from ..models.configuration_linvt import LinVTConfig, LinVTModuleConfig
from ..models.errors import CheckpointError, one_line
from ..models.video_llm_checkpoint_config import IMPOSSIBLE, check_config_values
from .designs import Design, load_design

# Fields that the sources or a later training determine.
TAKEN = (
    "vision_config",
    "text_config",
    "audio_config",
    "backbone_config",
    "linvt_config",
    "tie_word_embeddings",
    "backbone_name",
    "lora_adapter",
    "lora_alpha",
    "lora_training_alpha",
    "lora_merged_alpha",
)


def find_design(name: str) -> Design:
    """Find a design by its name.

    Raises:
        CheckpointError: there is no such design; the message lists the names.
    """
    key = name.replace("-", "_").lower()
    known = designs.buildable()
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CheckpointError(f"There is no design {name!r}: choose one of {', '.join(known)}.{hint}")
    return load_design(designs.DESIGNS[key])


def check_options(design: Design, options: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for an option that is no field of the design's configuration.

    Impossible numbers are refused here, before anything is built with them.
    """
    fields = _own_fields(design.config)
    if design.config is LinVTConfig:
        fields |= _own_fields(LinVTModuleConfig)
    for name in options:
        if name in TAKEN or name.endswith("_token_id"):
            raise CheckpointError(f"{name} is determined by the sources of a build, and cannot be set (--set).")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"its fields are {', '.join(sorted(fields - set(TAKEN)))}."
            raise CheckpointError(f"{design.config.__name__} has no field {name}: {hint}")
    with refuse_impossible(design):
        check_config_values(options)


@contextmanager
def refuse_impossible(design: Design) -> Iterator[None]:
    """Turn any error that impossible values of the configuration cause into an error of one line.

    Raises:
        CheckpointError: no model can be built from these sources and options.
    """
    try:
        yield
    except CheckpointError:
        raise
    except IMPOSSIBLE as error:
        reason = one_line(error.__cause__ or error, 300)
        if isinstance(error, KeyError):
            reason = f"there is no {reason}"
        name = design.config.model_type
        raise CheckpointError(
            f"No {name} can be built from these sources and options: {reason or type(error).__name__}"
        ) from error


def make_config(design: Design, values: Mapping[str, Any]) -> Any:
    """Make the configuration of a design.

    Raises:
        CheckpointError: no model can be built from these values.
    """
    with refuse_impossible(design):
        config = design.config(**values)
        config.validate()
    return config


def _own_fields(config_class: Any) -> set[str]:
    known = set(PreTrainedConfig.__dataclass_fields__)
    return {name for name in config_class.__dataclass_fields__ if name not in known}


__all__ = ["check_options", "find_design", "make_config", "refuse_impossible"]
