"""Stand-in of ActivityNet-QA, as its authors publish it."""

from __future__ import annotations

from pathlib import Path

from .media import known_questions, write_video
from .open_qa import write_question_and_answer_files

__all__ = ["write_activitynet_qa"]

# Kind of a synthetic question -> number of the nearest type of the set.
_TYPES = {"direction": 0, "order": 2, "colour": 4, "shape": 5, "count": 7}


def write_activitynet_qa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about videos whose files have the prefix `v_`, which the lists leave out."""
    known = known_questions(count, seed)
    for each in known:
        write_video(each.scene, folder / f"all_test/v_{each.clip}.mp4")
    write_question_and_answer_files(
        folder,
        known,
        lambda each: each.clip,
        lambda number, each: f"v_{each.clip}_{number}",
        lambda each: _TYPES[each.qa.kind],
    )
