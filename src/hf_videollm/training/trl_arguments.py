"""Arguments of TRL's trainers: what media need is set, and what would lose media is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from ..models.transformers_compat import rename_checkpointing

__all__ = ["ANY", "Refused", "check_arguments", "make_arguments", "refuse_max_length", "types_of"]

# As the values of a `Refused`: every value except `None`.
ANY: tuple[Any, ...] = ()


class Refused(NamedTuple):
    """Values of an argument that are refused.

    Attributes:
        values: the refused values, or `ANY`.
        reason: why, and what to do instead.
    """

    values: tuple[Any, ...]
    reason: str

    def has(self, value: Any) -> bool:
        """Whether this value is refused."""
        return value is not None and (self.values == ANY or value in self.values)


def types_of(config_class: Any) -> dict[str, Any]:
    """Maps the arguments of a configuration of TRL to their types."""
    return {entry.name: entry.type for entry in fields(config_class) if entry.init}


def refuse_max_length(given: Mapping[str, Any], maker: str) -> None:
    """Refuse the argument with which TRL cuts rows.

    Args:
        given: arguments of a configuration.
        maker: the function that refuses longer rows instead.

    Raises:
        ValueError: the argument is given.
    """
    if given.get("max_length") is not None:
        raise ValueError(
            f"max_length={given['max_length']}: rows are never cut, because that would cut the tokens of a video. To "
            f"refuse longer rows, pass max_length to {maker}."
        )


def make_arguments(
    config_class: Any, given: Mapping[str, Any], fixed: Mapping[str, Any], refused: Mapping[str, Refused]
) -> Any:
    """Make a configuration of TRL for training with media.

    On a machine without a GPU, `bf16` and `gradient_checkpointing` are off unless they are asked for, because they only
    cost time there; `report_to` is "none".

    Args:
        config_class: e.g. `trl.SFTConfig`.
        given: the arguments that the user gives.
        fixed: arguments that media need.
        refused: maps names of arguments to the values that are refused.

    Raises:
        ValueError: an argument has a refused value.
        TypeError: there is no such argument; the message names a similar one.
    """
    import torch

    from ..models.video_llm_option_names import did_you_mean

    # Either name of checkpointing will do, whatever release of transformers is installed.
    arguments = rename_checkpointing(given)
    known = types_of(config_class)
    if unknown := sorted(set(arguments) - set(known)):
        raise TypeError(
            f"trl.{config_class.__name__} has no argument {unknown[0]!r}: {did_you_mean(unknown[0], known)}"
        )
    _refuse(arguments, refused)
    without_gpu = arguments.get("use_cpu", False) or not torch.accelerator.is_available()
    quiet = rename_checkpointing({"bf16": False, "gradient_checkpointing": False}) if without_gpu else {}
    return config_class(**{"report_to": "none", **quiet, **arguments, **fixed})


def check_arguments(args: Any, fixed: Mapping[str, Any], refused: Mapping[str, Refused], maker: str) -> None:
    """Refuse a configuration with which TRL would drop or cut media, whoever made it.

    Args:
        args: a configuration of TRL.
        fixed: see `make_arguments`.
        refused: see `make_arguments`.
        maker: name of the function that makes such configurations for media.

    Raises:
        ValueError: an argument does not have the value that media need, or has a refused value.
    """
    values = vars(args)
    if wrong := [name for name, value in fixed.items() if values.get(name) != value]:
        raise ValueError(
            f"{wrong[0]}={values.get(wrong[0])!r} would drop or cut media: make the arguments by "
            f"hf_videollm.{maker}(...)."
        )
    _refuse(values, refused)


def _refuse(values: Mapping[str, Any], refused: Mapping[str, Refused]) -> None:
    for name, entry in refused.items():
        if entry.has(values.get(name)):
            raise ValueError(f"{name}={values[name]}: {entry.reason}")
