"""The options of `lora` in a recipe, checked before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .argument_rules import ABOVE_0, BELOW_1, FROM_1, check_ranges
from .recipe_errors import RecipeError, is_number
from .recipe_settings import number_arguments
from .trainable import compiled

__all__ = ["check_patterns_match", "read_lora"]

RANGES = {"r": FROM_1, "lora_alpha": ABOVE_0, "lora_dropout": BELOW_1}
# Options that name modules: a pattern, or a list of names.
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
# Options that map a pattern of names of modules to a number for these.
PATTERNS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
ALL = "all-linear"


def read_lora(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `peft.LoraConfig`, with numbers where YAML has read texts.

    Raises:
        RecipeError: an option is unknown, or has a value that is impossible.

    Example:
        >>> read_lora({"r": 8, "lora_dropout": "1e-1"})
        {'r': 8, 'lora_dropout': 0.1}
    """
    from peft import LoraConfig

    kinds = {entry.name: entry.type for entry in fields(LoraConfig) if entry.init}
    if unknown := sorted(set(given) - set(kinds)):
        raise RecipeError(f"lora: peft.LoraConfig has no {unknown[0]!r}: {did_you_mean(unknown[0], kinds)}")
    # PEFT calls alpha a whole number, but computes with any.
    options = number_arguments(given, {**kinds, "lora_alpha": float}, "lora")
    check_ranges("lora", options, RANGES)
    for name in NAMES:
        if options.get(name) is not None:
            _check_names(name, options[name])
    for name, option in PATTERNS.items():
        _check_pattern(name, options.get(name) or {}, option)
    return options


def check_patterns_match(options: Mapping[str, Any], adapted: list[str]) -> None:
    """Refuse a `rank_pattern` or `alpha_pattern` for modules that get no LoRA.

    Args:
        options: of the LoRA.
        adapted: names of the modules that have a LoRA.

    Raises:
        RecipeError: a pattern matches none of them.
    """
    for name in PATTERNS:
        for pattern in options.get(name) or {}:
            # PEFT looks for the pattern at the end of a name.
            expression = compiled(rf"(.*\.)?({pattern})$", f"lora.{name}")
            if not any(expression.match(module) for module in adapted):
                raise RecipeError(
                    f"lora.{name}: {pattern!r} matches no module with a LoRA: their names are like {adapted[0]!r}."
                )


def _check_names(name: str, value: Any) -> None:
    listed = value if isinstance(value, list | tuple | set) else [value]
    if not listed or not all(isinstance(entry, str) and entry for entry in listed):
        raise RecipeError(f"lora.{name} must be a list of names of modules, such as [q_proj, v_proj], not {value!r}.")
    if isinstance(value, str) and value != ALL:
        compiled(value, f"lora.{name}")


def _check_pattern(name: str, value: Any, option: str) -> None:
    if not isinstance(value, Mapping):
        raise RecipeError(f"lora.{name} must map names of modules to numbers, such as {{q_proj: 4}}, not {value!r}.")
    for pattern, number in value.items():
        if not is_number(number) or (option == "r" and not isinstance(number, int)) or not RANGES[option].holds(number):
            kind = "a whole number" if option == "r" else "a number"
            raise RecipeError(f"lora.{name}.{pattern} must be {kind} {RANGES[option].words}, not {number!r}.")
        compiled(pattern, f"lora.{name}")
