"""The settings of the contrastive loss in a recipe (`contrastive.py`). This file imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .recipe_errors import RecipeError, is_number, refuse_unknown

__all__ = ["Contrastive", "read_contrastive"]


@dataclass(frozen=True)
class Contrastive:
    """Settings of the loss.

    Attributes:
        weight: factor of this loss; 0 leaves it out.
        temperature: by which the cosines are divided.
    """

    weight: float = 0.1
    temperature: float = 0.07


def read_contrastive(given: Mapping[str, Any] | None) -> Contrastive | None:
    """The settings that a recipe gives as `contrastive`; None if the loss is left out.

    Raises:
        RecipeError: a setting is unknown or impossible.
    """
    if given is None:
        return None
    refuse_unknown("contrastive", given, tuple(Contrastive.__dataclass_fields__))
    for name, value in given.items():
        if not is_number(value) or not 0 <= value < float("inf") or (name == "temperature" and value == 0):
            least = "of at least 0" if name == "weight" else "above 0"
            raise RecipeError(f"contrastive.{name} must be a number {least}, not {value!r}.")
    found = Contrastive(**given)
    return found if found.weight else None
