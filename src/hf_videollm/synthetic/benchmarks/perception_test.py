"""Stand-ins of Perception-Test: questions with three options by video, without and with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .choices import options_for
from .media import known_questions, write_json, write_video

__all__ = ["write_perception_test", "write_perception_test_val"]

_AREAS = ("memory", "abstraction", "physics", "semantics")
_REASONING = ("descriptive", "explanatory", "predictive", "counterfactual")


def write_perception_test(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The test split, whose answers are secret."""
    _write(folder, "mc_question_test.json", count, seed, with_answers=False)


def write_perception_test_val(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The validation split, with answers, about other clips."""
    _write(folder, "mc_question_valid.json", count, seed + 1, with_answers=True)


def _write(folder: Path, file: str, count: int, seed: int, with_answers: bool) -> None:
    videos: dict[str, Any] = {}
    for number, each in enumerate(known_questions(count, seed)):
        name = f"video_{each.scene.seed}"
        write_video(each.scene, folder / f"videos/{name}.mp4")
        options, right = options_for(each, 3)
        metadata = {"video_id": name, "num_frames": each.scene.num_frames, "frame_rate": each.scene.fps}
        asked = videos.setdefault(name, {"metadata": metadata, "mc_question": []})["mc_question"]
        question = {
            "id": len(asked),
            "question": each.qa.question,
            "options": options,
            "area": _AREAS[number % len(_AREAS)],
            "reasoning": _REASONING[number // 4 % len(_REASONING)],
            "tag": ["motion"] if each.qa.kind == "direction" else ["object counting", "place recognition"],
        }
        asked.append({**question, "answer_id": right} if with_answers else question)
    write_json(folder / file, videos)
