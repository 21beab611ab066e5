"""Stand-in of Video-ChatGPT's benchmark: its three lists, with short true answers."""

from __future__ import annotations

import random
from pathlib import Path

from ..scene import QUESTION_TEMPLATES
from .media import Known, known_questions, write_json, write_video

__all__ = ["write_vcg"]


def write_vcg(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Half of the items are generic, a quarter temporal and a quarter pairs of questions."""
    order = known_questions(count, seed, kinds=("order", "direction"), per_scene=1)
    other = known_questions(count, seed, kinds=("colour", "shape", "count"))
    temporal, pairs = order[: count // 4], other[: count // 4]
    generic = other[len(pairs) : count - len(temporal)]
    for each in (*temporal, *pairs, *generic):
        write_video(each.scene, folder / f"Videos/Benchmarking/{_name(each)}.mp4")
    write_json(folder / "generic_qa.json", [_row(each) for each in generic])
    write_json(folder / "temporal_qa.json", [_row(each) for each in temporal])
    write_json(
        folder / "consistency_qa.json",
        [
            {"Q1": each.qa.question, "Q2": _said_otherwise(each), "A": each.qa.answer, "video_name": _name(each)}
            for each in pairs
        ],
    )


def _name(known: Known) -> str:
    return f"v_{known.clip}"


def _row(known: Known) -> dict[str, str]:
    return {"Q": known.qa.question, "A": known.qa.answer, "video_name": _name(known)}


def _said_otherwise(known: Known) -> str:
    """The same question in other words."""
    others = [text for text in QUESTION_TEMPLATES[known.qa.kind] if text != known.qa.question]
    return random.Random(known.scene.seed).choice(others)
