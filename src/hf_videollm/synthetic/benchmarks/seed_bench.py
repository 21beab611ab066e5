"""Stand-in of SEED-Bench: questions about videos, parts in seconds and parts in frames, and some about pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.seed_bench import BREAKFAST_FPS
from .choices import options_for, part_of
from .media import Known, known_questions, write_json, write_scenes, write_video

__all__ = ["write_seed_bench_video"]

_TYPES = {"Scene Understanding": 1, "Action Recognition": 10, "Action Prediction": 11, "Procedure Understanding": 12}


def write_seed_bench_video(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The three dimensions about videos in turn, behind two questions about pictures, which are no items."""
    rows: list[dict[str, Any]] = []
    asked = known_questions(count, seed)
    for each in asked[:2]:
        rows.append({**_row(each, len(rows), 1), "data_type": "image", "data_id": f"{each.clip}_picture"})
    for number, each in enumerate(asked):
        kind = 10 + number % 3
        rows.append({**_row(each, len(rows), kind), "data_type": "video", **_write_video(folder, each, kind)})
    write_json(folder / "SEED-Bench.json", {"questions": rows, "question_type": _TYPES})


def _row(known: Known, number: int, kind: int) -> dict[str, Any]:
    options, right = options_for(known, 4)
    return {
        "answer": "ABCD"[right],
        **{f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)},
        "question": known.qa.question,
        "question_id": str(100_000 + number),
        "question_type_id": kind,
    }


def _write_video(folder: Path, known: Known, kind: int) -> dict[str, Any]:
    part = part_of(known)
    if kind == 10:
        name = f"{known.scene.seed}.webm"
        write_video(known.scene, folder / f"20bn-something-something-v2/{name}")
        return {"data_id": name}
    if kind == 11:
        name, fps = f"P01/{known.clip}.MP4", known.scene.fps
        # The suffix of this set is in capitals, which the writer does not know.
        path = folder / f"EPIC-KITCHENS/P01/{known.clip}.mp4"
        write_scenes(part.scenes, path, fps)
        path.rename(folder / f"EPIC-KITCHENS/{name}")
        return {"data_id": name, "segment": [(part.first + 0.4) / fps, (part.stop - 0.1) / fps]}
    name = f"P03/cam01/{known.clip}.avi"
    write_scenes(part.scenes, folder / f"BreakfastII_15fps_qvga_sync/{name}", int(BREAKFAST_FPS))
    return {"data_id": name, "segment": [part.first, part.stop]}
