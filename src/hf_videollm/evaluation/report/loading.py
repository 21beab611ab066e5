"""Finds and reads the results that `hf-videollm evaluate` has written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..records import read_records, record_files
from ..result import ITEMS, RESULT
from ..settings import read_settings

__all__ = ["LoadedRun", "UnfinishedRun", "load_runs", "unfinished_runs"]

# Where results stand below a folder that the user names: in it, below MODEL/, or below EVALUATIONS/MODEL/.
DEPTHS = ("", "*/", "*/*/")
NEEDED = ("task", "title", "metrics", "counts", "settings", "model", "scoring")


@dataclass(frozen=True)
class LoadedRun:
    """The result of one task in one run.

    Attributes:
        folder: of the run.
        label: short name in tables, unlike that of every other run of the task.
        result: what `result.json` holds.
    """

    folder: Path
    label: str
    result: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.result["task"])

    def items(self) -> list[dict[str, Any]]:
        """The items with their answers, as `items.jsonl` holds them.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self.folder / ITEMS
        if not path.is_file():
            raise ValueError(f"{path} is missing: give the same evaluate command again, and it is written.")
        items = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                items.append(json.loads(line))
                items[-1]["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no item ({error}): give the same evaluate command again, and the file "
                    "is written anew."
                ) from error
        return items


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """All results in folders, each once.

    Args:
        folders: of runs (`evaluations/MODEL/TASK`), or folders of such folders (`evaluations/MODEL`, `evaluations`).

    Raises:
        ValueError: a folder holds no result, or a result is damaged; the message names it.

    Example:
        >>> load_runs([Path("evaluations/pllava-7b"), Path("evaluations/linvt-1b")])   # doctest: +SKIP
    """
    found: dict[Path, LoadedRun] = {}
    for folder in folders:
        paths = sorted(path for depth in DEPTHS for path in folder.glob(f"{depth}{RESULT}"))
        if not paths:
            raise ValueError(_why_empty(folder))
        for path in paths:
            found.setdefault(path.resolve(), _load(path))
    return _with_own_labels(list(found.values()))


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that has answers and no result yet.

    Attributes:
        folder: of the run.
        task: its name.
        answers: number of items with an answer.
        errors: number of items without one.
    """

    folder: Path
    task: str
    answers: int
    errors: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "folder": str(self.folder)}

    @property
    def text(self) -> str:
        """For people, e.g. `msvd_qa: 7 answers, not finished (evaluations/tiny/msvd_qa)`."""
        errors = f" and {self.errors} errors" if self.errors else ""
        return f"{self.task}: {self.answers} answers{errors}, not finished ({self.folder})"


def unfinished_runs(folders: Sequence[Path]) -> list[UnfinishedRun]:
    """The runs in folders that `load_runs` leaves out, because they have no result yet.

    Raises:
        ValueError: a line of their records is damaged.
    """
    found: dict[Path, UnfinishedRun] = {}
    for folder in folders:
        for path in sorted(path for depth in DEPTHS for path in folder.glob(f"{depth}records*.jsonl")):
            place = path.parent
            if place.resolve() in found or (place / RESULT).exists() or (task := _task_of(place)) is None:
                continue
            records = read_records(place).values()
            errors = sum("error" in record for record in records)
            found[place.resolve()] = UnfinishedRun(place, task, len(records) - errors, errors)
    return list(found.values())


def _task_of(folder: Path) -> str | None:
    """Name of the task of a run; None where a folder holds other records, e.g. data for training."""
    try:
        settings = read_settings(folder) or {}
    except ValueError:
        return None
    return str(settings["task"]) if "task" in settings and "model" in settings else None


def _load(path: Path) -> LoadedRun:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): give the same evaluate command again.") from error
    missing = [name for name in NEEDED if not isinstance(result, dict) or name not in result]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}: it is no result of hf-videollm evaluate.")
    return LoadedRun(path.parent, Path(str(result["model"]["model"])).name, result)


def _why_empty(folder: Path) -> str:
    """What is told of a folder without a result."""
    if not folder.exists():
        return f"{folder}: there is no such folder."
    if folder.is_file():
        return f"{folder} is a file: give the folder of a run."
    if unfinished := unfinished_runs([folder]):
        told = "; ".join(run.text for run in unfinished)
        return f"{folder} holds no finished run ({told}): give the same evaluate command again, and it goes on."
    if record_files(folder):
        return f"{folder} holds a run that is not finished: give the same evaluate command again, and it goes on."
    return f"{folder} holds no {RESULT}: give a folder that hf-videollm evaluate has written (its --output)."


def _with_own_labels(runs: Iterable[LoadedRun]) -> list[LoadedRun]:
    """Where two runs of a task are of models of the same name, their folders are added to the name.

    The name of the folder above the task's is enough, if it tells them apart.
    """
    listed = list(runs)
    times = Counter((run.task, run.label) for run in listed)
    doubled = {label for (_, label), count in times.items() if count > 1}
    places = Counter((run.task, run.label, _place(run)) for run in listed)
    unclear = {label for (_, label, _), count in places.items() if count > 1}
    return [
        replace(run, label=f"{run.label} ({run.folder if run.label in unclear else _place(run)})")
        if run.label in doubled
        else run
        for run in listed
    ]


def _place(run: LoadedRun) -> str:
    """Name of the folder of a run, without the task's own below it."""
    folder = run.folder.resolve()
    return folder.parent.name if folder.name == run.task else folder.name
