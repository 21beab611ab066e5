"""Stand-ins of MLVU and LongVideoBench, with short clips in place of long videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.mlvu import SUB_TASKS
from .choices import options_for
from .media import known_questions, write_json, write_video

__all__ = ["write_longvideobench", "write_longvideobench_subtitles", "write_mlvu"]

# Subtitles count from the beginning of the video that a clip was cut out of.
_CUT_AT = 100


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
    _write_longvideobench(folder, count, seed)


def _write_longvideobench(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
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
                "starting_timestamp_for_subtitles": _CUT_AT,
            }
        )
    write_json(folder / "lvb_val.json", rows)
    return rows


def write_longvideobench_subtitles(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The same with subtitles, in the two forms that the benchmark has."""
    for number, row in enumerate(_write_longvideobench(folder, count, seed)):
        lines = [(tenths / 10 + _CUT_AT, f"Half second {tenths // 5 + 1}.") for tenths in range(0, 25, 5)]
        path = folder / "subtitles" / row["subtitle_path"]
        write_json(path, [_line(start, text, clock=bool(number % 2)) for start, text in lines])


def _line(start: float, text: str, clock: bool) -> dict[str, Any]:
    if not clock:
        return {"timestamp": [start, start + 0.5], "text": text}
    begin, end = (f"00:{int(time) // 60:02d}:{time % 60:06.3f}" for time in (start, start + 0.5))
    return {"start": begin, "end": end, "line": text}
