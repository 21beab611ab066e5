"""Finds and reads the results that `hf-videollm evaluate` has written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..records import record_files
from ..result import ITEMS, RESULT

__all__ = ["LoadedRun", "load_runs"]

# Where results stand below a folder that the user names: in it, below MODEL/, or below EVALUATIONS/MODEL/.
PLACES = (RESULT, f"*/{RESULT}", f"*/*/{RESULT}")
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
        paths = sorted(path for place in PLACES for path in folder.glob(place))
        if not paths:
            raise ValueError(_why_empty(folder))
        for path in paths:
            found.setdefault(path.resolve(), _load(path))
    return _with_own_labels(list(found.values()))


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
