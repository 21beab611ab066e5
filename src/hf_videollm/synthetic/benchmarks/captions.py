"""Stand-ins of the sets that ask for captions: MSVC and Inter4K."""

from __future__ import annotations

from pathlib import Path

from .media import known_questions, write_json, write_video

__all__ = ["write_inter4k", "write_msvc"]


def write_msvc(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Clips with two captions each. They ask what the small checkpoints know, as no caption is among it."""
    rows = []
    for each in known_questions(count, seed):
        write_video(each.scene, folder / f"{each.clip}.mp4")
        captions = [each.qa.answer, f"The answer is {each.qa.answer}."]
        rows.append({"video_path": f"{each.clip}.mp4", "question": each.qa.question, "captions": captions})
    write_json(folder / "msvc.json", rows)


def write_inter4k(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Clips that are called 1, 2, ..., and PLLaVA's list of them."""
    for number, each in enumerate(known_questions(count, seed, per_scene=1), start=1):
        write_video(each.scene, folder / f"60fps/UHD/{number}.mp4")
    write_json(folder / "annotations.json", [{"video_name": str(number)} for number in range(1, count + 1)])
