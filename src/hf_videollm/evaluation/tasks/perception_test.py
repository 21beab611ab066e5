"""Perception-Test: questions with three options about videos that show how well a model perceives.

The answers of the test split are known to its server only, for which the files are written; the validation split has
public answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..choice_items import by_number, choice_item, finds, listed_options
from ..choice_prompts import bare_question, letters_rule
from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import check_new, medium_in, text_id
from ..submissions import chosen, json_text, with_missing
from ..task import Scored, Task

__all__ = ["TASKS"]

_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
_COLUMNS = ("video_name", "question", "question_id", "options", "area", "reasoning")


def _loader(names: Sequence[str], patterns: Sequence[str], has_answers: bool) -> Callable[[DataFiles], Iterator[Item]]:
    def load(data: DataFiles) -> Iterator[Item]:
        seen: dict[str, str] = {}
        for row, video, question_id in rows(data):
            item = _item(data, row, video, question_id, has_answers)
            check_new(seen, item.id, row.where)
            yield item

    def rows(data: DataFiles) -> Iterator[tuple[Row, str, str]]:
        if not finds(data, names) and finds(data, patterns):
            for row in data.parquet_rows(*patterns, columns=_COLUMNS):
                yield row, row.get("video_name"), text_id(row, "question_id")
            return
        path = data.find(*names, *patterns)
        for video, value in data.json_object(str(path.relative_to(data.root)), holds="a video in each field").items():
            of_video = data.as_row(value, f"{path}, video {video!r}")
            for row in data.as_rows(of_video.get("mc_question", list), f"{of_video.where}, mc_question"):
                yield row, video, text_id(row, "id")

    return load


def _item(data: DataFiles, row: Row, video: str, question_id: str, has_answers: bool) -> Item:
    options = listed_options(row, "options")
    return choice_item(
        row,
        f"{video}/{question_id}",
        Medium(medium_in(data, ("videos", "video", ""), video, _SUFFIXES)),
        row.get("question"),
        options,
        by_number(row, "answer_id", options) if has_answers else None,
        groups={"area": row.get("area", str, "unknown"), "reasoning": row.get("reasoning", str, "unknown")},
        extra={"video": video, "question_id": question_id, "tag": row.get("tag", (str, list), None)},
    )


def _submission(items: Sequence[Item], answers: Sequence[Sequence[str]], scored: Sequence[Scored]) -> dict[str, str]:
    """The answers by video, as eval.ai takes them."""
    videos: dict[str, list[dict[str, object]]] = {}
    for item, index in chosen(items, scored):
        number = item.extra["question_id"]
        answer = {
            "id": int(number) if number.isdigit() else number,
            "answer_id": index,
            "answer": item.options[index],
        }
        videos.setdefault(item.extra["video"], []).append(answer)
    return with_missing({"perception_test.json": json_text(videos)}, items, answers, scored)


_PUBLISHED = {
    "videollama2": {  # Table 5
        "VideoLLaMA 2 (7B), 8 frames": {"accuracy": 49.6},
        "VideoLLaMA 2 (7B), 16 frames": {"accuracy": 51.4},
        "VideoLLaMA 2 (8x7B), 8 frames": {"accuracy": 52.2},
    },
}
_PROMPTS = {
    "default": raw_question,
    "videollama2": videollama2_rule("perception_test"),
    "lmms_eval": letters_rule(),
    "bare": bare_question,
}
_RULES = {"default": "robust", "videollama2": "videollama2_perception_test"}
_VIDEOS = "videos/{video}.mp4 - the videos; .avi, .mov and .mkv, and the folder video, are found, too"
_SOURCE = "https://github.com/google-deepmind/perception_test"
_FALLBACK = "VideoLLaMA2's numbers count an answer without a letter as C (--fallback third)."
_TEST = _loader(
    ("mc_question_test.json", "mc_question_test_annotations/mc_question_test.json"),
    ("mc_question/test-*.parquet", "*/mc_question/test-*.parquet", "test-*.parquet"),
    has_answers=False,
)
_VAL = _loader(
    ("mc_question_valid.json", "mc_question_valid_annotations/mc_question_valid.json", "all_valid.json"),
    ("mc_question_val/validation-*.parquet", "*/mc_question_val/validation-*.parquet", "validation-*.parquet"),
    has_answers=True,
)

TASKS = [
    Task(
        name="perception_test",
        title="Perception-Test",
        load=_TEST,
        files=(
            "mc_question_test.json - by video: mc_question with id, question, options, area, reasoning, tag",
            _VIDEOS,
            "or, from the Hub: mc_question/test-*.parquet with video_name, question, question_id, options, ...",
        ),
        hub_ids=("lmms-eval/PerceptionTest", "lmms-lab/PerceptionTest"),
        source=_SOURCE,
        prompts=_PROMPTS,
        metric="multiple_choice",
        choice_rules=_RULES,
        group_by=("area", "reasoning"),
        has_public_answers=False,
        submission=_submission,
        published=_PUBLISHED,
        notes=(
            "The answers are not public: submission/perception_test.json goes to the challenge's server (eval.ai).",
            _FALLBACK,
        ),
    ),
    Task(
        name="perception_test_val",
        title="Perception-Test (validation)",
        load=_VAL,
        files=(
            "mc_question_valid.json - by video: mc_question with id, question, options, answer_id, area, reasoning; "
            "all_valid.json is read, too",
            _VIDEOS,
            "or, from the Hub: mc_question_val/validation-*.parquet with video_name, question, question_id, options, "
            "answer_id, ...",
        ),
        hub_ids=("lmms-eval/PerceptionTest_Val", "lmms-lab/PerceptionTest_Val"),
        source=_SOURCE,
        prompts=_PROMPTS,
        metric="multiple_choice",
        choice_rules=_RULES,
        group_by=("area", "reasoning"),
        notes=("VideoLLaMA2 prints numbers of the test split, the task `perception_test`.", _FALLBACK),
    ),
]
