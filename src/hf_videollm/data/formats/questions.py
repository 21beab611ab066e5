"""Q: tables and lists of questions, with options to choose from or with free answers.

TGIF-QA's tables have tabs between their fields, and their clips are GIFs. Letters before options, as in "A. red", are
cut, because `answer_style` writes them.

NExT-QA (`train.csv`, https://github.com/doc-doc/NExT-QA, MIT), AVQA (`train_qa.json`), CLEVRER (`train.json`),
Social-IQ 2.0 (JSON lines), LifeQA, MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA (with `answers`). IVA, LinVT and
VideoLLaMA2 train on them. The names of columns differ; `columns` names those that are not recognised.

    video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
    1234,300,640,480,why does the dog bark,1,0,CW,hungry,sees a cat,tired,happy,cold

A file may also be one object in JSON, of ids and questions, or of videos and lists of questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..choices import MOST_OPTIONS, STYLES, letter_of, read_answer, with_options, without_letters, without_options
from ..columns import TABLE_OPTIONS, Columns, chosen_rows, name_of, path_of, rest_of
from ..conversation import assistant, question_of, user
from ..parsed_files import DataError, read_json
from ..reading import Format, Option, Source, clock
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_json

__all__ = ["FORMAT"]

_KNOWN = {
    "question": ("question", "question_text", "q"),
    "options": ("options", "multi_choice", "choices", "candidates", "answers"),
    "answer": ("answer", "answer_idx", "answer_index", "answer_id", "correct_index", "correct_idx", "correct_answer"),
    "video": ("video", "video_name", "video_filename", "vid_name", "video_id", "vid", "gif_name", "key"),
    "image": ("image",),
    "audio": ("audio",),
    "id": ("question_id", "q_id", "id"),
    "start": ("start",),
    "end": ("end",),
}
# Fields of an object of a video that hold its questions.
_LISTS = ("questions", "mc_question")
_NUMBERED = ("a{}", "option{}", "option_{}", "choice_{}")


def _read(source: Source) -> Iterator[Record]:
    columns = Columns(source, _KNOWN)
    answers = _answers(source)
    seen: dict[str, str] = {}
    for number, row in chosen_rows(source, _rows(source)):
        row = _joined(row, answers, columns)
        native = _native(row, columns, number)
        if native in seen:
            raise DataError(f"{row.where}: question {native} stands already in {seen[native]}; keep one of the two.")
        seen[native] = row.where
        if (record := _record(source, row, columns, native)) is not None:
            yield record


def _record(source: Source, row: Row, columns: Columns, native: str) -> Record | None:
    asked = columns.need(row, "question")
    names, options, right = _options(row, columns)
    if right is not None and len(right) != 1:
        source.dropped["not exactly one right choice"] += 1
        return None
    answer_column = None if right is not None else columns.need(row, "answer")
    index = right[0] if right is not None else None
    plain = without_letters(options)
    if answer_column is not None and options:
        # The answer may be the text of an option with its letter or without.
        has_letter = str(row.values[answer_column]).strip() in options
        listed = options if has_letter else plain
        index = read_answer(row, answer_column, listed, source.options["answer_is"], source.options["first_index"])
    options = plain
    answer = options[index] if index is not None else name_of(row, str(answer_column)).strip()
    kind = next((kind for kind in ("image", "audio") if columns.find(row, kind)), "video")
    column = columns.need(row, kind)
    part = {name: clock(row, found) for name in ("start", "end") if (found := columns.find(row, name)) is not None}
    block = source.medium(kind, path_of(source, row, column), row, column, **({} if kind == "image" else part))
    question, said = row.get(asked), answer
    is_choice = index is not None and not source.options["open"]
    if is_choice and len(options) > MOST_OPTIONS:
        raise DataError(
            f"{row.where}: {names[0]} has {len(options)} options, but there are {MOST_OPTIONS} letters: set open: true "
            "to ask without options."
        )
    if is_choice:
        question = with_options(question, options)
        said = STYLES[source.options["answer_style"]](letter_of(index or 0), answer)
    used = (asked, answer_column, column, *names, *(columns.find(row, name) for name in ("id", "start", "end")))
    return source.record(
        row,
        native,
        [user(block, question), assistant(said)],
        task="mc_qa" if is_choice else "open_qa",
        options=options,
        answer=answer,
        answer_index=-1 if index is None else index,
        references=[answer],
        meta={**rest_of(row, *used, "qid"), "native_id": native},
    )


def _rows(source: Source) -> Iterator[Row]:
    """Questions as rows, also those of one object in JSON."""
    if source.path.suffix.lower() != ".json" or not _is_object(source.path):
        for row in source.rows():
            yield from _inner(row, None)
        return
    for key, value in source.row(read_json(source.path), str(source.path)).values.items():
        where = f"{source.path}, {key!r}"
        if isinstance(value, list):
            for number, inner in enumerate(value):
                yield Row({"key": key, **source.row(inner, f"{where}, row {number}").values}, f"{where}, row {number}")
            continue
        yield from _inner(Row({"key": key, **source.row(value, where).values}, where), key)


def _inner(row: Row, key: str | None) -> Iterator[Row]:
    """The questions of an object of a video; any other row itself."""
    name = next((name for name in _LISTS if isinstance(row.values.get(name), list)), None)
    if name is None:
        yield row
        return
    outer = {field: value for field, value in row.values.items() if field != name}
    for number, value in enumerate(row.values[name]):
        where = f"{row.where}, {name}[{number}]"
        inner = Source.row(value, where).values
        place = key if key is not None else next((str(outer[at]) for at in ("scene_index", "id") if at in outer), "0")
        number_in = next((inner[at] for at in _KNOWN["id"] if at in inner), number)
        facts = {field: found for field, found in {**outer, **inner}.items() if field not in _KNOWN["id"]}
        yield Row({**facts, "id": f"{place}_{number_in}"}, where)


def _is_object(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def _native(row: Row, columns: Columns, number: int) -> str:
    """The id of a question. NExT-QA and Social-IQ number the questions of each video."""
    if (column := columns.find(row, "id")) is not None:
        return name_of(row, column)
    if "qid" in row.values and (video := columns.find(row, "video")) is not None:
        return f"{name_of(row, video)}_{name_of(row, 'qid')}"
    return name_of(row, "key") if "key" in row.values else str(number)


def _answers(source: Source) -> dict[str, Mapping[str, Any]]:
    """Id of a question -> fields of its answer, from a second file beside the first one."""
    if (name := source.options["answers"]) is None:
        return {}
    other = Source(source.beside("answers", name), source.name, source.split, source.root)
    found: dict[str, Row] = {}
    for row in other.rows():
        native = name_of(row, "question_id")
        if native in found:
            raise DataError(
                f"{row.where}: question {native} stands already in {found[native].where}; keep one of them."
            )
        found[native] = row
    return {native: row.values for native, row in found.items()}


def _joined(row: Row, answers: Mapping[str, Mapping[str, Any]], columns: Columns) -> Row:
    if not answers:
        return row
    native = name_of(row, columns.need(row, "id"))
    if native not in answers:
        raise DataError(f"{row.where}: the file of answers has none for question {native}: add it.")
    return Row({**answers[native], **row.values}, row.where)


def _options(row: Row, columns: Columns) -> tuple[list[str], list[str], list[int] | None]:
    """The columns of the options, their texts, and the numbers of the right ones if the options themselves say it."""
    column = columns.find(row, "options")
    if column is None or not isinstance(row.values[column], list | str):
        for pattern in _NUMBERED:
            names = [pattern.format(number) for number in range(MOST_OPTIONS) if pattern.format(number) in row.values]
            if len(names) > 1:
                return names, [name_of(row, name).strip() for name in names], None
        return [], [], None
    values = row.values[column]
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError as error:
            raise DataError(f"{row.where}: {column} is {values!r}, which is no list in JSON: {error}.") from None
    if values and all(isinstance(value, Mapping) and "choice" in value for value in values):
        choices = [Row(value, f"{row.where}, {column}[{number}]") for number, value in enumerate(values)]
        right = [number for number, choice in enumerate(choices) if choice.get("answer") == "correct"]
        return [column], [choice.get("choice").strip() for choice in choices], right
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{row.where}: {column} must be a list of texts that are not blank, not {values!r}.")
    return [column], [value.strip() for value in values], None


def _write(records: Iterable[Record], path: Path) -> None:
    write_json([_row(record) for record in records], path)


def _row(record: Record) -> dict[str, Any]:
    block, meta = media_of(record)[0], meta_of(record)
    part = {name: block[name] for name in ("start", "end") if block[name] is not None}
    question = question_of(record)
    row = {"id": meta.pop("native_id"), block["type"]: block["path"], **part}
    if record["answer_index"] < 0:
        return {**row, "question": question, "answer": record["answer"], **meta}
    question = without_options(question, record["options"])
    return {**row, "question": question, "options": record["options"], "answer": record["answer_index"], **meta}


def _fits(row: Row, path: Path) -> bool:
    values: Mapping[str, Any] = row.values
    inner = next(iter(values.values()), None)
    if path.suffix == ".json" and isinstance(inner, Mapping | list) and not set(values) & set(_KNOWN["question"]):
        values = (inner[0] if inner else {}) if isinstance(inner, list) else inner
    if not isinstance(values, Mapping):
        return False
    if name := next((name for name in _LISTS if isinstance(values.get(name), list)), None):
        return bool(values[name])
    is_chatgpt = {"q", "a", "video_id"} <= values.keys()
    return not is_chatgpt and any(name in values for name in _KNOWN["question"])


FORMAT = Format(
    letter="Q",
    name="questions",
    title="NExT-QA, AVQA, CLEVRER, Social-IQ, LifeQA, MSVD-QA, MSRVTT-QA, TGIF-QA, ActivityNet-QA",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".csv", ".tsv", ".json", ".jsonl", ".parquet"),
    options={
        **TABLE_OPTIONS,
        "answer_style": Option(
            "letter_text", "What is learned: letter, text, or both as in (B) red.", choices=tuple(STYLES)
        ),
        "answer_is": Option(
            "auto", "How the file names the right option.", choices=("auto", "index", "letter", "text")
        ),
        "first_index": Option(0, "The number of the first option in the file.", choices=(0, 1)),
        "open": Option(False, "Ask without the options, and learn the text of the right one."),
        "answers": Option(None, "A second file, with the answers of the questions by question_id.", (str,)),
    },
)
