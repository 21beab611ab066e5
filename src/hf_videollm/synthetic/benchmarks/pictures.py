"""Stand-in of Tiny LVLM-eHub, the set of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.tiny_lvlm_ehub import GROUPS
from .media import PICTURE_QUESTION_KINDS, known_questions, write_json, write_picture

__all__ = ["write_tiny_lvlm_ehub"]


def write_tiny_lvlm_ehub(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about pictures, dealt out to the five groups. Some answers are texts, others lists of one text."""
    rows: dict[str, list[dict[str, Any]]] = {group: [] for group in GROUPS}
    for number, each in enumerate(known_questions(count, seed, PICTURE_QUESTION_KINDS)):
        group = GROUPS[number % len(GROUPS)]
        write_picture(each.scene, folder / f"updated_datasets/{group}/images/{each.clip}.png")
        right = each.qa.answer if number % 2 else [each.qa.answer]
        row = {"image_path": f"images/{each.clip}.png", "question": each.qa.question, "gt_answers": right}
        rows[group].append(row)
    for group, listed in rows.items():
        write_json(folder / f"updated_datasets/{group}/dataset.json", listed)
