"""MUSIC-AVQA: one-word questions about the sound and the picture of people who make music."""

from __future__ import annotations

from collections.abc import Iterator

from ...data.filled_questions import filled_question, question_kinds
from ..data_files import DataFiles
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import medium_in, rows_by_id
from ..task import Task

__all__ = ["TASKS"]

_FILES = ("avqa-test.json", "json_update/avqa-test.json", "data/json_update/avqa-test.json")


def _load(data: DataFiles) -> Iterator[Item]:
    for name, row in rows_by_id(data.json_rows(*_FILES), "question_id").items():
        if row.get("question_deleted", int, 0):
            continue
        kinds = question_kinds(row)
        # The misspelt name is the field's own.
        answer = row.get("anser")
        plain = answer.replace("_", " ")
        folders = ("MUSIC-AVQA-videos", "videos", "MUSIC-AVQA-videos-Real")
        yield row.item(
            id=name,
            media=(Medium(medium_in(data, folders, row.get("video_id"), (".mp4",)), use_audio=True),),
            questions=(filled_question(row),),
            answer=answer,
            references=tuple(dict.fromkeys((answer, plain))),
            groups={"modality": kinds[0], "type": " ".join(kinds)},
        )


TASKS = [
    Task(
        name="music_avqa",
        title="MUSIC-AVQA",
        load=_load,
        files=(
            "avqa-test.json - questions: video_id, question_id, type, question_content, templ_values, anser",
            "data/json_update/ or json_update/ - may hold the list",
            "MUSIC-AVQA-videos/{video_id}.mp4 - the videos; the folder videos is found, too",
        ),
        source="https://github.com/GeWu-Lab/MUSIC-AVQA (json_update)",
        prompts={"default": raw_question, "videollama2": videollama2_rule("music_avqa")},
        metric="exact_match",
        match_rules={"default": "folded", "videollama2": "videollama2"},
        group_by=("modality", "type"),
        modalities=("video", "audio"),
        published={
            "videollama2": {  # Table 8
                "VideoLLaMA 2 (7B)": {"accuracy": 70.6},
            },
        },
        notes=(
            "An answer of several words has underscores in the list (acoustic_guitar); here blanks are right, too. "
            "VideoLLaMA2's own list is not public, so it is not known whether it changed them.",
            "Questions that the list marks as deleted are left out.",
        ),
    ),
]
