"""The files of one benchmark: annotations with their columns checked, and media that are found or named as missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .items import Item

__all__ = ["DataError", "DataFiles", "MissingFilesError", "Row", "read_utf8"]

ROWS_AT_ONCE = 64


class DataError(ValueError):
    """The files of a benchmark are not as they should be; the message names file, row and field."""


class MissingFilesError(DataError):
    """A file of a benchmark is not there."""


@dataclass(frozen=True)
class Row:
    """One row of an annotation file, which knows where it stands.

    Attributes:
        values: column -> value.
        where: file and row, for errors, e.g. `/data/test_q.json, row 3`.
    """

    values: Mapping[str, Any]
    where: str

    def get(self, name: str, kind: type | tuple[type, ...] = str, default: Any = ...) -> Any:
        """A field of the row.

        Args:
            name: of the column.
            kind: type, or types, that the value must have. A number is taken for a text where the files of a benchmark
                differ: ask for `(str, int)`.
            default: what stands for a missing or empty field; without it, a missing field is an error.

        Raises:
            DataError: the field is missing, or has another type.
        """
        value = self.values.get(name)
        if value is None:
            if default is not ...:
                return default
            raise DataError(f"{self.where}: the field {name!r} is missing: {did_you_mean(name, self.values)}")
        # In Python, true is an integer, but nobody writes it for one.
        if isinstance(value, bool) and kind is not bool:
            raise DataError(f"{self.where}: {name} is {value!r}, which is no {_names(kind)}.")
        if not isinstance(value, kind):
            raise DataError(f"{self.where}: {name} is {value!r}, which is no {_names(kind)}.")
        return value

    def item(self, **fields: Any) -> Item:
        """An item that this row describes.

        Args:
            fields: of `Item`.

        Raises:
            DataError: the item contradicts itself, or its answer is blank.
        """
        try:
            item = Item(**fields)
        except ValueError as error:
            raise DataError(f"{self.where}: {error}") from error
        if item.answer is not None and not item.answer.strip():
            raise DataError(f"{self.where}: the right answer of item {item.id!r} is blank: write one, or leave it out.")
        return item


def _names(kind: type | tuple[type, ...]) -> str:
    return " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))


def read_utf8(path: Path) -> str:
    """Content of a text file, less a byte order mark.

    Raises:
        DataError: it has another encoding; the message names the line.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DataError(
            f"{path}, line {line} has the byte 0x{byte:02x}, which is no UTF-8: save it as UTF-8."
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys are ids in some benchmarks; of equal keys, Python would keep the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {twice!r} stands twice in the same object; keep one of them.")
    return value


@dataclass(frozen=True)
class DataFiles:
    """The folder that holds one benchmark.

    Attributes:
        root: the folder; paths of annotations and media are relative to it.
    """

    root: Path

    def find(self, *names: str) -> Path:
        """The first of the files or folders that exists.

        Raises:
            MissingFilesError: none does; the message lists what was looked for.
        """
        for name in names:
            if (path := self.root / name).exists():
                return path
        raise MissingFilesError(f"{self.root} has no {' and no '.join(names)}.")

    def medium(self, stem: str, suffixes: Sequence[str] = ("",)) -> Path:
        """Path of a medium, by the first suffix with which it exists.

        A medium that is missing is no error of the annotations: the path with the first suffix comes back, and the run
        counts and reports the item when it cannot be read.

        Raises:
            DataError: the name leads out of the folder.
        """
        if Path(stem).is_absolute() or ".." in Path(stem).parts:
            raise DataError(f"{self.root}: the name {stem!r} of a medium leads out of the folder of the benchmark.")
        paths = [self.root / f"{stem}{suffix}" for suffix in suffixes]
        return next((path for path in paths if path.exists()), paths[0])

    def json(self, *names: str) -> Any:
        """Content of the first of the JSON files that exists.

        Raises:
            DataError: there is none, it is no JSON, or an object has a key twice.
        """
        path = self.find(*names)
        try:
            return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as JSON: {error}") from error

    def json_rows(self, *names: str) -> Iterator[Row]:
        """Rows of a JSON file that holds a list of objects.

        Raises:
            DataError: the file is missing, holds something else, or holds no object at all.
        """
        values, path = self.json(*names), self.find(*names)
        if values == []:
            raise DataError(f"{path} holds an empty list: fetch the file again.")
        yield from self.as_rows(values, str(path))

    def as_rows(self, values: Any, where: str) -> Iterator[Row]:
        """Objects of a list as rows.

        Args:
            where: file (and field) that the list comes from.

        Raises:
            DataError: it is no list, or holds something that is no object.
        """
        if not isinstance(values, list):
            raise DataError(f"{where} should hold a list of objects, not a {type(values).__name__}.")
        for number, value in enumerate(values):
            if not isinstance(value, Mapping):
                raise DataError(f"{where}, row {number}: expected an object, got {type(value).__name__}.")
            yield Row(value, f"{where}, row {number}")

    def jsonl_rows(self, *names: str) -> Iterator[Row]:
        """Rows of a file with one JSON object in each line. Empty lines do not count.

        Raises:
            DataError: the file is missing or no UTF-8, or a line is no JSON object.
        """
        path = self.find(*names)
        for number, line in enumerate(StringIO(read_utf8(path), newline=None), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number} cannot be read as JSON: {error}") from error
            if not isinstance(value, Mapping):
                raise DataError(f"{path}, line {number}: expected an object, got {type(value).__name__}.")
            yield Row(value, f"{path}, line {number}")

    def csv_rows(
        self, *names: str, columns: Sequence[str], delimiter: str = ",", has_header: bool = True
    ) -> Iterator[Row]:
        """Rows of a table; every value is a text.

        Args:
            columns: that are needed; all that there are, in their order, of a table without a header.

        Raises:
            DataError: the file is missing or no UTF-8, lacks one of `columns`, or a row has more or fewer fields than
                there are columns.
        """
        path = self.find(*names)
        reader = csv.reader(StringIO(read_utf8(path), newline=""), delimiter=delimiter)
        header = next(reader, []) if has_header else columns
        self.check_columns(header, columns, str(path))
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if has_header and not fields:
                continue
            # Blank fields behind the last column are delimiters that a program wrote for nothing.
            surplus = [field for field in fields[len(header) :] if field.strip() or not has_header]
            if len(fields) < len(header) or surplus:
                if has_header:
                    raise DataError(f"{where}: the row has {len(fields)} fields, the header {len(header)}.")
                raise DataError(f"{where}: expected {len(columns)} fields ({', '.join(columns)}), got {len(fields)}.")
            yield Row(dict(zip(header, fields, strict=False)), where)

    def parquet_rows(self, *patterns: str, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of all Parquet files that one of the patterns finds, in the order of their names.

        Raises:
            DataError: no pattern finds a file, or one lacks one of `columns`.
        """
        import pyarrow.parquet  # type: ignore[import-untyped]

        paths = sorted({path for pattern in patterns for path in self.root.glob(pattern)})
        if not paths:
            raise MissingFilesError(f"{self.root} has no {' and no '.join(patterns)}.")
        for path in paths:
            table = pyarrow.parquet.ParquetFile(path)
            self.check_columns(table.schema_arrow.names, columns, str(path))
            number = 0
            # Rows may hold videos.
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    yield Row(values, f"{path}, row {number}")
                    number += 1

    @staticmethod
    def check_columns(present: Sequence[str], needed: Sequence[str], where: str) -> None:
        """Raise `DataError` if a column that is needed is not present."""
        for name in needed:
            if name not in present:
                raise DataError(f"{where} lacks the column {name!r}: {did_you_mean(name, present)}")
