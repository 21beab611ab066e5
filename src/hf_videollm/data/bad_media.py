"""Missing and broken media: rows with them are left out, counted and reported, up to a largest share.

Training decodes in several processes, so what they find is gathered in one file of JSON lines. Each line is written in
one step, and all processes read it to know the whole count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .missing_media import missing_file
from .parsed_files import DataError

__all__ = ["BadFile", "BadMediaLog", "TooManyBadMediaError", "check_share", "missing_files", "summary"]

# So many of them are named in an error.
_NAMED = 3


class TooManyBadMediaError(DataError):
    """More rows have missing or broken media than a mix allows."""


@dataclass(frozen=True)
class BadFile:
    """A row that cannot be trained on.

    Attributes:
        id: of the record.
        path: of the medium.
        reason: `missing`, or why it cannot be decoded.
    """

    id: str
    path: str
    reason: str


def missing_files(table: Any, rows: Sequence[int]) -> dict[int, BadFile]:
    """Row -> its first file or folder that does not exist, for rows that have one.

    Args:
        table: a dataset with the columns `id` and `files`.
        rows: numbers of the rows to look at.
    """
    there: dict[str, bool] = {}
    found: dict[int, BadFile] = {}
    chosen = table.select_columns(["id", "files"]).select(rows)
    for row, facts in zip(rows, chosen, strict=True):
        for path in facts["files"]:
            if path not in there:
                there[path] = missing_file(path) is None
            if not there[path]:
                found[row] = BadFile(facts["id"], path, "missing")
                break
    return found


def check_share(bad: Sequence[BadFile], total: int, max_bad: float, what: str) -> None:
    """Refuse too many bad rows.

    Args:
        bad: one entry for each bad row.
        total: number of all rows.
        max_bad: largest share that is allowed.
        what: names the data, for the error.

    Raises:
        TooManyBadMediaError: the share is larger.
    """
    if len(bad) <= max_bad * total:
        return
    named = ", ".join(f"{each.path or each.id} ({each.reason})" for each in bad[:_NAMED])
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    raise TooManyBadMediaError(
        f"{what}: {len(bad)} of {total} rows have missing or broken media, more than max_bad {max_bad:.2%} allows: "
        f"{named}{more}. Correct root or the files, or raise max_bad."
    )


def summary(bad: Sequence[BadFile], total: int) -> str:
    """One line that says how many rows were left out, and why."""
    missing = sum(each.reason == "missing" for each in bad)
    share = len(bad) / total if total else 0.0
    return (
        f"{len(bad)} of {total} rows ({share:.2%}) were left out: {missing} with missing, {len(bad) - missing} with "
        "broken media"
    )


class BadMediaLog:
    """What all processes of a training found.

    Args:
        path: the file that it is written into; what it holds already counts, so that a resumed run goes on.
        total: number of all rows.
        max_bad: largest share of them that may be bad.
        known: rows that were found before the training.
    """

    def __init__(self, path: str | os.PathLike[str], total: int, max_bad: float, known: Sequence[BadFile] = ()) -> None:
        self.path, self.total, self.max_bad = Path(path), total, max_bad
        self.known = list(known)

    def add(self, bad: BadFile) -> None:
        """Write down a bad row, once.

        Raises:
            TooManyBadMediaError: these are too many now.
        """
        if bad.id in self.ids():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(bad), ensure_ascii=False) + "\n"
        # One write with O_APPEND does not mix with those of other processes.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
        check_share(self.all(), self.total, self.max_bad, str(self.path))

    def note(self, bad: BadFile) -> None:
        """Count a bad row that was found before the training, which needs no file because every process finds it.

        Raises:
            TooManyBadMediaError: these are too many now.
        """
        self.known.append(bad)
        check_share(self.all(), self.total, self.max_bad, str(self.path))

    def ids(self) -> set[str]:
        """The ids of all bad rows."""
        return {each.id for each in self.all()}

    def all(self) -> list[BadFile]:
        """All bad rows that are known, each once."""
        found = {each.id: each for each in self.known}
        for line in self._lines():
            found.setdefault(line["id"], BadFile(line["id"], line["path"], line["reason"]))
        return list(found.values())

    def _lines(self) -> list[Mapping[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a killed process left half a line
        return lines
