"""Stand-ins of NExT-QA: tables of questions with five options."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .choices import FIVE_OPTIONS, options_for
from .media import known_questions, write_table, write_video

__all__ = ["write_nextqa", "write_nextqa_val"]

_TYPES = {"count": "DC", "order": "TN", "colour": "DO", "shape": "CH"}


def write_nextqa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The test split."""
    _write(folder, "test", count, seed)


def write_nextqa_val(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The validation split, about other clips."""
    _write(folder, "val", count, seed + 1)


def _write(folder: Path, split: str, count: int, seed: int) -> None:
    header = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type", *_names()]
    rows: list[list[str | int]] = []
    asked: Counter[int] = Counter()
    for each in known_questions(count, seed, FIVE_OPTIONS):
        scene = each.scene
        write_video(scene, folder / f"NExTVideo/{scene.seed}.mp4")
        options, right = options_for(each, 5)
        facts = [scene.seed, scene.num_frames, 64, 64]
        rows.append([*facts, each.qa.question, right, asked[scene.seed], _TYPES[each.qa.kind], *options])
        asked[scene.seed] += 1
    write_table(folder / f"{split}.csv", [header, *rows])


def _names() -> list[str]:
    return [f"a{number}" for number in range(5)]
