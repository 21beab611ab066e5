"""MSVC, VideoLLaMA2's captioning benchmark: a judge scores captions from 0 to 5 against several human ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from ..data_files import DataFiles
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import NUMBERED, medium_in
from ..task import Task

__all__ = ["TASKS"]

# The paper samples; its released code does not.
_PAPER_SAMPLING = {"do_sample": True, "temperature": 0.2, "max_new_tokens": 2048}


def _load(data: DataFiles) -> Iterator[Item]:
    numbers: Counter[str] = Counter()
    for row in data.json_rows("msvc.json"):
        video, captions = row.get("video_path"), row.texts("captions")
        stem = PurePosixPath(video).stem
        name = f"{stem}_{numbers[stem]}"
        numbers[stem] += 1
        yield row.item(
            id=name,
            media=(Medium(medium_in(data, ("", "videos"), video)),),
            questions=(row.get("question"),),
            answer=captions[0],
            references=tuple(captions),
        )


TASKS = [
    Task(
        name="msvc",
        title="MSVC",
        load=_load,
        files=(
            "msvc.json - videos with their captions: video_path, question, captions",
            "{video_path} - the videos of MSVD, MSRVTT and VATEX, in one folder; below videos/ they are found, too",
        ),
        hub_ids=("DAMO-NLP-SG/Multi-Source-Video-Captioning",),
        source="https://huggingface.co/datasets/DAMO-NLP-SG/Multi-Source-Video-Captioning",
        prompts={
            "default": raw_question,
            "videollama2": videollama2_rule("msvc"),
            "videollama2_paper": videollama2_rule("msvc", _PAPER_SAMPLING),
        },
        metric="msvc",
        judge_texts={"default": "msvc", "videollama2": "msvc"},
        judge_policies={"default": "robust", "videollama2": "videollama2"},
        published={
            "videollama2": {  # Table 5
                "VideoLLaMA 2 (7B), 8 frames": {"correctness": 2.57, "detailedness": 2.61},
                "VideoLLaMA 2 (7B), 16 frames": {"correctness": 2.53, "detailedness": 2.59},
                "VideoLLaMA 2 (8x7B), 8 frames": {"correctness": 2.53, "detailedness": 2.56},
            },
        },
        notes=(
            NUMBERED,
            "The paper samples with temperature 0.2 (style `videollama2_paper`), its released code takes the likeliest "
            "token (style `videollama2`).",
            "The list has 1,500 videos; the paper speaks of 500, which may mean 500 of each of the three sources.",
        ),
    ),
]
