"""A row of a file of data, which knows where it stands, so that every error about it names file, row and field."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .parsed_files import FETCH, DataError

__all__ = ["Row", "shown"]

# So much of a wrong value stands in an error.
_MOST_SHOWN = 80


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
            if name in self.values:
                raise DataError(f"{self.where}: the field {name!r} is missing: its value is null; {FETCH}.")
            raise DataError(f"{self.where}: the field {name!r} is missing: {did_you_mean(name, self.values)}")
        # In Python, true is an integer, but nobody writes it for one.
        if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
            raise DataError(f"{self.where}: {name} is {shown(value)}, which is no {_names(kind)}: {FETCH}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{self.where}: {name} is {value}, which is no finite number: {FETCH}.")
        if isinstance(value, str) and default is ... and not value.strip():
            raise DataError(f"{self.where}: {name} is blank: {FETCH}.")
        return value

    def parts(self, name: str, fields: str, least: str) -> Iterator[Row]:
        """A field that holds a list of objects, each as a row of its own.

        Args:
            name: of the column.
            fields: what an object has, for errors, e.g. "question and answer".
            least: what an empty list should hold, for errors, e.g. "at least one answer".

        Raises:
            DataError: the field is missing, is empty, or holds something else.
        """
        values = self.get(name, list)
        if not values:
            raise DataError(f"{self.where}: {name} is an empty list: give {least}.")
        for position, value in enumerate(values):
            where = f"{self.where}, {name}[{position}]"
            if not isinstance(value, Mapping):
                raise DataError(f"{where} must be an object with {fields}, not a {type(value).__name__}.")
            yield Row(value, where)

    def texts(self, name: str, default: Any = ..., *, may_be_empty: bool = False) -> list[str]:
        """A field that holds a list of texts.

        Args:
            name: of the column.
            default: what stands for a missing field; without it, a missing field is an error.
            may_be_empty: whether a list of no texts is one, too.

        Raises:
            DataError: the field is missing, or holds something else.
        """
        values: list[str] = self.get(name, list, default)
        if not (values or may_be_empty) or not all(isinstance(value, str) for value in values):
            wanted = "list of texts" if may_be_empty else "list of one text or more"
            raise DataError(f"{self.where}: {name} is {shown(values)}, which is no {wanted}: {FETCH}.")
        return values


def _names(kind: type | tuple[type, ...]) -> str:
    return " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))


def shown(value: Any) -> str:
    """A wrong value, as far as one line has room for it."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
