"""What a reader of a foreign format is made of: its options, the file that it reads, and records of its rows."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .json_stream import stream_json_list
from .parsed_files import FETCH, DataError, delimiter_of, read_json, read_json_lines, read_parquet, read_table
from .record import Record, check_record
from .rows import Row

__all__ = ["VIDEO_SUFFIXES", "Format", "Option", "Source", "clock", "drawn"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")
SUFFIXES = {"video": VIDEO_SUFFIXES, "audio": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


@dataclass(frozen=True)
class Option:
    """One option of a reader.

    Attributes:
        default: its value if it is not given.
        help: what it does, in one sentence.
        kinds: types that a value may have, beside that of the default.
        choices: values that are allowed; empty for any of these types.
    """

    default: Any
    help: str
    kinds: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()

    def check(self, name: str, value: Any, owner: str) -> None:
        """Refuse a wrong value.

        Raises:
            DataError: the message begins with `owner` and names the option.
        """
        if self.choices and value not in self.choices:
            known = ", ".join(map(str, self.choices))
            raise DataError(f"{owner}: {name} is {value!r}, which is none of {known}.")
        kinds = (*self.kinds, *(() if self.default is None else (type(self.default),)))
        is_wrong_truth = isinstance(value, bool) and bool not in kinds
        if value is not None and kinds and (is_wrong_truth or not isinstance(value, kinds)):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise DataError(f"{owner}: {name} must be of type {names}, not {value!r}.")


@dataclass
class Source:
    """An annotation file that is read, and everything that a reader needs to make records of it.

    Attributes:
        path: the file.
        name: becomes the `source` of the records.
        split: becomes their `split`.
        root: folder that the media are below; it is asked which of several endings a file has.
        options: all options of the reader, with their values.
        dropped: reason -> number of rows that the format's rules leave out.
    """

    path: Path
    name: str
    split: str
    root: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    _ids: Counter[str] = field(default_factory=Counter, repr=False)

    def rows(self) -> Iterator[Row]:
        """The rows of a list in JSON, of JSON lines, of a table or of Parquet, one by one.

        Raises:
            DataError: the file has another ending, is broken, or holds something else than rows.
        """
        suffix, number = self.path.suffix.lower(), -1
        if suffix == ".json":
            for number, value in enumerate(stream_json_list(self.path)):
                yield self.row(value, f"{self.path}, row {number}")
        elif suffix in (".jsonl", ".ndjson"):
            for number, value in read_json_lines(self.path):
                yield self.row(value, f"{self.path}, line {number}")
        elif suffix in (".csv", ".tsv", ".txt"):
            yield from self._table_rows(delimiter_of(self.path))
            return
        elif suffix == ".parquet":
            for number, value in enumerate(read_parquet(self.path)[1]):
                yield self.row(value, f"{self.path}, row {number}")
        else:
            raise DataError(f"{self.path}: {suffix or 'no ending'} is no .json, .jsonl, .csv, .tsv or .parquet.")
        if number < 0:
            raise DataError(f"{self.path} holds no row: fetch the file again.")

    def _table_rows(self, delimiter: str) -> Iterator[Row]:
        lines = read_table(self.path, delimiter)
        # A table without a header has its columns in an option.
        header = self.options.get("header") or next(lines)[1]
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise DataError(f"{self.path} has the column {twice[0]!r} twice: keep one of them.")
        found = False
        for line, fields in lines:
            if not fields:
                continue
            found = True
            if len(fields) != len(header):
                raise DataError(
                    f"{self.path}, line {line}: the row has {len(fields)} fields, the header {len(header)}; {FETCH}."
                )
            yield Row(dict(zip(header, fields, strict=True)), f"{self.path}, line {line}")
        if not found:
            raise DataError(f"{self.path} holds no row below its header: fetch the file again.")

    def some(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of this file, of which there must be one.

        Raises:
            DataError: the rules of the format leave out all rows; the message names them.
        """
        found = False
        for record in records:
            found = True
            yield record
        if not found:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.dropped.items()) or "all rows"
            raise DataError(
                f"{self.path}: no row is left, because its format leaves out rows ({reasons}): correct the file, or "
                "the options of the source."
            )

    def list_in(self, name: str) -> Iterator[Row]:
        """The objects of the list that a field of a JSON file's only object holds.

        Raises:
            DataError: the file holds something else.
        """
        whole = self.row(read_json(self.path), str(self.path))
        values = whole.get(name, list)
        if not values:
            raise DataError(f"{self.path}: {name} is an empty list: fetch the file again.")
        for number, value in enumerate(values):
            yield self.row(value, f"{self.path}, {name}, row {number}")

    def beside(self, option: str, name: str) -> Path:
        """A second file that an option names, relative to this one.

        Raises:
            DataError: there is no such file.
        """
        path = self.path.parent / name
        if not path.is_file():
            raise DataError(f"{self.path}: {option}: there is no file {path}: correct it.")
        return path

    @staticmethod
    def row(value: Any, where: str) -> Row:
        """An object as a row.

        Raises:
            DataError: it is no object.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: expected an object, not a {type(value).__name__}: {FETCH}.")
        return Row(value, where)

    def new_id(self, native: Any) -> str:
        """The id of a record from that of its row. Some data sets use an id several times; these are numbered."""
        name = f"{self.name}/{self.split}/{native}"
        self._ids[name] += 1
        return name if self._ids[name] == 1 else f"{name}#{self._ids[name]}"

    def record(self, row: Row, native: Any, messages: Sequence[Mapping[str, Any]], **fields: Any) -> Record:
        """A checked record.

        Args:
            row: that it is made from.
            native: its id in the file, or the number of the row.
            messages: the conversation.
            fields: further fields, such as `task` and `meta`.

        Raises:
            RecordError: the row breaks a rule of records.
        """
        made = {"id": self.new_id(native), "source": self.name, "split": self.split, "messages": messages, **fields}
        return check_record(made, row.where)

    def medium(self, kind: str, name: Any, row: Row, column: str, /, **more: Any) -> dict[str, Any]:
        """The block of a medium.

        Args:
            kind: image, video or audio.
            name: path below the folder of media. Without an ending, it gets the first with which a file exists.
            row: that names it.
            column: the field that names it.
            more: further fields of the block.

        Raises:
            DataError: the name is blank, or leads out of the folder of media.
        """
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{row.where}: {column} must name a file, not {name!r}.")
        path = Path(name)
        if path.is_absolute() and path.is_relative_to(self.root.absolute()):
            path = path.relative_to(self.root.absolute())
        if path.is_absolute() or ".." in path.parts or "://" in name:
            raise DataError(
                f"{row.where}: {column} {name!r} leads out of the folder of media, {self.root}: make it relative to it."
            )
        text = path.as_posix()
        # A name such as "v.1234" has a dot, but no ending.
        if more.get("kind") in (None, "file") and not re.fullmatch(r"\.[a-z]\w{1,4}", path.suffix.lower()):
            text = self._with_suffix(text, (*SUFFIXES[kind], *((".gif",) if kind == "video" else ())))
        if kind == "video" and text.lower().endswith(".gif"):
            more = {"kind": "gif", "fps": 25.0, **more}
        return {"type": kind, "path": text, **more}

    def _with_suffix(self, name: str, suffixes: Sequence[str]) -> str:
        names = [f"{name}{suffix}" for suffix in suffixes]
        return next((each for each in names if (self.root / each).exists()), names[0])


@dataclass(frozen=True)
class Format:
    """A format of training data.

    Attributes:
        letter: its short name.
        name: its long name.
        title: which data sets have it.
        read: makes records of a file, one by one.
        write: writes records as such a file.
        fits: whether the first row of a file may be one of this format.
        suffixes: endings of its files.
        options: name -> option of `read`.
    """

    letter: str
    name: str
    title: str
    read: Callable[[Source], Iterator[Record]]
    write: Callable[[Iterable[Record], Path], None]
    fits: Callable[[Row, Path], bool]
    suffixes: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)

    def with_defaults(self, given: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """All options with their values.

        Args:
            given: those that are not left at their defaults.
            owner: what they belong to, for errors.

        Raises:
            DataError: an option is unknown, or has a wrong value.
        """
        for name, value in given.items():
            if name not in self.options:
                known = did_you_mean(name, self.options) if self.options else "it has none."
                raise DataError(f"{owner}: format {self.letter} ({self.name}) has no option {name!r}: {known}")
            self.options[name].check(name, value, owner)
        return {name: given.get(name, option.default) for name, option in self.options.items()}


def drawn(values: Sequence[Any], *keys: Any) -> Any:
    """One of the values. The same keys, such as a seed and an id, always give the same value, in whatever order.

    Example:
        >>> drawn(["a", "b", "c"], 0, "row 1") == drawn(["a", "b", "c"], 0, "row 1")
        True
    """
    digest = hashlib.sha256("\0".join(map(str, keys)).encode()).digest()
    return values[int.from_bytes(digest[:8], "big") % len(values)]


def clock(row: Row, column: str) -> float | None:
    """Seconds in a field: a number, a text of one, or a time of day such as `00:01:07.5`. None if it is empty.

    Raises:
        DataError: it is none of these.
    """
    value = row.get(column, (int, float, str), None)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        match = _CLOCK.fullmatch(value.strip())
        if match is not None:
            if float(match[3]) >= 60 or (match[1] is not None and int(match[2]) >= 60):
                raise DataError(f"{row.where}: {column} is {value!r}, whose minutes or seconds are over 59: {FETCH}.")
            return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
        try:
            value = float(value)
        except ValueError:
            raise DataError(f"{row.where}: {column} is {value!r}, which is no time: {FETCH}.") from None
    if not 0 <= value < float("inf"):
        raise DataError(f"{row.where}: {column} is {value}, which is no second of a video: {FETCH}.")
    return float(value)
