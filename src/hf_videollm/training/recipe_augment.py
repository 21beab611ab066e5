"""The settings of a recipe for other frames and pictures in each epoch (`augmenting.py`), without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .recipe_errors import RecipeError, is_number, refuse_unknown

__all__ = ["Augment", "read_augment"]

SAMPLINGS = ("uniform", "random")


@dataclass(frozen=True)
class Augment:
    """What changes in training, and never in an evaluation.

    Attributes:
        frames: `random`: a random frame of each segment of the video; `uniform`: as the design samples.
        num_frames: smallest and largest number of frames; one is drawn for each video. None: as the design samples.
        crop: smallest share of the area of the pictures that is kept, at a random place. 1 keeps all.
        flip: probability that the pictures of a video are mirrored.
    """

    frames: str = "uniform"
    num_frames: tuple[int, int] | None = None
    crop: float = 1.0
    flip: float = 0.0


def read_augment(given: Mapping[str, Any] | None) -> Augment | None:
    """The settings that a recipe gives as `augment`; None if nothing changes.

    Raises:
        RecipeError: a setting is unknown or impossible.
    """
    if given is None:
        return None
    refuse_unknown("augment", given, tuple(Augment.__dataclass_fields__))
    values = dict(given)
    if values.get("frames", "uniform") not in SAMPLINGS:
        raise RecipeError(f"augment.frames is {values['frames']!r}: {did_you_mean(values['frames'], SAMPLINGS)}")
    for name, least in (("crop", "above 0"), ("flip", "from 0")):
        value = values.get(name, 1)
        if not is_number(value) or not 0 <= value <= 1 or (name == "crop" and value == 0):
            raise RecipeError(f"augment.{name} must be a number {least} to 1, not {value!r}.")
    if (numbers := values.get("num_frames")) is not None:
        whole = isinstance(numbers, list | tuple) and all(type(number) is int and number > 0 for number in numbers)
        if not whole or len(numbers) != 2 or numbers[0] > numbers[1]:
            raise RecipeError(
                f"augment.num_frames must be the smallest and the largest number, such as [40, 60], not {numbers!r}."
            )
        values["num_frames"] = tuple(numbers)
    found = Augment(**values)
    return None if found == Augment() else found
