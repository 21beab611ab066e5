"""ActivityNet-QA in the form of the papers: short free answers about long videos, which a judge compares."""

from __future__ import annotations

from collections.abc import Iterator

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy, pllava_rules, videollama2_rule
from ..prompting import Prompt, raw_question
from ..row_joins import medium_in, rows_by_id
from ..task import Task
from .open_qa import JUDGE_POLICIES, JUDGE_TEXTS, NOTES, question_and_answer_files
from .open_qa_published import ACTIVITYNET_QA

__all__ = ["TASKS"]

# What the numbers of the field `type` mean.
_TYPES = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
_PARQUET = ("test-*.parquet", "*/test-*.parquet")


def _load(data: DataFiles) -> Iterator[Item]:
    if not any(path for pattern in _PARQUET for path in data.root.glob(pattern)):
        here = data.beside(data.find("test_q.json", "dataset/test_q.json", "ActivityNet/test_q.json", "test-*.parquet"))
        for name, row, answer in question_and_answer_files(here):
            yield _item(here, name, row, answer)
        return
    columns = ("video_name", "question_id", "question", "answer", "type")
    for name, row in rows_by_id(data.parquet_rows(*_PARQUET, columns=columns), "question_id").items():
        yield _item(data, name, row, row)


def _item(data: DataFiles, name: str, row: Row, answer: Row) -> Item:
    number = str(answer.get("type", (str, int)))
    if number not in map(str, range(len(_TYPES))):
        raise DataError(f"{answer.where}: type is {number!r}, which is no number from 0 to {len(_TYPES) - 1}.")
    # PLLaVA's copy of the list writes the prefix of the files into the names.
    video = f"v_{row.get('video_name').removeprefix('v_')}"
    return row.item(
        id=name,
        media=(Medium(medium_in(data, ("all_test", "videos"), video, (".mp4", ".webm", ".mkv"))),),
        questions=(row.get("question"),),
        answer=answer.get("answer"),
        groups={"type": _TYPES[int(number)]},
    )


def _lmms_eval(item: Item, question: str) -> Prompt:
    # It puts a question mark behind every question; the set's own have none.
    text = f"{question.capitalize()}? Answer the question using a single word or phrase."
    return Prompt(text, generate_kwargs=greedy(64))


TASKS = [
    Task(
        name="activitynet_qa",
        title="ActivityNet-QA",
        load=_load,
        files=(
            "test_q.json - questions: video_name, question, question_id",
            "test_a.json - answers: answer, type, question_id",
            "all_test/v_{video_name}.mp4 - the videos; .webm and .mkv, and the folder videos, are found, too",
            "dataset/ or ActivityNet/ - may hold the lists, or all of that",
            "or, from the Hub: test-*.parquet with video_name, question_id, question, answer, type",
        ),
        hub_ids=("lmms-eval/ActivityNetQA", "lmms-lab/ActivityNetQA"),
        source="https://github.com/MILVLG/activitynet-qa",
        prompts={
            "default": raw_question,
            **pllava_rules("videoqabench"),
            "videollama2": videollama2_rule("activitynet_qa"),
            "lmms_eval": _lmms_eval,
        },
        metric="judged_qa",
        judge_texts={**JUDGE_TEXTS, "lmms_eval": "qa"},
        judge_policies={**JUDGE_POLICIES, "lmms_eval": "lmms_eval"},
        group_by=("type",),
        published=ACTIVITYNET_QA,
        notes=(
            *NOTES,
            "LinVT trains on the train split of this set, so its numbers are not zero-shot in the strict sense.",
            "lmms-eval asks in other words and with another judge; its numbers are not those of the papers.",
        ),
    ),
]
