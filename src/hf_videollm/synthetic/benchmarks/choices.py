"""Options for synthetic questions, and videos of which only a part answers them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from ..scene import Scene, answer_vocabulary, make_scene
from .media import Known

__all__ = ["FIVE_OPTIONS", "Part", "options_for", "part_of"]

# Kinds of questions that have at least five possible answers; there are four directions.
FIVE_OPTIONS = ("colour", "shape", "order", "count")
# The scene before the part that is asked about lies so many seeds away, in the same held-out scenes.
_OTHER_SCENE = 5000


def options_for(known: Known, count: int) -> tuple[list[str], int]:
    """Possible answers, the true one among them, in a random order that the question decides, and its number.

    Args:
        count: of the options; fewer where the question has fewer possible answers.
    """
    rng = random.Random(f"{known.scene.seed} {known.qa.kind}")
    answer = known.qa.answer
    # The other shape of a question about order is the only wrong answer that is not easily excluded.
    asked = [sprite.name for sprite in known.scene.sprites if known.qa.kind == "order" and sprite.name != answer]
    others = [each for each in answer_vocabulary(known.qa.kind) if each != answer and each not in asked]
    wrong = [*asked, *rng.sample(others, len(others))][: count - 1]
    options = rng.sample([answer, *wrong], len(wrong) + 1)
    return options, options.index(answer)


class Part(NamedTuple):
    """A video of two scenes, the second of which is asked about.

    Attributes:
        scenes: in their order.
        first: number of the first frame of the part, counted from 0.
        stop: number behind its last frame.
    """

    scenes: Sequence[Scene]
    first: int
    stop: int


def part_of(known: Known) -> Part:
    """The scene of a question behind another one. A loader that loses start and end shows both."""
    other = make_scene(known.scene.seed + _OTHER_SCENE)
    return Part((other, known.scene), other.num_frames, other.num_frames + known.scene.num_frames)
