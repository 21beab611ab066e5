"""Items of multiple-choice benchmarks: options without letters, and the number of the right one.

Files name the right option by its letter, its number, or its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .choice_robust import without_labels
from .data_files import DataError, DataFiles, Row
from .items import Item, Medium
from .prompting import letter_of

__all__ = ["by_letter", "by_number", "by_text", "choice_item", "finds", "listed_options", "numbered_options"]

MOST_OPTIONS = 26


def finds(data: DataFiles, patterns: Sequence[str]) -> bool:
    """Whether a file of the benchmark matches one of the patterns, e.g. `MC/test-*.parquet`."""
    return any(True for pattern in patterns for _ in data.root.glob(pattern))


def listed_options(row: Row, field: str) -> tuple[str, ...]:
    """The options in a field that holds a list of texts. Letters that stand before all of them are dropped.

    Raises:
        DataError: the field holds something else, or fewer than two options.
    """
    values = row.get(field, (list, tuple))
    if len(values) < 2 or len(values) > MOST_OPTIONS or not all(isinstance(value, str) for value in values):
        raise DataError(f"{row.where}: {field} is {values!r}, which is no list of 2 to {MOST_OPTIONS} texts.")
    return tuple(without_labels(values))


def numbered_options(row: Row, pattern: str, names: Sequence[Any]) -> tuple[str, ...]:
    """The options in fields of their own, e.g. `a0` to `a4`.

    Args:
        pattern: name of a field with `{}` in place of its number or letter.
        names: numbers or letters of the options, in order.

    Raises:
        DataError: one is missing.
    """
    return tuple(str(row.get(pattern.format(name), (str, int, float))) for name in names)


def by_letter(row: Row, field: str, options: Sequence[str]) -> int:
    """Number of the option whose letter a field holds.

    Raises:
        DataError: it holds something else, or the letter of no option.
    """
    letter = row.get(field).strip().strip("().")
    letters = [letter_of(index) for index in range(len(options))]
    if letter not in letters:
        raise DataError(
            f"{row.where}: {field} is {row.get(field)!r}, but the options are {letters[0]} to {letters[-1]}."
        )
    return letters.index(letter)


def by_number(row: Row, field: str, options: Sequence[str]) -> int:
    """The number of an option, counted from 0, that a field holds as a number or as a text.

    Raises:
        DataError: it holds something else, or the number of no option.
    """
    value = row.get(field, (int, str))
    if isinstance(value, str) and not value.strip().isdecimal():
        raise DataError(f"{row.where}: {field} is {value!r}, which is no number of an option.")
    if not 0 <= (number := int(value)) < len(options):
        raise DataError(f"{row.where}: {field} is {number}, but the options are 0 to {len(options) - 1}.")
    return number


def by_text(row: Row, field: str, options: Sequence[str]) -> int:
    """Number of the first option that is the text in a field.

    Raises:
        DataError: no option is.
    """
    text = row.get(field)
    if text not in options:
        raise DataError(
            f"{row.where}: {field} is {text!r}, which is none of the options {', '.join(map(repr, options))}."
        )
    return list(options).index(text)


def choice_item(
    row: Row,
    name: str,
    media: Medium | Sequence[Medium],
    question: str,
    options: Sequence[str],
    right: int | None,
    groups: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Item:
    """An item with options.

    Args:
        row: that describes it, for errors.
        name: its id.
        right: number of the right option; None where it is not public.

    Raises:
        DataError: the item contradicts itself, or its answer is blank.
    """
    return row.item(
        id=name,
        media=(media,) if isinstance(media, Medium) else tuple(media),
        questions=(question,),
        options=tuple(options),
        answer=None if right is None else options[right],
        answer_index=right,
        groups=groups or {},
        extra=extra or {},
    )
