"""Clotho-AQA: questions about sounds, answered with one word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..packed_media import unpacked
from ..paper_prompts import greedy, videollama2_rule
from ..prompting import Prompt, raw_question
from ..row_joins import medium_in
from ..task import Task

__all__ = ["TASKS"]

_SPLIT = "clotho_aqa_test_filtered-*.parquet"
_FOLDERS = ("audio_files", "audio", "")


def _load(data: DataFiles) -> Iterator[Item]:
    if any(data.root.glob(f"**/{_SPLIT}")):
        yield from _load_hub(data)
        return
    path = data.find("clotho_aqa_test.csv", "clothoaqa_eval.jsonl", _SPLIT)
    if path.suffix == ".jsonl":
        yield from _load_list(data)
        return
    yield from _load_annotators(data)


def _load_annotators(data: DataFiles) -> Iterator[Item]:
    """The official table, in which three people answer each question: what most say is right."""
    columns = ("file_name", "QuestionText", "answer")
    answers: dict[tuple[str, str], list[str]] = {}
    rows: dict[tuple[str, str], Row] = {}
    for row in data.csv_rows("clotho_aqa_test.csv", columns=columns):
        key = (row.get("file_name"), row.get("QuestionText").strip())
        rows.setdefault(key, row)
        answers.setdefault(key, []).append(row.get("answer").strip())
    numbers: Counter[str] = Counter()
    for (file, question), given in answers.items():
        # "Yes" and "yes" are one answer. `most_common` keeps the order of the table among equals.
        folded = [answer.casefold() for answer in given]
        [(most, votes)] = Counter(folded).most_common(1)
        answer = given[folded.index(most)]
        name = f"{PurePosixPath(file).stem}_{numbers[file]}"
        numbers[file] += 1
        yield _item(data, rows[file, question], name, file, question, answer, f"{votes} of {len(given)}")


def _load_list(data: DataFiles) -> Iterator[Item]:
    """Qwen-Audio's list."""
    numbers: Counter[str] = Counter()
    for row in data.jsonl_rows("clothoaqa_eval.jsonl"):
        file = PurePosixPath(row.get("audio")).name
        name = f"{PurePosixPath(file).stem}_{numbers[file]}"
        numbers[file] += 1
        yield _item(data, row, name, file, row.get("question").strip(), row.get("gt").strip())


def _item(
    data: DataFiles, row: Row, name: str, file: str, question: str, answer: str, agreement: str = "unknown"
) -> Item:
    return row.item(
        id=name,
        media=(Medium(medium_in(data, _FOLDERS, file), "audio"),),
        questions=(question,),
        answer=answer,
        groups={"kind": _kind(answer), "agreement": agreement},
    )


def _load_hub(data: DataFiles) -> Iterator[Item]:
    rows = data.parquet_rows(_SPLIT, f"*/{_SPLIT}", columns=("audio", "question", "answer"))
    for number, row in enumerate(rows):
        answer = row.get("answer").strip()
        yield row.item(
            id=str(number),
            media=(Medium(unpacked(data, row, "audio", f"clotho_aqa_test_filtered_{number:06d}"), "audio"),),
            questions=(row.get("question").strip(),),
            answer=answer,
            groups={"kind": _kind(answer), "agreement": "unknown"},
        )


def _kind(answer: str) -> str:
    return "yes/no" if answer.lower() in ("yes", "no") else "one word"


def _lmms_eval(item: Item, question: str) -> Prompt:
    # The blank at the end is the original's.
    return Prompt(f"{question}\nAnswer the question using a single word only. ", generate_kwargs=greedy(8))


TASKS = [
    Task(
        name="clotho_aqa",
        title="Clotho-AQA",
        load=_load,
        files=(
            "clotho_aqa_test.csv - the answer of each person: file_name, QuestionText, answer",
            "audio_files/{file_name} - the sounds; the folder audio is found, too",
            "or, of Qwen-Audio: clothoaqa_eval.jsonl with audio, question, gt",
            f"or, from the Hub: {_SPLIT} with audio, question, answer; the sounds are written into unpacked/",
        ),
        hub_ids=("lmms-lab-audio/ClothoAQA", "lmms-lab/ClothoAQA"),
        source="https://zenodo.org/records/6473207",
        prompts={"default": raw_question, "videollama2": videollama2_rule("clotho_aqa"), "lmms_eval": _lmms_eval},
        metric="exact_match",
        match_rules={
            "default": "folded",
            "videollama2": "videollama2",
            # For the accuracy on the questions that are answered with yes or no alone.
            "videollama2_binary": "videollama2_binary",
        },
        group_by=("kind", "agreement"),
        modalities=("audio",),
        published={
            "videollama2": {  # Table 7
                "VideoLLaMA 2 (7B)": {"accuracy": 60.60},
            },
        },
        notes=(
            "The official table has three answers to each question; what most say is right here, and the first answer "
            "where all three differ. The table `agreement` says how many agree. VideoLLaMA2's own list is not public.",
            "The copy on the Hub has the questions on which people agree, which are fewer and easier.",
            "VideoLLaMA2 crops a random 30 seconds of longer sounds, also in its evaluation.",
        ),
    ),
]
