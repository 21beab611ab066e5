"""Answers of a run, one JSON line for each item, which are only ever appended: a killed run goes on where it was.

A run of several processes has one file for each of them. `merge` makes one file of all in the order of the items, so
that it holds exactly what one process would have written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..atomic import atomic_file
from ..atomic_claim import try_lock
from .ranks import Ranks

__all__ = ["Record", "RecordFile", "merge", "numbered", "read_records", "record_files", "turn_to_merge"]

# One line: `id`, and either `answers` or `error`, with what else is known of the item (`runner.py`).
Record = dict[str, Any]
# How often an item has been asked; records of the first time do not say it.
ATTEMPT = "attempt"

MERGED = "records.jsonl"
OF_RANK = "records.rank{rank}of{world_size}.jsonl"


class RecordFile:
    """The file that one process appends to.

    Example:
        >>> with RecordFile(folder, Ranks()) as records:   # doctest: +SKIP
        ...     records.append({"id": "1", "answers": ["a dog"]})
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        name = MERGED if ranks.world_size == 1 else OF_RANK.format(rank=ranks.rank, world_size=ranks.world_size)
        self.path = folder / name
        self._file: Any = None

    def __enter__(self) -> Self:
        """Open the file for appending, and drop a last line that a killed run has half written.

        Raises:
            RuntimeError: another process writes it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        # Some file systems have no locks (None): there, nobody watches.
        if try_lock(self._file.fileno()) is False:
            self._file.close()
            raise RuntimeError(f"{self.path}: another run writes this file; wait for it, or choose another output.")
        drop_half_line(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write whole lines, which are on the disk when this returns."""
        for record in records:
            self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())


def record_files(folder: Path) -> list[Path]:
    """All files of records in the folder of a run, the merged one first."""
    return sorted(folder.glob("records*.jsonl"), key=lambda path: (path.name != MERGED, path.name))


def numbered(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> Record:
    """A record with the number of its attempt, if its item already had one: by it the newest is known in any file.

    Args:
        record: a new one.
        before: the record that the item had.

    Example:
        >>> numbered({"id": "1", "answers": ["a dog"]}, {"id": "1", "error": {}})["attempt"]
        2
    """
    return dict(record) if before is None else {**record, ATTEMPT: before.get(ATTEMPT, 1) + 1}


def read_records(folder: Path) -> dict[str, Record]:
    """The records of all processes, id -> record.

    Of several with one id, an answer counts before an error, and among equals the newest: the one of the highest
    attempt, then the one in the file that was written last, then the last line. So the names of the files, which depend
    on the number of processes, decide nothing. A half-written last line is left out.

    Raises:
        ValueError: another line is damaged; the message names file and line.
    """
    records: dict[str, Record] = {}
    for path in sorted(record_files(folder), key=lambda path: path.stat().st_mtime_ns):
        lines = path.read_bytes().split(b"\n")
        # What stands behind the last line break is half a line, or nothing.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
                before = records.get(record["id"])
                if before is None or _rank(record) >= _rank(before):
                    records[record["id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no record ({error}): remove the line, and its item is asked again."
                ) from error
    return records


def merge(folder: Path, ids: Sequence[str]) -> dict[str, Record]:
    """Make `records.jsonl` of all files, in the order of the items.

    Args:
        folder: of the run.
        ids: of all items, in order. Records of other items are kept behind them.

    Returns:
        The records.
    """
    records = read_records(folder)
    known = set(ids)
    order = [id for id in ids if id in records] + [id for id in records if id not in known]
    content = b"".join(_line(records[id]) for id in order)
    merged = folder / MERGED
    if not merged.exists() or merged.read_bytes() != content:
        with atomic_file(merged) as path:
            path.write_bytes(content)
    for path in record_files(folder):
        if path != merged:
            path.unlink(missing_ok=True)
    return {id: records[id] for id in order}


def _rank(record: Mapping[str, Any]) -> tuple[bool, int]:
    """Of two records of one item, the one with the higher rank counts."""
    return "error" not in record, int(record.get(ATTEMPT, 1))


@contextmanager
def turn_to_merge(folder: Path) -> Iterator[None]:
    """Wait until no other process of the run merges and writes the result."""
    with (folder / "merge.lock").open("ab") as file:
        while try_lock(file.fileno()) is False:
            time.sleep(0.1)
        yield


def drop_half_line(path: Path) -> None:
    """Cut a file behind its last line break."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
