"""Stand-in of MVBench: its twenty lists, with whole videos, parts of videos, and folders of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.mvbench import FRAMES_FPS, SUB_TASKS, SubTask
from .choices import options_for, part_of
from .media import Known, known_questions, write_frames, write_json, write_scenes, write_video

__all__ = ["write_mvbench"]

# The formats of the sets that the videos come from, where it is not MP4.
_SUFFIXES = {"AA": ".webm", "FP": ".avi"}


def write_mvbench(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with two to five options, dealt out to the sub-tasks."""
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in SUB_TASKS}
    for number, each in enumerate(known_questions(count, seed)):
        name = list(SUB_TASKS)[number % len(SUB_TASKS)]
        options, _ = options_for(each, 2 + number % 4)
        lists[name].append(
            {
                **_write_video(folder / "video", SUB_TASKS[name], each),
                "question": each.qa.question,
                "candidates": options,
                "answer": each.qa.answer,
            }
        )
    for name, rows in lists.items():
        write_json(folder / f"json/{name}.json", rows)


def _write_video(folder: Path, sub_task: SubTask, known: Known) -> dict[str, Any]:
    """Write a video and give back what its row says of it."""
    place = folder / sub_task.folder
    if not sub_task.bounded:
        name = known.clip + _SUFFIXES.get(sub_task.abbreviation, ".mp4")
        write_video(known.scene, place / name)
        return {"video": name}
    part = part_of(known)
    if sub_task.frames:
        write_frames(part.scenes, place / known.clip)
        # Frames are counted from 1 by the rule that reads them.
        return {"video": known.clip, "start": (part.first + 1) / FRAMES_FPS, "end": part.stop / FRAMES_FPS}
    fps, name = known.scene.fps, f"{known.clip}.mp4"
    write_scenes(part.scenes, place / name, fps)
    # Inside the first and the last frame, because some papers round and some cut.
    return {"video": name, "start": (part.first + 0.4) / fps, "end": (part.stop - 0.1) / fps}
