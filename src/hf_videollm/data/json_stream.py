"""Reads a list of objects from a JSON file one by one, so that the file may be larger than the memory."""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .parsed_files import FETCH, DataError, read_utf8, unique_keys

__all__ = ["stream_json_list"]

_BYTES_AT_ONCE = 1 << 20
_BLANKS = " \t\r\n"


def stream_json_list(path: Path) -> Iterator[Any]:
    """Values of a JSON file that holds one list.

    Raises:
        DataError: the file is empty or no UTF-8, holds something else than a list or no JSON, or an object has a key
            twice. The values before the fault are yielded first.

    Example:
        >>> next(stream_json_list(Path("chat.json")))  # doctest: +SKIP
        {'id': '1', 'video': 'a.mp4', 'conversations': [...]}
    """
    window = _Window(path)
    if not (first := window.next_mark()):
        raise DataError(f"{path} is empty: fetch the file again.")
    if first != "[":
        raise DataError(f"{path} should hold a list of objects: {FETCH}.")
    window.position += 1
    is_first = True
    while (mark := window.next_mark()) != "]":
        if not is_first and mark:
            if mark != ",":
                raise window.fault("a comma or the end of the list is missing")
            window.position += 1
            mark = window.next_mark()
        if not mark:
            raise window.fault("the list has no end")
        yield window.value()
        is_first = False
    window.position += 1
    if window.next_mark():
        raise window.fault("there is more behind the end of the list")


class _Window:
    """The part of a text file that was read and not used yet.

    Attributes:
        position: the next letter of `text`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text, self.position = "", 0
        self._line, self._is_over = 1, False
        self._chunks = _decoded(path)
        self._decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

    def next_mark(self) -> str:
        """The next letter that is no blank, without taking it; empty at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in _BLANKS:
                self.position += 1
            if self.position < len(self.text) or self._is_over:
                return self.text[self.position : self.position + 1]
            self._read_more()

    def value(self) -> Any:
        """Take the value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.position)
            except DataError as error:
                raise DataError(f"{self.path}, line {self._line_at(self.position)}: {error}") from None
            except json.JSONDecodeError as error:
                # Before the end of the file, the value may only be cut by the end of the window.
                if self._is_over:
                    raise self.fault(error.msg, error.pos) from error
            except RecursionError:
                raise self.fault("it is nested too deeply") from None
            except ValueError as error:
                # Python reads no numbers of thousands of digits.
                raise self.fault(str(error)) from error
            else:
                # What ends with the window may go on behind it, such as a number.
                if end < len(self.text) or self._is_over:
                    self.position = end
                    return value
            self._read_more()

    def fault(self, message: str, position: int | None = None) -> DataError:
        """An error about this place of the file."""
        line = self._line_at(self.position if position is None else position)
        return DataError(f"{self.path}, line {line} cannot be read as JSON: {message}; {FETCH}.")

    def _line_at(self, position: int) -> int:
        return self._line + self.text.count("\n", 0, position)

    def _read_more(self) -> None:
        """Forget what was used, and read on. The window doubles, so that long values are parsed few times."""
        self._line = self._line_at(self.position)
        parts, self.position = [self.text[self.position :]], 0
        wanted = 2 * len(parts[0])
        while not self._is_over and sum(map(len, parts)) <= wanted:
            part = next(self._chunks, None)
            self._is_over = part is None
            parts.append(part or "")
        self.text = "".join(parts)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, less a byte order mark."""
    decoder = getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while True:
            data = file.read(_BYTES_AT_ONCE)
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError:
                read_utf8(path)  # makes an error that names the line
                raise
            if not data:
                return
