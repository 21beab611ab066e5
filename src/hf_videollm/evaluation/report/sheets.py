"""The tables of a report, as texts: the terminal, Markdown and the page draw the same ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..headline import Headline
from .loading import LoadedRun
from .numbers import group_tables, in_units, numbers, unit
from .paired import Paired
from .published import Printed
from .report import Report, TaskReport

__all__ = ["MEAN", "NOT_MEASURED", "Sheet", "pair_sheet", "sections", "task_sheets"]

# Stands over every table of numbers that were not measured.
NOT_MEASURED = "Printed in the papers, not measured here"
ABSENT = "-"
MEAN = "mean of the rows"
# So many numbers that few papers print stand in a table of their own.
FEW_COLUMNS = 4
DIGITS = {"%": 1, "": 2}


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        title: above it.
        header: names of the columns.
        rows: the texts of the cells.
        footnotes: below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...] = ()


def sections(report: Report) -> list[tuple[str, list[Sheet], tuple[str, ...]]]:
    """Heading, tables and notes of each task, and of the comparisons behind them."""
    found = [(task.title, task_sheets(task), task.notes) for task in report.tasks]
    if report.pairs:
        found.append(("Item by item", [pair_sheet(report.pairs)], ()))
    return found


def task_sheets(task: TaskReport) -> list[Sheet]:
    """The tables of one task: numbers, those of the papers, settings that differ, and groups."""
    sheets = [_numbers_sheet(task)]
    if task.printed:
        sheets += _printed_sheets(task.printed)
    if task.differing:
        sheets.append(_settings_sheet(task))
    return sheets + _group_sheets(task)


def _numbers_sheet(task: TaskReport) -> Sheet:
    found = [{number.name: number for number in numbers(run.result)} for run in task.runs]
    names = list(dict.fromkeys(name for row in found for name in row))
    header = ("run", *map(_named, names), "items", "without answer", "unreadable", "judge failed")
    rows = []
    for run, row in zip(task.runs, found, strict=True):
        counts = run.result["counts"]
        cells = [_cell(row[name]) if name in row else ABSENT for name in names]
        spoiled = (counts["items"], counts["errors"], counts["parse_failures"], counts["judge_failures"])
        rows.append((run.label, *cells, *map(str, spoiled)))
    footnotes = [f"{run.label}: {reason}" for run in task.runs if (reason := run.result.get("unscored_because"))]
    intervals = {
        f"{interval['confidence'] * 100:g} %"
        for run in task.runs
        for interval in run.result["metrics"].get("intervals", {}).values()
    }
    if intervals:
        footnotes.append(f"In brackets: the {' or '.join(sorted(intervals))} interval of a bootstrap over videos.")
    return Sheet("", header, tuple(rows), tuple(footnotes))


def _named(name: str) -> str:
    return f"{name} ({unit(name)})" if unit(name) else name


def _cell(number: Headline) -> str:
    text = _number(number.name, number.value)
    if number.low is None or number.high is None:
        return text
    return f"{text} [{_number(number.name, number.low)}, {_number(number.name, number.high)}]"


def _number(name: str, value: float | None) -> str:
    return ABSENT if value is None else f"{in_units(name, value):.{DIGITS[unit(name)]}f}"


def _printed_sheets(printed: Sequence[Printed]) -> list[Sheet]:
    """The numbers that most rows print; and those that few do, such as the twenty of MVBench, a line for each."""
    names = list(dict.fromkeys(name for row in printed for name in row.numbers))
    usual = [name for name in names if 2 * sum(name in row.numbers for row in printed) >= len(printed)]
    special = [name for name in names if name not in usual]
    if len(special) < FEW_COLUMNS:
        usual, special = names, []
    rows = [(row.paper, row.model, *(_printed(row, name) for name in usual)) for row in printed]
    sheets = [Sheet(NOT_MEASURED, ("paper", "model", *usual), tuple(rows))]
    if special:
        having = [row for row in printed if any(name in row.numbers for name in special)]
        lines = [(name, *(_printed(row, name) for row in having)) for name in special]
        sheets.append(Sheet(f"{NOT_MEASURED}: details", ("number", *(row.model for row in having)), tuple(lines)))
    return sheets


def _printed(row: Printed, name: str) -> str:
    """A number with the digits that the paper prints, one behind the point at least."""
    if name not in row.numbers:
        return ABSENT
    value = row.numbers[name]
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"


def _settings_sheet(task: TaskReport) -> Sheet:
    rows = [(name, *map(_value, values)) for name, values in task.differing.items()]
    return Sheet("Settings that differ", ("setting", *_labels(task.runs)), tuple(rows))


def _value(value: Any) -> str:
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _labels(runs: Sequence[LoadedRun]) -> tuple[str, ...]:
    return tuple(run.label for run in runs)


def _group_sheets(task: TaskReport) -> list[Sheet]:
    """One table for each kind of group, a column for each run."""
    by_run = [{table.name: table for table in group_tables(run.result)} for run in task.runs]
    sheets = []
    for name in dict.fromkeys(name for tables in by_run for name in tables):
        tables = [found.get(name) for found in by_run]
        number = next(table.number for table in tables if table is not None)
        labels = list(dict.fromkeys(label for table in tables if table is not None for label in table.rows))
        rows = []
        for label in labels:
            found = [None if table is None else table.rows.get(label) for table in tables]
            counts = {count for entry in found if entry is not None for count in [entry[1]]}
            cells = [ABSENT if entry is None else _number(number, entry[0]) for entry in found]
            rows.append((label, " / ".join(map(str, sorted(counts))), *cells))
        means = [ABSENT if table is None or table.macro is None else _cell(table.macro) for table in tables]
        rows.append((MEAN, "", *means))
        sheets.append(Sheet(f"{_named(number)} by {name}", (name, "items", *_labels(task.runs)), tuple(rows)))
    return sheets


def pair_sheet(pairs: Sequence[Paired]) -> Sheet:
    """The comparisons of two runs."""
    header = ("benchmark", "number", "first", "second", "difference", "only first right", "only second right")
    rows = []
    footnotes = [f"First: {pairs[0].first}. Second: {pairs[0].second}."]
    for pair in pairs:
        found, name = pair.comparison, pair.number
        rows.append(
            (
                f"{pair.title} ({pair.num_items} items)",
                _named(name) if pair.over is None else f"{_named(name)}, mean over {pair.over}",
                _number(name, found.first),
                _number(name, found.second),
                _difference(name, pair),
                ABSENT if found.only_first is None else str(found.only_first),
                ABSENT if found.only_second is None else str(found.only_second),
                ABSENT if found.p_value is None else f"{found.p_value:.3g}",
            )
        )
        if pair.left_out:
            footnotes.append(f"{pair.title}: {pair.left_out} items have no {name} in one of the runs and are left out.")
        if pair.differing:
            footnotes.append(f"{pair.title}: the runs differ in {', '.join(pair.differing)}, too.")
    footnotes.append(
        "The interval of the difference draws videos with all their items; p is McNemar's exact test, which takes "
        "items for independent, and does not weigh them as a mean over groups does."
    )
    return Sheet("", (*header, "p"), tuple(rows), tuple(dict.fromkeys(footnotes)))


def _difference(name: str, pair: Paired) -> str:
    found = pair.comparison.difference
    digits = DIGITS[unit(name)]
    text = f"{in_units(name, found.estimate):+.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{in_units(name, found.low):+.{digits}f}, {in_units(name, found.high):+.{digits}f}]"
