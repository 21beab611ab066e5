"""Video-ChatGPT's benchmark (VCG): free answers that a judge scores from 0 to 5 for five aspects.

The generic questions are judged for correctness, detail and context, the temporal ones for the order of events. A
consistency item asks the same in two ways, and its two answers are judged together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import pllava_rules, videollama2_rule
from ..prompting import raw_question
from ..row_joins import NUMBERED, medium_in
from ..task import Task

__all__ = ["TASKS"]

# Part of the benchmark -> aspects that its answers are judged for, by their names in `aggregate_judged.VCG_ASPECTS`.
_ASPECTS = {
    "generic": ("correctness", "detail", "context"),
    "temporal": ("temporal",),
    "consistency": ("consistency",),
}
_PACKED = ("", "Benchmarking_QA/", "Zero_Shot_QA/Benchmarking_QA/")
_VIDEO_FOLDERS = ("Videos/Benchmarking", "Test_Videos", "videos", "Videos")
_SUFFIXES = (".mp4", ".mkv", ".MP4", ".webm")
# What the Hub's copy writes into a field that its part does not use.
_UNUSED = "None"


def _load(data: DataFiles) -> Iterator[Item]:
    if any(data.root.glob("**/Generic/test-*.parquet")):
        yield from _load_hub(data)
        return
    for part in _ASPECTS:
        names = [f"{folder}{part}_qa.json" for folder in _PACKED]
        numbers: Counter[str] = Counter()
        for row in data.json_rows(*names):
            fields = ("Q1", "Q2") if part == "consistency" else ("Q",)
            questions = tuple(row.get(field) for field in fields)
            yield _item(data, part, row, questions, row.get("A"), numbers)


def _load_hub(data: DataFiles) -> Iterator[Item]:
    columns = ("video_name", "question_1", "question_2", "question", "answer")
    for part in _ASPECTS:
        config = part.capitalize()
        rows = data.parquet_rows(f"{config}/test-*.parquet", f"*/{config}/test-*.parquet", columns=columns)
        numbers: Counter[str] = Counter()
        if part != "consistency":
            for row in rows:
                yield _item(data, part, row, (row.get("question"),), row.get("answer"), numbers)
            continue
        for pair in _pairs(rows):
            questions = (pair[0].get("question_1"), pair[1].get("question_2"))
            yield _item(data, part, pair[0], questions, pair[0].get("answer"), numbers)


def _pairs(rows: Iterator[Row]) -> Iterator[tuple[Row, Row]]:
    """The rows that ask the first question of a video, each with the one that asks the second."""
    asked: dict[str, dict[str, list[Row]]] = defaultdict(lambda: {"question_1": [], "question_2": []})
    for row in rows:
        used = [field for field in ("question_1", "question_2") if row.get(field, str, _UNUSED) != _UNUSED]
        if len(used) != 1:
            raise DataError(f"{row.where}: one of question_1 and question_2 should hold a question, not {len(used)}.")
        asked[row.get("video_name")][used[0]].append(row)
    for video, found in asked.items():
        first, second = found["question_1"], found["question_2"]
        if len(first) != len(second):
            counts = f"{len(first)} question_1 and {len(second)} question_2"
            raise DataError(f"{(first or second)[0].where}: {video!r} has {counts}; each pair needs both.")
        for pair in zip(first, second, strict=True):
            if pair[0].get("answer") != pair[1].get("answer"):
                raise DataError(f"{pair[1].where}: the answer differs from that of question_1 in {pair[0].where}.")
            yield pair


def _item(data: DataFiles, part: str, row: Row, questions: tuple[str, ...], answer: str, numbers: Counter[str]) -> Item:
    video = row.get("video_name")
    # The files have no ids. This one is the same in both forms.
    name = f"{part}/{video}/{numbers[video]}"
    numbers[video] += 1
    return row.item(
        id=name,
        media=(Medium(medium_in(data, _VIDEO_FOLDERS, video, _SUFFIXES)),),
        questions=questions,
        answer=answer,
        groups={"part": part},
        extra={"aspects": _ASPECTS[part]},
    )


def _scores(correctness: float, detail: float, context: float, temporal: float, consistency: float) -> dict[str, float]:
    return {
        "correctness": correctness,
        "detail": detail,
        "context": context,
        "temporal": temporal,
        "consistency": consistency,
    }


_PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "pllava": {  # Table 2
        "PLLaVA 7B": {**_scores(3.21, 2.86, 3.62, 2.33, 2.93), "average": 3.12},
        "PLLaVA 13B": {**_scores(3.27, 2.99, 3.66, 2.47, 3.09), "average": 3.27},
        "PLLaVA 34B": {**_scores(3.60, 3.20, 3.90, 2.67, 3.25), "average": 3.48},
    },
    "videollama2": {  # Table 6
        "VideoLLaMA 2 (7B), 8 frames": _scores(3.09, 3.09, 3.68, 2.63, 3.25),
        "VideoLLaMA 2 (7B), 16 frames": _scores(3.16, 3.08, 3.69, 2.56, 3.14),
        "VideoLLaMA 2 (8x7B), 8 frames": _scores(3.08, 3.11, 3.64, 2.67, 3.26),
    },
}

TASKS = [
    Task(
        name="vcg",
        title="Video-ChatGPT",
        load=_load,
        files=(
            "generic_qa.json - questions for correctness, detail and context: Q, A, video_name",
            "temporal_qa.json - questions for the order of events: Q, A, video_name",
            "consistency_qa.json - pairs of questions: Q1, Q2, A, video_name",
            "Videos/Benchmarking/{video_name}.mp4 - the videos; .mkv, and the folder Test_Videos, are found, too",
            "Benchmarking_QA/ or Zero_Shot_QA/Benchmarking_QA/ - may hold the lists",
            "or, from the Hub: Generic/, Temporal/ and Consistency/ with test-*.parquet (video_name, question, ...)",
        ),
        hub_ids=("lmms-eval/VideoChatGPT", "lmms-lab/VideoChatGPT"),
        source="https://github.com/mbzuai-oryx/Video-ChatGPT (quantitative evaluation)",
        prompts={
            "default": raw_question,
            **pllava_rules("vcgbench"),
            "videollama2": videollama2_rule("vcgbench"),
        },
        metric="vcg",
        judge_texts={
            "default": "vcg_original",
            "pllava": "vcg_pllava",
            "videollama2": "vcg_original",
            "lmms_eval": "vcg_original",
        },
        judge_policies={
            "default": "robust",
            "pllava": "pllava",
            "videollama2": "videollama2",
            "lmms_eval": "lmms_eval",
        },
        group_by=("part",),
        published=_PUBLISHED,
        notes=(
            NUMBERED,
            "PLLaVA's average is over all judgements, so the generic questions count three times. The averages that it "
            "prints for 7B and 13B match neither that nor the mean of its five columns exactly.",
            "PLLaVA's released code gives its consistency judge the two questions in exchanged places; here they stand "
            "with their answers.",
            "All prompts ask the bare question; PLLaVA's adds the system text of Video-ChatGPT.",
        ),
    ),
]
