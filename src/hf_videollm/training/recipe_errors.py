"""The error of everything that is wrong with a recipe, and checks of settings that are a mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..models.video_llm_option_names import did_you_mean

__all__ = ["RecipeError", "is_number", "named_in_errors", "refuse_unknown"]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the file and the field."""


@contextmanager
def named_in_errors(recipe: str) -> Iterator[None]:
    """Inside this context, every `RecipeError` begins with the file or the name of the recipe.

    The fields are checked by functions that know neither.

    Example:
        >>> with named_in_errors("my.yaml"):
        ...     raise RecipeError("lora.r must be at least 1, not 0.")
        Traceback (most recent call last):
        ...
        hf_videollm.training.recipe_errors.RecipeError: my.yaml: lora.r must be at least 1, not 0.
    """
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe}: {error}") from error


def is_number(value: Any) -> bool:
    """Whether a value of a recipe is a number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def refuse_unknown(field: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse settings that a field of a recipe does not have.

    Raises:
        RecipeError: the message names the setting, and a similar one.
    """
    for name in given:
        if name not in known:
            raise RecipeError(f"{field} has no setting {name!r}: {did_you_mean(name, known)}")
