"""Annotation files as plain values: text, JSON, JSON lines, tables and Parquet. What is wrong is told in one line.

All errors name the file, and the line where the format has lines, and end with what to do. JSON lines, tables and
Parquet are read row by row, because the files of training data may be larger than the memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

__all__ = [
    "FETCH",
    "DataError",
    "delimiter_of",
    "read_json",
    "read_json_lines",
    "read_parquet",
    "read_table",
    "read_utf8",
    "unique_keys",
]

_ROWS_AT_ONCE = 64
FETCH = "correct it, or fetch the file again"
# Stands behind the last row of a table. If it is part of another row, a quotation mark before it was never closed.
_END = "\x1eend of the file\x1e"


class DataError(ValueError):
    """Files of data are not as they should be; the message names file, row and field."""


def read_utf8(path: Path) -> str:
    """Content of a text file, less a byte order mark.

    Raises:
        DataError: it is empty, or has another encoding; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DataError(
            f"{path}, line {line} has the byte 0x{byte:02x}, which is no UTF-8: save it as UTF-8."
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty: fetch the file again.")
    return text


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: it is empty or no JSON, is nested too deeply, or an object has a key twice.
    """
    return _parsed(read_utf8(path), path)


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Values of a file with one JSON value in each line, with the numbers of the lines. Empty lines do not count.

    Raises:
        DataError: as `read_json`.
    """
    found = False
    with _text_of(path, newline=None) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                found = True
                yield number, _parsed(line, path, number)
    if not found:
        raise DataError(f"{path} is empty: fetch the file again.")


@contextmanager
def _text_of(path: Path, newline: str | None) -> Iterator[TextIO]:
    """The file as text that is decoded while it is read; `read_utf8` makes the error if it is no UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as lines:
            yield lines
    except UnicodeDecodeError:
        read_utf8(path)
        raise


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    """A value of JSON. `line` is the number of the only line that the text consists of."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except DataError as error:
        raise DataError(f"{_place(path, line)}: {error}") from None
    except json.JSONDecodeError as error:
        place = f"{path}, line {line or error.lineno}"
        raise DataError(f"{place} cannot be read as JSON: {error.msg} (column {error.colno}); {FETCH}.") from error
    except RecursionError:
        raise DataError(f"{_place(path, line)} cannot be read as JSON: it is nested too deeply; {FETCH}.") from None
    except ValueError as error:
        # Python reads no numbers of thousands of digits.
        raise DataError(f"{_place(path, line)} cannot be read as JSON: {error}; {FETCH}.") from error


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys are ids in some benchmarks; of equal keys, Python would keep the last.

    Raises:
        DataError: two keys are equal.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {twice!r} stands twice in the same object; keep one of them.")
    return value


def delimiter_of(path: Path) -> str:
    """What divides the fields of a table: tabs, or commas in a file .csv whose first line has no more tabs than commas.

    Some data sets, such as TGIF-QA, publish tables with tabs as .csv.
    """
    if path.suffix.lower() != ".csv":
        return "\t"
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    return "\t" if first.count(b"\t") > first.count(b",") else ","


def read_table(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Rows of a table, each with the number of its first line. An empty line is a row without fields.

    Raises:
        DataError: the file is empty, or `csv` cannot read it.
    """
    line, found = 1, False
    blanks: list[tuple[int, list[str]]] = []
    with _text_of(path, newline="") as text:
        reader = csv.reader(chain(_ended(text), [f"{_END}\n"]), delimiter=delimiter)
        try:
            for fields in reader:
                if fields == [_END]:
                    break
                if fields and _END in fields[-1]:
                    raise DataError(f"{path}, line {line}: a quotation mark is opened and never closed; {FETCH}.")
                found = found or any(field.strip() for field in fields)
                # Blank rows wait for another one: a file of nothing else is an empty file.
                blanks.append((line, fields))
                if found:
                    yield from blanks
                    blanks.clear()
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {line} cannot be read as a table: {error}; {FETCH}.") from error
    if not found:
        raise DataError(f"{path} is empty: fetch the file again.")


def _ended(lines: TextIO) -> Iterator[str]:
    """The lines of a file; the last of them ends like the others."""
    for line in lines:
        yield line if line.endswith(("\n", "\r")) else f"{line}\n"


def read_parquet(path: Path) -> tuple[Sequence[str], Iterator[dict[str, Any]]]:
    """Names of the columns of a Parquet file, and its rows.

    Raises:
        DataError: it is no Parquet, or a part of it cannot be read; that may show only when the rows are read.
    """
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    faults = (pyarrow.ArrowException, OSError, UnicodeDecodeError)

    def fault(error: Exception) -> DataError:
        from ..models.errors import one_line

        return DataError(f"{path} cannot be read as Parquet: {one_line(error)}; fetch the file again.")

    def rows() -> Iterator[dict[str, Any]]:
        try:
            # Rows may hold videos.
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from batch.to_pylist()
        except faults as error:
            raise fault(error) from error

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except faults as error:
        raise fault(error) from error
    return table.schema_arrow.names, rows()
