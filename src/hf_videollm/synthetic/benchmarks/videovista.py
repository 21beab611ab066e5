"""Stand-in of VideoVista: one question of each kind in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...evaluation.tasks.videovista import IMAGE_TYPE, REASONING, UNDERSTANDING
from .choices import options_for
from .media import known_questions, write_json, write_picture, write_video

__all__ = ["write_videovista"]

_CATEGORIES = ("Animals", "Sports")
_GROUPS = ("0", "60", "120")


def write_videovista(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with four options. One about relations shows a picture, too; one video stands in another category."""
    kinds = (*UNDERSTANDING, *REASONING)
    rows: list[dict[str, Any]] = []
    for number, each in enumerate(known_questions(count, seed)):
        group, category = _GROUPS[number % len(_GROUPS)], _CATEGORIES[number % len(_CATEGORIES)]
        name, kind = f"{each.clip}_{number}.{group}.mp4", kinds[number % len(kinds)]
        place = category if number else _CATEGORIES[1]
        write_video(each.scene, folder / f"merged/{place}/{group}/{name}")
        options, right = options_for(each, 4)
        row = {
            "question_id": number,
            "video_name": name,
            "category": category,
            "time": group,
            "Type": kind,
            "Question": each.qa.question,
            "Answer_Choices": options,
            "Answer": right,
        }
        if kind == IMAGE_TYPE:
            row["image_name"] = f"{each.clip}.png"
            write_picture(each.scene, folder / f"relation_images/{row['image_name']}")
        rows.append(row)
    write_json(folder / "VideoVista.json", rows)
