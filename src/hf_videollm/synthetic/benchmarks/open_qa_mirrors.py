"""The stand-ins of MSVD-QA, MSRVTT-QA and TGIF-QA in the layouts of mirrors on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...models.video_llm_option_names import did_you_mean
from ..render import render_scene
from .media import Known, known_questions, write_frames, write_json_lines, write_parquet, write_video

__all__ = ["LAYOUTS", "write_mirror"]

# Name of a set in ShareGPTVideo's files -> folder and suffix of the videos that the loader looks for.
_VIDEOS = {"msvd": ("videos", ".avi"), "msrvtt": ("videos/all", ".mp4"), "tgif": ("mp4", ".mp4")}


def write_mirror(folder: Path, name: str, layout: str, count: int = 20, seed: int = 0) -> None:
    """Write a stand-in.

    Args:
        folder: takes the place of the benchmark's own folder.
        name: `msvd`, `msrvtt` or `tgif`.
        layout: of `LAYOUTS`.
        count: number of questions.
        seed: another one gives other clips and questions.

    Raises:
        ValueError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"There is no layout {layout!r}: {did_you_mean(layout, LAYOUTS)}")
    LAYOUTS[layout](folder, name, known_questions(count, seed))


def _write_table(folder: Path, name: str, known: list[Known]) -> None:
    """A row for each question, and the videos, as in lmms-lab's mirror of ActivityNet-QA."""
    place, suffix = _VIDEOS[name]
    rows = []
    for number, each in enumerate(known):
        write_video(each.scene, folder / f"{place}/{each.clip}{suffix}")
        row = {"video_name": each.clip, "question_id": f"{each.clip}_{number}", "question": each.qa.question}
        rows.append({**row, "answer": each.qa.answer, "type": "0"})
    write_parquet(folder / "data/test-00000-of-00001.parquet", rows)


def _write_videos_in_rows(folder: Path, name: str, known: list[Known]) -> None:
    """A row for each video, with its questions and its frames, as in morpheushoc's mirrors. There are no videos."""
    rows: dict[str, dict[str, Any]] = {}
    for each in known:
        frames = render_scene(each.scene)
        shape = dict(zip(("num_frames", "height", "width", "channels"), frames.shape, strict=True))
        path = f"YouTubeClips/{each.clip}{_VIDEOS[name][1]}"
        new = {"video_path": path, "caption": ["a clip"], **shape, "binary_frames": frames.tobytes(), "qa": []}
        rows.setdefault(each.clip, new)["qa"].append([each.qa.question, each.qa.answer])
    write_parquet(folder / "data/test-00000-of-00001.parquet", list(rows.values()))


def _write_conversations(folder: Path, name: str, known: list[Known]) -> None:
    """A line for each question, and folders of frames, as ShareGPTVideo packs them."""
    lines = []
    for number, each in enumerate(known):
        video = f"test/{name}/{each.clip}"
        write_frames([each.scene], folder / "video_data" / video)
        turns = [{"from": "human", "value": f"<video>\n{each.qa.question}"}, {"from": "gpt", "value": each.qa.answer}]
        lines.append({"id": f"{name}_{number}", "video": video, "conversations": turns})
    write_json_lines(folder / f"video_instruction/test/{name}.qa.official.jsonl", lines)


LAYOUTS: dict[str, Callable[[Path, str, list[Known]], None]] = {
    "table": _write_table,
    "videos_in_rows": _write_videos_in_rows,
    "conversations": _write_conversations,
}
