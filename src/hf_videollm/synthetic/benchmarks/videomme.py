"""Stand-ins of Video-MME: questions about videos of three lengths, and subtitles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..scene import Scene
from .choices import options_for
from .media import known_questions, write_parquet, write_video

__all__ = ["write_videomme", "write_videomme_subtitles"]

_DURATIONS = ("short", "medium", "long")
_DOMAINS = ("Knowledge", "Sports Competition")
_TASKS = {"colour": "Attribute Perception", "count": "Counting Problem", "order": "Temporal Reasoning"}


def write_videomme(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The table, and the videos."""
    _write(folder, count, seed)


def write_videomme_subtitles(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The same with subtitles, which every third video lacks."""
    for number, scene in enumerate(_write(folder, count, seed)):
        if number % 3:
            path = folder / f"subtitle/{_name(scene)}.srt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_srt(scene), encoding="utf-8")


def _write(folder: Path, count: int, seed: int) -> list[Scene]:
    rows: list[dict[str, Any]] = []
    scenes: dict[int, Scene] = {}
    for each in known_questions(count, seed):
        scene = scenes.setdefault(each.scene.seed, each.scene)
        write_video(scene, folder / f"data/{_name(scene)}.mp4")
        options, right = options_for(each, 4)
        number = len(scenes)
        rows.append(
            {
                "video_id": f"{number:03d}",
                "duration": _DURATIONS[number % len(_DURATIONS)],
                "domain": _DOMAINS[number % len(_DOMAINS)],
                "sub_category": "Technology",
                "url": f"https://example.org/watch?v={_name(scene)}",
                "videoID": _name(scene),
                "question_id": f"{number:03d}-{len(rows) + 1}",
                "task_type": _TASKS.get(each.qa.kind, "Object Recognition"),
                "question": each.qa.question,
                "options": [f"{letter}. {option}." for letter, option in zip("ABCD", options, strict=True)],
                "answer": "ABCD"[right],
            }
        )
    write_parquet(folder / "videomme/test-00000-of-00001.parquet", rows)
    return list(scenes.values())


def _name(scene: Scene) -> str:
    return f"vid{scene.seed}"


def _srt(scene: Scene) -> str:
    """A line for each half second, with the marks of fonts that the real files have."""
    entries = []
    for number in range(int(scene.duration * 2)):
        begin, end = (f"00:00:{tenths // 10:02d},{tenths % 10}00" for tenths in (number * 5, number * 5 + 5))
        text = f'<font color="white" size=".72c">Half second {number + 1}.</font>'
        entries.append(f"{number + 1}\n{begin} --> {end}\n{text}\n")
    return "\n".join(entries)
