"""Rows that belong together by an id, and media that stand in one of several folders."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .data_files import DataError, DataFiles, Row

__all__ = [
    "NUMBERED",
    "check_answers",
    "check_new",
    "join_by_id",
    "medium_in",
    "rows_by_id",
    "stated_number",
    "text_id",
]

# A note of tasks whose files have no ids of questions.
NUMBERED = (
    "The rows have no ids: items are numbered in the order of the rows, so a row that stands twice makes two items."
)


def text_id(row: Row, field: str) -> str:
    """The id in a field of a row, as text; some files write ids as numbers.

    Raises:
        DataError: the field is missing, or holds something else.
    """
    return str(row.get(field, (str, int)))


def stated_number(row: Row, field: str) -> float | None:
    """A length in a field, which may be missing, as a number or as a text; None if it is neither.

    Example:
        >>> stated_number(Row({"duration": "12.5"}, "row 0"), "duration")
        12.5
    """
    try:
        number = float(row.values.get(field) or 0)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def check_new(seen: dict[str, str], name: str, where: str) -> None:
    """Note an id that a loader makes itself, e.g. from the name of a file.

    Args:
        seen: the ids so far and where each stands; gets the new one.
        name: the id.
        where: file and row, e.g. `Row.where`.

    Raises:
        DataError: the id stands twice.
    """
    if name in seen:
        raise DataError(f"{where}: the id {name!r} stands already in {seen[name]}; keep one of them.")
    seen[name] = where


def rows_by_id(rows: Iterable[Row], field: str) -> dict[str, Row]:
    """The rows by their ids, in their order.

    Raises:
        DataError: two rows have the same id, or a row has none.
    """
    found: dict[str, Row] = {}
    for row in rows:
        name = text_id(row, field)
        if name in found:
            raise DataError(
                f"{row.where}: {field} {name!r} stands already in {found[name].where}; keep one of the two."
            )
        found[name] = row
    return found


def check_answers(answers: Mapping[str, Row], questions: Container[str], where: str) -> None:
    """Refuse answers to questions that are not asked; a question without an answer is a matter of the benchmark.

    Args:
        answers: id of a question -> the row that answers it.
        questions: ids of all questions.
        where: file of the questions.

    Raises:
        DataError: there is no question to an answer.
    """
    for name, row in answers.items():
        if name not in questions:
            raise DataError(
                f"{row.where}: there is no question {name!r} in {where}: correct the id, or take the answer out."
            )


def join_by_id(questions: Iterable[Row], answers: Iterable[Row], field: str) -> Iterator[tuple[str, Row, Row]]:
    """Questions with their answers, in the order of the questions. The order of the answers means nothing.

    Args:
        field: that holds the id in both.

    Yields:
        (id, question, answer).

    Raises:
        DataError: an id stands twice in one of the files, or in one of them only.
    """
    question_rows, answer_rows = rows_by_id(questions, field), rows_by_id(answers, field)
    for name, row in answer_rows.items():
        if name not in question_rows:
            raise DataError(f"{row.where}: there is no question to the answer with {field} {name!r}.")
    for name, row in question_rows.items():
        if name not in answer_rows:
            raise DataError(f"{row.where}: there is no answer to the question with {field} {name!r}.")
        yield name, row, answer_rows[name]


def medium_in(data: DataFiles, folders: Sequence[str], name: str, suffixes: Sequence[str] = ("",)) -> Path:
    """Path of a medium in the first folder that has it; where none has, its path in the first one.

    Args:
        data: the folder of the benchmark, or of its lists; then media beside the lists come before those of the whole.
        folders: below this folder; "" is the folder itself.
        name: of the medium without its suffix.
        suffixes: with which it may end, e.g. ".mp4".

    Raises:
        DataError: the name leads out of the folder of the benchmark.
    """
    roots = [data] if data.outer is None else [data, data.outer]
    paths = [root.medium(f"{folder}/{name}" if folder else name, suffixes) for root in roots for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])
