"""Changes to a recipe from the command line (`--set arguments.max_steps=100`), and numbers that YAML reads as texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from ..models.video_llm_option_names import did_you_mean
from .recipe_errors import RecipeError

__all__ = ["as_number", "number_arguments", "with_settings"]


def with_settings(content: Mapping[str, Any], settings: Iterable[str], known: Collection[str]) -> dict[str, Any]:
    """The content of a recipe with some values changed.

    Args:
        content: of the file. It does not change.
        settings: `FIELD=VALUE` or `FIELD.KEY=VALUE`; a value is YAML. An empty value takes the entry out.
        known: names of the fields of recipes.

    Raises:
        RecipeError: a setting has another form, names no field, or names a key of a field that has none.

    Example:
        >>> with_settings({"arguments": {"seed": 1}}, ["arguments.learning_rate=1e-4"], ["arguments"])
        {'arguments': {'seed': 1, 'learning_rate': 0.0001}}
    """
    changed = copy.deepcopy(dict(content))
    for setting in settings:
        path, sign, text = setting.partition("=")
        name, _, key = path.partition(".")
        if not (sign and path) or (("." in path) and not key):
            raise RecipeError(f"--set must be FIELD=VALUE or FIELD.KEY=VALUE, such as lora.r=64, not {setting!r}.")
        if name not in known:
            raise RecipeError(f"--set {setting}: a recipe has no field {name!r}: {did_you_mean(name, known)}")
        try:
            value = as_number(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting}: the value is not valid YAML ({error}).") from error
        place: Any = changed
        if key:
            place = changed.get(name)
            if place is None:
                place = changed[name] = {}
            if not isinstance(place, dict):
                raise RecipeError(f"--set {setting}: {name} is {place!r}, which has no keys: set the whole field.")
        last = key or name
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return changed


def as_number(value: Any) -> Any:
    """A text that is a number as this number; everything else unchanged. YAML reads `1e-3`, without a dot, as a text.

    Example:
        >>> as_number("1e-3"), as_number("cosine"), as_number(2)
        (0.001, 'cosine', 2)
    """
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def number_arguments(
    arguments: Mapping[str, Any], kinds: Mapping[str, Any], field: str = "arguments"
) -> dict[str, Any]:
    """Arguments of a trainer in which texts have become numbers, where numbers belong.

    Args:
        arguments: as the recipe gives them.
        kinds: names of all arguments and their types, as annotations.
        field: of the recipe, for messages.

    Raises:
        RecipeError: an argument that must be a number, a text, or yes or no, is something else.

    Example:
        >>> number_arguments({"learning_rate": "1e-3"}, {"learning_rate": float})
        {'learning_rate': 0.001}
    """
    changed = dict(arguments)
    for name, value in arguments.items():
        allowed = _names_of(kinds.get(name))
        wanted = next((words for words, types in _WANTED.items() if allowed and allowed - {"None"} <= types), None)
        if wanted is None or (value is None and "None" in allowed):
            continue
        if value is None:
            raise RecipeError(f"{field}: {name} must be {wanted}, not empty: leave it out.")
        number = value if "str" in allowed else as_number(value)
        if not _fits(number, allowed):
            raise RecipeError(f"{field}: {name} must be {wanted}, not {value!r}.")
        if isinstance(number, float) and not math.isfinite(number):
            raise RecipeError(f"{field}: {name} must be a finite number, not {value!r}.")
        changed[name] = number
    return changed


# What a value must be -> the types, of which an annotation names some.
_WANTED: dict[str, set[str]] = {
    "true or false": {"bool"},
    "a whole number": {"int"},
    "a number": {"int", "float", "bool"},
    "a text": {"str"},
}


def _names_of(kind: Any) -> set[str]:
    """Names of the types of an annotation, such as `int | None`, `Optional[int]` or a text."""
    if isinstance(kind, str):
        return set(kind.replace(" ", "").split("|"))
    if get_origin(kind) in (Union, UnionType):
        return set().union(*(_names_of(inner) for inner in get_args(kind)))
    if kind is None:
        return set()
    if kind is type(None):
        return {"None"}
    return {kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)}


def _fits(value: Any, allowed: Collection[str]) -> bool:
    if "str" in allowed:
        return isinstance(value, str | PathLike)
    if isinstance(value, bool):
        return "bool" in allowed
    if isinstance(value, int):
        return bool({"int", "float"} & set(allowed))
    return isinstance(value, float) and "float" in allowed
