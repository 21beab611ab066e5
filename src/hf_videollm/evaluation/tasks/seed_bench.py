"""SEED-Bench, the three dimensions about videos: what happens, what happens next, and in which order.

The official score ranks the four options by their likelihood behind the bare question; lmms-eval asks for a letter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ..choice_items import by_letter, choice_item, numbered_options
from ..choice_prompts import bare_question, letters_rule
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..prompting import Prompt, raw_question
from ..row_joins import check_new, medium_in, text_id
from ..task import Task

__all__ = ["BREAKFAST_FPS", "TASKS"]

BREAKFAST_FPS = 15.0
_FILES = ("SEED-Bench.json", "SEED-Bench/SEED-Bench.json")


class _Dimension(NamedTuple):
    abbreviation: str
    folders: tuple[str, ...]


# question_type_id -> dimension. The folders are those of the sets that the videos come from.
_DIMENSIONS = {
    10: _Dimension("AR", ("20bn-something-something-v2", "ssv2", "task10", "videos")),
    11: _Dimension("AP", ("EPIC-KITCHENS", "epic_kitchens", "task11", "videos")),
    12: _Dimension("PU", ("BreakfastII_15fps_qvga_sync", "breakfast", "task12", "videos")),
}
_SUFFIXES = ("", ".webm", ".mp4", ".avi", ".MP4")


def _load(data: DataFiles) -> Iterator[Item]:
    seen: dict[str, str] = {}
    for row in data.json_list(*_FILES, field="questions"):
        # Most of the list are questions about pictures.
        if (number := row.get("question_type_id", int)) not in _DIMENSIONS:
            continue
        options = numbered_options(row, "choice_{}", "abcd")
        name = text_id(row, "question_id")
        check_new(seen, name, row.where)
        yield choice_item(
            row,
            name,
            _medium(data, row, name, number),
            row.get("question"),
            options,
            by_letter(row, "answer", options),
            groups={"dimension": _DIMENSIONS[number].abbreviation},
        )


def _medium(data: DataFiles, row: Row, name: str, number: int) -> Medium:
    video = row.get("data_id")
    path = medium_in(data, _DIMENSIONS[number].folders, video, _SUFFIXES)
    frames = data.medium(f"v1_video/{name}")
    if not path.exists() and frames.is_dir():
        # The frames are already those of the segment.
        return Medium(frames)
    start, end = _segment(row, number)
    return Medium(path, start=start, end=end)


def _segment(row: Row, number: int) -> tuple[float | None, float | None]:
    """Start and end in seconds. Those of the Breakfast set are numbers of frames at 15 frames per second."""
    segment = row.get("segment", list, None)
    if segment is None:
        return None, None
    if len(segment) != 2 or not all(_is_second(each) for each in segment):
        raise DataError(f"{row.where}: segment is {segment!r}, which is no list of two numbers from 0: correct it.")
    start, end = (float(each) / (BREAKFAST_FPS if number == 12 else 1.0) for each in segment)
    if start >= end:
        raise DataError(f"{row.where}: segment is {segment!r}, which ends before it begins: correct it.")
    return start, end


def _is_second(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _lmms_eval_ppl(item: Item, question: str) -> Prompt:
    return Prompt(f"{question} Answer :")


TASKS = [
    Task(
        name="seed_bench_video",
        title="SEED-Bench (video dimensions)",
        load=_load,
        files=(
            "SEED-Bench.json - questions with question_id, question_type_id, data_id, question, choice_a to choice_d, "
            "answer, segment",
            "20bn-something-something-v2/{data_id}.webm - action recognition; the folder ssv2 is found, too",
            "EPIC-KITCHENS/{data_id} - action prediction; the folder epic_kitchens is found, too",
            "BreakfastII_15fps_qvga_sync/{data_id} - procedure understanding; the folder breakfast is found, too",
            "or, for a question without its video, v1_video/{question_id}/ with frames of it",
        ),
        hub_ids=("AILab-CVC/SEED-Bench",),
        source="https://github.com/AILab-CVC/SEED-Bench",
        prompts={
            "default": raw_question,
            "likelihood": bare_question,
            "lmms_eval": letters_rule(),
            "lmms_eval_ppl": _lmms_eval_ppl,
            "bare": bare_question,
        },
        metric="multiple_choice",
        group_by=("dimension",),
        published={
            "iva": {  # Table 2
                "Baseline (w/o IVA)": {"AR": 22.5, "AP": 23.5, "PU": 24.8},
                "IVA (LQ=8, NI=8)": {"AR": 32.0, "AP": 31.8, "PU": 27.5},
                "IVA (LQ=16, NI=8)": {"AR": 35.2, "AP": 32.0, "PU": 34.2},
                "IVA (LQ=32, NI=8)": {"AR": 32.2, "AP": 32.1, "PU": 28.8},
                "IVA (LQ=16, NI=4)": {"AR": 32.5, "AP": 31.7, "PU": 26.0},
                "IVA (LQ=16, NI=16)": {"AR": 31.8, "AP": 29.4, "PU": 31.0},
                "IVA (LQ=16, NI=8)-272K": {"AR": 32.2, "AP": 30.0, "PU": 31.6},
            },
        },
        notes=(
            "The official score takes the option of the highest likelihood: --mode likelihood (style `likelihood`, the "
            "bare question).",
            "IVA does not say whether it ranks or reads a letter.",
            "The Hub's archive of this set has eight frames of each question in folders whose names could not be "
            "checked; put those of a question into v1_video/{question_id}/.",
            "The videos have to be fetched from their owners.",
        ),
    ),
]
