"""Runs side by side, task by task, with what the papers print: what every form of the report is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..headline import Headline
from .differing import differing_settings
from .loading import LoadedRun, UnfinishedRun, load_runs, unfinished_runs
from .numbers import group_tables, in_units, numbers, unit
from .paired import Paired, compare_loaded
from .published import Printed, printed_numbers

__all__ = ["Report", "TaskReport", "make_report"]


@dataclass(frozen=True)
class TaskReport:
    """One task in all runs.

    Attributes:
        task: its name.
        title: its name in tables.
        runs: that have it, in the order in which they were given.
        printed: what the papers print; empty unless it is asked for.
        notes: what a reader of the numbers must know.
    """

    task: str
    title: str
    runs: tuple[LoadedRun, ...]
    printed: tuple[Printed, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def differing(self) -> dict[str, list[Any]]:
        """Name of a setting -> its value in each run, for those in which the runs differ."""
        return differing_settings([run.result for run in self.runs])

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Numbers are in percent or points; those of the papers stand by themselves."""
        return {
            "task": self.task,
            "title": self.title,
            "runs": [_run_facts(run) for run in self.runs],
            "printed_in_papers": [vars(row) for row in self.printed],
            "differing_settings": self.differing,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Report:
    """All tasks.

    Attributes:
        tasks: in the order in which they were found.
        pairs: item by item comparisons, if two runs were named for it.
        runs: of all tasks.
        unfinished: runs in the same folders that have no result yet.
    """

    tasks: tuple[TaskReport, ...]
    pairs: tuple[Paired, ...] = ()
    runs: tuple[LoadedRun, ...] = field(default=(), repr=False)
    unfinished: tuple[UnfinishedRun, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tasks": [task.to_dict() for task in self.tasks],
            "comparisons": [pair.to_dict() for pair in self.pairs],
            "unfinished": [run.to_dict() for run in self.unfinished],
        }


def make_report(folders: Sequence[Path], papers: bool = False, compare: Sequence[Path] = ()) -> Report:
    """Read runs and put them side by side.

    Args:
        folders: see `load_runs`.
        papers: show what the papers print.
        compare: two folders whose runs are compared item by item; they are part of the report, too.

    Raises:
        ValueError: there is nothing to read, or the runs cannot be compared; the message says why.

    Examples:
        >>> report = make_report([Path("evaluations")], papers=True)   # doctest: +SKIP
        >>> [task.title for task in report.tasks]                      # doctest: +SKIP
        ['MVBench', 'EgoSchema']
    """
    wanted = [*folders, *compare]
    if not wanted:
        raise ValueError("Say whose results: give folders that hf-videollm evaluate has written.")
    runs = load_runs(wanted)
    by_task: dict[str, list[LoadedRun]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    tasks = tuple(
        TaskReport(
            name,
            str(found[0].result["title"]),
            tuple(found),
            tuple(printed_numbers(name)) if papers else (),
            tuple(dict.fromkeys(note for run in found for note in _notes(run))),
        )
        for name, found in by_task.items()
    )
    return Report(tasks, tuple(_pairs(runs, compare)), tuple(runs), tuple(unfinished_runs(wanted)))


def _notes(run: LoadedRun) -> Iterator[str]:
    yield from run.result.get("notes", ())
    if partial := run.result.get("partial"):
        # A number of a few items looks like one of the whole benchmark.
        yield f"{run.label} is partial: {partial}."


def _pairs(runs: Sequence[LoadedRun], compare: Sequence[Path]) -> list[Paired]:
    if not compare:
        return []
    sides = []
    for folder in compare:
        places = {run.folder.resolve() for run in load_runs([folder])}
        # The runs of the report have labels by which the two can be told apart.
        sides.append([run for run in runs if run.folder.resolve() in places])
    return compare_loaded(*sides)


def _run_facts(run: LoadedRun) -> dict[str, Any]:
    result = run.result
    return {
        "run": run.label,
        "folder": str(run.folder),
        "model": dict(result["model"]),
        "numbers": [_number_facts(number) for number in numbers(result)],
        "groups": {
            table.name: {
                "number": table.number,
                "rows": {
                    label: {"value": None if value is None else in_units(table.number, value), "count": count}
                    for label, (value, count) in table.rows.items()
                },
                "macro": None if table.macro is None else _number_facts(table.macro),
            }
            for table in group_tables(result)
        },
        "unscored_because": result.get("unscored_because"),
        "partial": result.get("partial"),
        "counts": dict(result["counts"]),
        "scoring": dict(result["scoring"]),
        "settings": dict(result["settings"]),
    }


def _number_facts(number: Headline) -> dict[str, Any]:
    ends = {"low": number.low, "high": number.high}
    return {
        "name": number.name,
        "value": in_units(number.name, number.value),
        "unit": unit(number.name),
        **{end: None if value is None else in_units(number.name, value) for end, value in ends.items()},
    }
