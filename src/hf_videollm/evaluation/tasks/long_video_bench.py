"""LongVideoBench (validation): questions with up to five options about videos of seconds to an hour."""

from __future__ import annotations

from collections.abc import Iterator

from ..choice_items import by_number, choice_item, finds, listed_options
from ..choice_prompts import LINVT_GENERATION, bare_question, letters_rule
from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy
from ..prompting import LETTER_DIRECTLY, Prompt, lettered, raw_question
from ..row_joins import medium_in, rows_by_id
from ..task import Task

__all__ = ["TASKS"]

_LISTS = ("lvb_val.json",)
_HUB = ("validation-*.parquet", "*/validation-*.parquet")
_COLUMNS = ("id", "video_path", "question", "correct_choice", "duration_group", "question_category", "option0")
_ABSENT = "N/A"


def _load(data: DataFiles) -> Iterator[Item]:
    if not finds(data, _LISTS) and finds(data, _HUB):
        rows = data.parquet_rows(*_HUB, columns=_COLUMNS)
    else:
        path = data.find(*_LISTS, *_HUB)
        rows = data.json_rows(path.name)
    for name, row in rows_by_id(rows, "id").items():
        options = listed_options(_with_candidates(row), "candidates")
        yield choice_item(
            row,
            name,
            Medium(medium_in(data, ("videos", "video", ""), row.get("video_path"))),
            row.get("question"),
            options,
            by_number(row, "correct_choice", options),
            groups={
                "duration": str(row.get("duration_group", (str, int))),
                "category": row.get("question_category"),
            },
        )


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


TASKS = [
    Task(
        name="longvideobench",
        title="LongVideoBench (validation)",
        load=_load,
        files=(
            "lvb_val.json - id, video_path, question, candidates, correct_choice, duration_group, question_category",
            "videos/{video_path} - the videos, out of the parts of videos.tar",
            "or, from the Hub: validation-*.parquet with option0 to option4 in place of candidates",
        ),
        hub_ids=("longvideobench/LongVideoBench",),
        source="https://github.com/longvideobench/LongVideoBench",
        prompts={
            "default": raw_question,
            "official": _official,
            "linvt": _linvt,
            "lmms_eval": letters_rule(f"{LETTER_DIRECTLY}\n", max_new_tokens=32),
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
        notes=(
            "Only the videos are shown, as in LinVT's code; lmms-eval's longvideobench_val_i interleaves subtitles.",
            "Upstream counts an unreadable answer by a random letter (--fallback random).",
            "The answers of the test part are not public; lmms-eval writes its submission (longvideobench_test_v).",
        ),
    ),
]
