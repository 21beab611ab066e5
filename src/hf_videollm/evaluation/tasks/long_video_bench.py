"""LongVideoBench (validation): questions with up to five options about videos of seconds to an hour.

Each question may be asked with the subtitles of its video or without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..choice_items import by_number, choice_item, finds, listed_options
from ..choice_prompts import LINVT_GENERATION, bare_question, letters_rule
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy
from ..prompting import LETTER_DIRECTLY, Prompt, PromptRule, lettered, raw_question
from ..row_joins import medium_in, rows_by_id, stated_number
from ..subtitles import SubtitleLine, frame_times, lines_covering
from ..task import Task

__all__ = ["TASKS"]

_LISTS = ("lvb_val.json",)
_HUB = ("validation-*.parquet", "*/validation-*.parquet")
_COLUMNS = ("id", "video_path", "question", "correct_choice", "duration_group", "question_category", "option0")
_ABSENT = "N/A"


def _loader(with_subtitles: bool) -> Callable[[DataFiles], Iterator[Item]]:
    def load(data: DataFiles) -> Iterator[Item]:
        for row, item in _rows(data):
            extra = {"subtitles": _subtitles(data, row)} if with_subtitles else {}
            yield replace(item, extra=extra)

    return load


def _rows(data: DataFiles) -> Iterator[tuple[Row, Item]]:
    if not finds(data, _LISTS) and finds(data, _HUB):
        rows = data.parquet_rows(*_HUB, columns=_COLUMNS)
    else:
        path = data.find(*_LISTS, *_HUB)
        rows = data.json_rows(path.name)
    for name, row in rows_by_id(rows, "id").items():
        options = listed_options(_with_candidates(row), "candidates")
        item = choice_item(
            row,
            name,
            Medium(
                medium_in(data, ("videos", "video", ""), row.get("video_path")),
                stated_seconds=stated_number(row, "duration"),
            ),
            row.get("question"),
            options,
            by_number(row, "correct_choice", options),
            groups={
                "duration": str(row.get("duration_group", (str, int))),
                "category": row.get("question_category"),
            },
        )
        yield row, item


_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def _subtitles(data: DataFiles, row: Row) -> tuple[SubtitleLine, ...]:
    """The subtitles of a video, in seconds of the video file; none where there is no file.

    The list counts from the beginning of the video that the file was cut out of.
    """
    path = medium_in(data, ("subtitles", "subtitle"), row.get("subtitle_path"))
    if not path.exists():
        return ()
    begin = float(row.get("starting_timestamp_for_subtitles", (int, float), 0))
    duration = float(row.get("duration", (int, float)))
    rows = data.as_rows(data.json(str(path.relative_to(data.root))), str(path))
    return tuple(_line(each, begin, duration) for each in rows)


def _line(row: Row, begin: float, duration: float) -> SubtitleLine:
    """An entry of a list of subtitles, in one of its two forms.

    Raises:
        DataError: it has no times, or no text.
    """
    if (times := row.get("timestamp", list, None)) is not None:
        if len(times) != 2 or not isinstance(times[0], int | float):
            raise DataError(f"{row.where}: timestamp is {times!r}, which is no pair of seconds.")
        text = row.get("text")
        # The last entry of some lists has no end.
        start, end = float(times[0]), float(times[1]) if isinstance(times[1], int | float) else begin + duration
    else:
        text, start, end = row.get("line"), _clock(row, "start"), _clock(row, "end")
    return SubtitleLine(start - begin, end - begin, " ".join(text.split()), text)


def _clock(row: Row, field: str) -> float:
    """Seconds of a time such as 00:01:02.500.

    Raises:
        DataError: the field holds something else.
    """
    if (match := _CLOCK.fullmatch(row.get(field).strip())) is None:
        raise DataError(f"{row.where}: {field} is {row.get(field)!r}, which is no time such as '00:01:02.500'.")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _with_candidates(row: Row) -> Row:
    """The row with its options in a list; the Hub's table has a column for each, with N/A where there is none."""
    if "option0" not in row.values:
        return row
    options = [row.get(f"option{number}", str, _ABSENT) for number in range(5)]
    return Row({**row.values, "candidates": [option for option in options if option != _ABSENT]}, row.where)


def _official(item: Item, question: str) -> Prompt:
    lines = [f"Question: {question}", *lettered(item.options, "{letter}. {option}"), LETTER_DIRECTLY]
    return Prompt("\n".join(lines), generate_kwargs=greedy(16))


def _linvt(item: Item, question: str) -> Prompt:
    options = "\n".join(lettered(item.options, "{letter}. {option}"))
    # The curly apostrophe is the original's.
    last = "Answer with the option\u2019s letter from the given choices directly."
    return Prompt(f"Question: {question}\nOptions: {options}\n{last}", generate_kwargs=LINVT_GENERATION)


def _with_subtitles(rule: PromptRule) -> PromptRule:
    """A way of asking, below the subtitles that are shown while the model's frames are."""

    def asked(item: Item, question: str) -> Prompt:
        prompt = rule(item, question)
        shown = [line.text for line in lines_covering(item.extra["subtitles"], frame_times(item)) if line.text]
        return replace(prompt, text="\n".join([*shown, prompt.text]))

    return asked


_HUB_IDS = ("longvideobench/LongVideoBench",)
_SOURCE = "https://github.com/longvideobench/LongVideoBench"
_FILES = (
    "lvb_val.json - id, video_path, question, candidates, correct_choice, duration_group, question_category",
    "videos/{video_path} - the videos, out of the parts of videos.tar",
    "or, from the Hub: validation-*.parquet with option0 to option4 in place of candidates",
)
_NOTES = (
    "Upstream counts an unreadable answer by a random letter (--fallback random).",
    "The answers of the test part are not public; lmms-eval writes its submission (longvideobench_test_v).",
)
_LMMS_EVAL = letters_rule(f"{LETTER_DIRECTLY}\n", max_new_tokens=32)

TASKS = [
    Task(
        name="longvideobench",
        title="LongVideoBench (validation)",
        load=_loader(with_subtitles=False),
        files=_FILES,
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts={
            "default": raw_question,
            "official": _official,
            "linvt": _linvt,
            "lmms_eval": _LMMS_EVAL,
            "bare": bare_question,
        },
        metric="multiple_choice",
        group_by=("duration", "category"),
        published={
            "linvt": {  # Table 9; LinVT-InternVL2 1B: Table 11
                "LinVT-InternVL2 1B": {"accuracy": 51.0},
                "LinVT-Mipha 1.6B": {"accuracy": 49.7},
                "LinVT-Aquila 2B": {"accuracy": 53.5},
                "LinVT-BLIP-3 4B": {"accuracy": 56.6},
                "LinVT-Molmo 7B": {"accuracy": 56.8},
                "LinVT-Qwen2-VL 7B": {"accuracy": 57.2},
                "LinVT-InternVL2 8B": {"accuracy": 57.4},
            },
        },
        notes=("Only the videos are shown, as in LinVT's code; `longvideobench_subtitles` adds subtitles.", *_NOTES),
    ),
    Task(
        name="longvideobench_subtitles",
        title="LongVideoBench (validation, with subtitles)",
        load=_loader(with_subtitles=True),
        files=(*_FILES, "subtitles/{subtitle_path} - the subtitles, out of subtitles.tar"),
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts={
            "default": _with_subtitles(raw_question),
            "official": _with_subtitles(_official),
            "lmms_eval": _with_subtitles(_LMMS_EVAL),
            "bare": bare_question,
        },
        metric="multiple_choice",
        group_by=("duration", "category"),
        notes=(
            "Subtitles are those that are shown at the time of a frame that the model sees, each once. A line of less "
            "than a second counts as shown for one second.",
            "They stand below the video. Upstream puts them between the frames, which are pictures there; models of "
            "this package take a video as one block. lmms-eval's longvideobench_val_i gives them pictures.",
            *_NOTES,
        ),
    ),
]
