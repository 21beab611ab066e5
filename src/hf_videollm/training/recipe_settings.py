"""Changes to a recipe from the command line (`--set arguments.max_steps=100`), and numbers that YAML reads as texts."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

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


def number_arguments(arguments: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a trainer in which texts have become numbers, where numbers belong.

    Args:
        arguments: as the recipe gives them.
        kinds: names of all arguments and their types, as annotations.

    Raises:
        RecipeError: an argument that must be a number, or yes or no, is something else.

    Example:
        >>> number_arguments({"learning_rate": "1e-3"}, {"learning_rate": float})
        {'learning_rate': 0.001}
    """
    changed = dict(arguments)
    for name, value in arguments.items():
        kind = kinds.get(name)
        allowed = set((kind.__name__ if isinstance(kind, type) else str(kind)).replace(" ", "").split("|"))
        if value is None or not allowed & {"int", "float", "bool"} or not allowed <= {"int", "float", "bool", "None"}:
            continue
        number = as_number(value)
        if not _fits(number, allowed):
            wanted = "a number" if allowed & {"int", "float"} else "true or false"
            raise RecipeError(f"arguments: {name} must be {wanted}, not {value!r}.")
        changed[name] = number
    return changed


def _fits(value: Any, allowed: Collection[str]) -> bool:
    if isinstance(value, bool):
        return "bool" in allowed
    if isinstance(value, int):
        return bool({"int", "float"} & set(allowed))
    return isinstance(value, float) and "float" in allowed
