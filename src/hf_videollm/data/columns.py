"""Finds the columns of tables, which have other names in every data set, and chooses rows by their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .parsed_files import DataError
from .reading import Option, Source, clock
from .rows import Row

__all__ = ["TABLE_OPTIONS", "Columns", "chosen_rows", "name_of", "part_of", "path_of", "rest_of"]

# Options of all readers of tables.
TABLE_OPTIONS = {
    "columns": Option(None, "Names of columns that are not recognised, such as {video: clip_name}.", (dict,)),
    "header": Option(None, "Names of all columns in their order, for a table without a header.", (list,)),
    "pattern": Option(None, "The path of the medium, made of columns, such as v_{video_id}.mp4.", (str,)),
    "where": Option(None, "Only rows with these values, such as {split: train}; a list allows several.", (dict,)),
}


class Columns:
    """Which column of a file has which meaning.

    Args:
        source: the file; its option `columns` comes before the known names.
        known: meaning -> names that it has in data sets, the more special ones first.
    """

    def __init__(self, source: Source, known: Mapping[str, Sequence[str]]) -> None:
        self.known = known
        self.given: Mapping[str, Any] = source.options.get("columns") or {}
        for meaning in self.given:
            if meaning not in known:
                raise DataError(f"{source.path}: columns names the meaning {meaning!r}: {did_you_mean(meaning, known)}")

    def find(self, row: Row, meaning: str) -> str | None:
        """The column with this meaning; None if there is none.

        Raises:
            DataError: the option `columns` names one that the file does not have.
        """
        if (name := self.given.get(meaning)) is not None:
            if name not in row.values:
                raise DataError(f"{row.where}: columns names {name!r}: {did_you_mean(name, row.values)}")
            return str(name)
        return next((name for name in self.known[meaning] if name in row.values), None)

    def need(self, row: Row, meaning: str) -> str:
        """The column with this meaning.

        Raises:
            DataError: there is none.
        """
        if (name := self.find(row, meaning)) is None:
            known = ", ".join(self.known[meaning])
            raise DataError(
                f"{row.where}: no column holds the {meaning} ({known}); name it in columns: the file has "
                f"{', '.join(map(str, row.values))}."
            )
        return name


def chosen_rows(source: Source, rows: Iterator[Row]) -> Iterator[tuple[int, Row]]:
    """The rows that the option `where` chooses, with the numbers that they have among all rows.

    Raises:
        DataError: `where` names a column that does not exist, or chooses no row.
    """
    wanted = {
        name: {str(value) for value in (values if isinstance(values, list) else [values])}
        for name, values in (source.options.get("where") or {}).items()
    }
    found = False
    for number, row in enumerate(rows):
        for name in wanted:
            if name not in row.values:
                raise DataError(f"{row.where}: where names the column {name!r}: {did_you_mean(name, row.values)}")
        if all(str(row.values[name]) in values for name, values in wanted.items()):
            found = True
            yield number, row
        else:
            source.dropped["not chosen by where"] += 1
    if not found:
        raise DataError(f"{source.path}: where {source.options['where']} chooses no row: correct it.")


def name_of(row: Row, column: str) -> str:
    """An id or a name in a field, as text; some files write them as numbers."""
    return str(row.get(column, (str, int)))


def path_of(source: Source, row: Row, column: str) -> str:
    """The path of the medium that a column names, by the option `pattern` if it is given.

    Raises:
        DataError: the field is missing, or the pattern names a column that does not exist.
    """
    pattern = source.options.get("pattern")
    if pattern is None:
        return name_of(row, column)
    texts = {name: str(value) for name, value in row.values.items()}
    # In a table all values are texts, but a pattern may ask for numbers, such as {start:06d}.
    numbers = {name: int(value) if value.isdigit() else value for name, value in texts.items()}
    try:
        try:
            return str(pattern.format_map(texts))
        except ValueError:
            return str(pattern.format_map(numbers))
    except (KeyError, IndexError) as error:
        name = str(error.args[0])
        raise DataError(f"{row.where}: pattern names the column {name!r}: {did_you_mean(name, texts)}") from None
    except (ValueError, AttributeError) as error:
        raise DataError(f"{row.where}: pattern {pattern!r} does not fit this row: {error}.") from None


def part_of(row: Row, bounds: Mapping[str, str | None]) -> dict[str, float | None]:
    """Start and end of the part of a file that a row is about.

    Args:
        row: the row.
        bounds: start and end -> their columns; None for one that the file does not have.

    Raises:
        DataError: it has neither, or a field is no time.
    """
    if not any(bounds.values()):
        raise DataError(
            f"{row.where}: cut needs columns with start and end, and the file has {', '.join(map(str, row.values))}: "
            "name them in columns, or leave cut out."
        )
    return {name: clock(row, column) for name, column in bounds.items() if column}


def rest_of(row: Row, *used: str | None) -> dict[str, Any]:
    """The fields of a row that nothing has used. They are kept in `meta`."""
    return {name: value for name, value in row.values.items() if name not in used and value not in (None, "")}
