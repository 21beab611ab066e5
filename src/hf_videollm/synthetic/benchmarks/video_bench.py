"""Stand-in of Video-Bench: its thirteen lists, and the answers, as somebody has them who runs the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.video_bench import SETS
from .choices import FIVE_OPTIONS, options_for
from .media import known_questions, write_json, write_video

__all__ = ["write_video_bench"]

# The lists of these sets hold their answers.
_WITH_ANSWERS = ("MOT", "Driving-exam")


def write_video_bench(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with two to six options, where there are so many answers, dealt out to the sets."""
    lists: dict[str, dict[str, Any]] = {name: {} for name in SETS}
    answers: dict[str, dict[str, str]] = {}
    for number, each in enumerate(known_questions(count, seed, FIVE_OPTIONS)):
        name = list(SETS)[number % len(SETS)]
        path = f"Eval_video/{name}/v_{each.clip}.mp4"
        write_video(each.scene, folder / path)
        options, right = options_for(each, 2 + number % 5)
        letters = "ABCDEF"[: len(options)]
        row = {
            "vid_path": path,
            "video_id": each.clip,
            "question": each.qa.question,
            "choices": dict(zip(letters, options, strict=True)),
        }
        if name in _WITH_ANSWERS:
            row["answer"] = letters[right]
        else:
            answers.setdefault(name, {})[f"v_{each.clip}_{number}"] = letters[right]
        lists[name][f"v_{each.clip}_{number}"] = row
    for name, rows in lists.items():
        write_json(folder / f"Eval_QA/{name}_QA_new.json", rows)
    write_json(folder / "answers.json", answers)
