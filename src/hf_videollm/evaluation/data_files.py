"""The files of one benchmark: annotations with their columns checked, and media that are found or named as missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.parsed_files import FETCH, DataError, read_json, read_json_lines, read_parquet, read_table, read_utf8
from ..data.rows import Row as FileRow
from ..models.video_llm_option_names import did_you_mean
from .items import Item

__all__ = ["DataError", "DataFiles", "MissingFilesError", "Row", "read_utf8"]


class MissingFilesError(DataError):
    """A file of a benchmark is not there."""


@dataclass(frozen=True)
class Row(FileRow):
    """One row of an annotation file, which knows where it stands and can become an item."""

    def item(self, **fields: Any) -> Item:
        """An item that this row describes.

        Args:
            fields: of `Item`.

        Raises:
            DataError: the item contradicts itself, or a question or its answer is blank.
        """
        try:
            item = Item(**fields)
        except ValueError as error:
            raise DataError(f"{self.where}: {error}") from error
        if not all(question.strip() for question in item.questions):
            raise DataError(f"{self.where}: a question of item {item.id!r} is blank: fetch the file again.")
        if item.answer is not None and not item.answer.strip():
            raise DataError(f"{self.where}: the right answer of item {item.id!r} is blank: write one, or leave it out.")
        return item


@dataclass(frozen=True)
class DataFiles:
    """The folder that holds one benchmark.

    Attributes:
        root: the folder; paths of annotations and media are relative to it.
        outer: the folder of the whole benchmark, if `root` holds its lists alone; media may lie in either.
    """

    root: Path
    outer: DataFiles | None = None

    def beside(self, path: Path) -> DataFiles:
        """The folder that holds a list of this benchmark."""
        return self if path.parent == self.root else DataFiles(path.parent, self)

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
            DataError: the name is blank, or leads out of the folder.
        """
        if not stem.rpartition("/")[2].strip():
            raise DataError(f"{self.root}: the annotations hold a medium without a name: fetch them again.")
        if Path(stem).is_absolute() or ".." in Path(stem).parts:
            raise DataError(f"{self.root}: the name {stem!r} of a medium leads out of the folder of the benchmark.")
        paths = [self.root / f"{stem}{suffix}" for suffix in suffixes]
        return next((path for path in paths if path.exists()), paths[0])

    def json(self, *names: str) -> Any:
        """Content of the first of the JSON files that exists.

        Raises:
            DataError: there is none, it is no JSON, or an object has a key twice.
        """
        return read_json(self.find(*names))

    def json_object(self, *names: str, holds: str) -> Mapping[str, Any]:
        """Content of a JSON file that holds an object with fields.

        Args:
            holds: what stands in its fields, for errors.

        Raises:
            DataError: the file is missing, holds something else, or holds no field.
        """
        value, path = self.json(*names), self.find(*names)
        if not isinstance(value, Mapping):
            raise DataError(f"{path} should hold an object with {holds}, not a {type(value).__name__}: {FETCH}.")
        if not value:
            raise DataError(f"{path} holds an empty object: fetch the file again.")
        return value

    def json_list(self, *names: str, field: str) -> Iterator[Row]:
        """Rows of a JSON file that holds an object with a list of objects in one of its fields.

        Raises:
            DataError: the file is missing, holds something else, or the list is empty.
        """
        value, path = self.json_object(*names, holds=f"the field {field!r}"), self.find(*names)
        if field not in value:
            raise DataError(f"{path} lacks the field {field!r}: {did_you_mean(field, value)}")
        if value[field] == []:
            raise DataError(f"{path}, {field} holds an empty list: fetch the file again.")
        yield from self.as_rows(value[field], f"{path}, {field}")

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
            raise DataError(f"{where} should hold a list of objects, not a {type(values).__name__}: {FETCH}.")
        for number, value in enumerate(values):
            yield self.as_row(value, f"{where}, row {number}")

    @staticmethod
    def as_row(value: Any, where: str) -> Row:
        """An object as a row.

        Args:
            where: file and place in it.

        Raises:
            DataError: it is no object.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: expected an object, got {type(value).__name__}: {FETCH}.")
        return Row(value, where)

    def jsonl_rows(self, *names: str) -> Iterator[Row]:
        """Rows of a file with one JSON object in each line. Empty lines do not count.

        Raises:
            DataError: the file is missing, empty or no UTF-8, or a line is no JSON object.
        """
        path = self.find(*names)
        for number, value in read_json_lines(path):
            yield self.as_row(value, f"{path}, line {number}")

    def csv_rows(
        self, *names: str, columns: Sequence[str], delimiter: str = ",", has_header: bool = True
    ) -> Iterator[Row]:
        """Rows of a table; every value is a text.

        Args:
            columns: that are needed; all that there are, in their order, of a table without a header.

        Raises:
            DataError: the file is missing, no UTF-8 or no table, holds no row, lacks one of `columns` or has it twice,
                or a row has more or fewer fields than there are columns.
        """
        path = self.find(*names)
        rows = read_table(path, delimiter)
        header = next(rows)[1] if has_header else columns
        self.check_columns(header, columns, str(path))
        found = False
        for line, fields in rows:
            where = f"{path}, line {line}"
            if has_header and not fields:
                continue
            found = True
            # Blank fields behind the last column are delimiters that a program wrote for nothing.
            surplus = [field for field in fields[len(header) :] if field.strip() or not has_header]
            if len(fields) < len(header) or surplus:
                if has_header:
                    raise DataError(f"{where}: the row has {len(fields)} fields, the header {len(header)}.")
                raise DataError(f"{where}: expected {len(columns)} fields ({', '.join(columns)}), got {len(fields)}.")
            yield Row(dict(zip(header, fields, strict=False)), where)
        if not found:
            raise DataError(f"{path} holds no row below its header: fetch the file again.")

    def parquet_rows(self, *patterns: str, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of all Parquet files that one of the patterns finds, in the order of their names.

        Raises:
            DataError: no pattern finds a file, or one is no Parquet, holds no row, or lacks one of `columns`.
        """
        paths = sorted({path for pattern in patterns for path in self.root.glob(pattern)})
        if not paths:
            raise MissingFilesError(f"{self.root} has no {' and no '.join(patterns)}.")
        for path in paths:
            names, rows = read_parquet(path)
            self.check_columns(names, columns, str(path))
            number = -1
            for number, values in enumerate(rows):
                yield Row(values, f"{path}, row {number}")
            if number < 0:
                raise DataError(f"{path} holds no row: fetch the file again.")

    @staticmethod
    def check_columns(present: Sequence[str], needed: Sequence[str], where: str) -> None:
        """Raise `DataError` if a column that is needed is not present, or is there twice."""
        for name in needed:
            if list(present).count(name) > 1:
                raise DataError(f"{where} has the column {name!r} twice: keep one of them.")
            if name not in present:
                raise DataError(f"{where} lacks the column {name!r}: {did_you_mean(name, present)}")
