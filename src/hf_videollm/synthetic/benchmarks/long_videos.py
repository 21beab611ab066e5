"""Stand-ins of MLVU and LongVideoBench, with short clips in place of long videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.mlvu import SUB_TASKS
from .choices import options_for
from .media import known_questions, write_json, write_video

__all__ = ["write_longvideobench", "write_mlvu"]


def write_mlvu(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with four options, dealt out to the seven lists."""
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in SUB_TASKS}
    for number, each in enumerate(known_questions(count, seed)):
        name = list(SUB_TASKS)[number % len(SUB_TASKS)]
        write_video(each.scene, folder / f"video/{name}/{each.clip}.mp4")
        lists[name].append(
            {
                "video": f"{each.clip}.mp4",
                "duration": each.scene.duration,
                "question": each.qa.question,
                "candidates": options_for(each, 4)[0],
                "answer": each.qa.answer,
                "question_type": SUB_TASKS[name],
            }
        )
    for name, rows in lists.items():
        write_json(folder / f"json/{name}.json", rows)


def write_longvideobench(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The list of the validation part, with two to five options."""
    rows = []
    for number, each in enumerate(known_questions(count, seed)):
        write_video(each.scene, folder / f"videos/{each.clip}.mp4")
        options, right = options_for(each, 2 + number % 4)
        rows.append(
            {
                "id": f"{each.clip}_{number}",
                "video_id": each.clip,
                "video_path": f"{each.clip}.mp4",
                "subtitle_path": f"{each.clip}_en.json",
                "question": each.qa.question,
                "question_category": ("S2E", "T3O", "SSS")[number % 3],
                "candidates": options,
                "correct_choice": right,
                "duration": each.scene.duration,
                "duration_group": (15, 60, 600, 3600)[number % 4],
                "starting_timestamp_for_subtitles": 0,
            }
        )
    write_json(folder / "lvb_val.json", rows)
