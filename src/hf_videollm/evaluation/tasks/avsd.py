"""AVSD as VideoLLaMA2 uses it: each turn of a dialog about a video with sound, asked alone, answered freely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import check_new, medium_in
from ..subsets import eighth_of
from ..task import Task

__all__ = ["AVQA_POLICIES", "AVQA_TEXTS", "SUBSET_NOTE", "TASKS"]

# "videollama2" is what the paper prints, "videollama2_code" what its released code sends.
AVQA_TEXTS = {"default": "avqa_table9", "videollama2": "avqa_table9", "videollama2_code": "avqa_code"}
AVQA_POLICIES = {"default": "robust", "videollama2": "videollama2_av", "videollama2_code": "videollama2_av"}
SUBSET_NOTE = (
    "VideoLLaMA2 judges a random eighth and publishes neither the seed nor the list. The eighth here is ours: the "
    "items with the smallest SHA-256 of 0/id, so its numbers compare with the paper's within the error of sampling."
)
_FILES = ("valid_set4DSTC10-AVSD.json", "valid_set4DSTC7-AVSD.json", "avsd_val.json")


def _load_all(data: DataFiles) -> Iterator[Item]:
    seen: dict[str, str] = {}
    for dialog in map(_small, data.json_list(*_FILES, field="dialogs")):
        name = dialog.get("image_id")
        check_new(seen, name, dialog.where)
        video = medium_in(data, ("Charades_v1_480", "videos"), name, (".mp4",))
        turns = data.as_rows(dialog.get("dialog", list), f"{dialog.where} ({name}), dialog")
        for number, turn in enumerate(map(_small, turns)):
            yield turn.item(
                id=f"{name}_{number}",
                media=(Medium(video, use_audio=True),),
                questions=(turn.get("question"),),
                answer=turn.get("answer"),
                groups={"turn": str(number + 1)},
            )


def _small(row: Row) -> Row:
    """The row with small letters in the names of its fields, whose case differs between the releases."""
    values: dict[str, Any] = {name.lower(): value for name, value in row.values.items()}
    if len(values) < len(row.values):
        raise DataError(f"{row.where}: two fields have names that differ in their case alone; keep one of them.")
    return Row(values, row.where)


def _task(name: str, title: str, *, is_subset: bool) -> Task:
    return Task(
        name=name,
        title=title,
        load=eighth_of(_load_all) if is_subset else _load_all,
        files=(
            "valid_set4DSTC10-AVSD.json - dialogs: image_id, dialog with question and answer; also of DSTC7",
            "Charades_v1_480/{image_id}.mp4 - the videos; the folder videos is found, too",
        ),
        source="https://github.com/dialogtekgeek/AVSD-DSTC10_Official (AVSD v0.1, validation)",
        prompts={"default": raw_question, "videollama2": videollama2_rule("avsd")},
        metric="judged_qa",
        judge_texts=AVQA_TEXTS,
        judge_policies=AVQA_POLICIES,
        group_by=("turn",),
        modalities=("video", "audio"),
        published={
            "videollama2": {  # Table 8
                "VideoLLaMA 2 (7B)": {"accuracy": 50.9},
            },
        },
        notes=(
            SUBSET_NOTE if is_subset else "VideoLLaMA2 judges a random eighth of these turns.",
            "Neither the earlier turns of the dialog nor the caption of the video are shown.",
        ),
    )


TASKS = [_task("avsd", "AVSD (an eighth)", is_subset=True), _task("avsd_full", "AVSD", is_subset=False)]
