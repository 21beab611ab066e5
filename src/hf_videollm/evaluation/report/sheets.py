"""The tables of a report, as texts: the terminal, Markdown and the page draw the same ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..headline import Headline, losses
from .differing import how_text
from .loading import LoadedRun
from .numbers import group_tables, in_units, numbers, unit
from .paired import Paired
from .published import Printed
from .report import Report, TaskReport

__all__ = ["MEAN", "NOT_MEASURED", "Sheet", "pair_sheets", "sections", "task_sheets"]

# Stands over every table of numbers that were not measured.
NOT_MEASURED = "Printed in the papers, not measured here"
ABSENT = "-"
MEAN = "mean of the rows"
# So many numbers that few papers print stand in a table of their own.
FEW_COLUMNS = 4
DIGITS = {"%": 1, "": 2}
PAIR_HEADER = ("number", "first", "second", "difference", "only first / second right", "p")
# From so many numbers on, each has a row instead of a column.
MANY_NUMBERS = 4


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
        found.append(("Item by item", pair_sheets(report.pairs), ()))
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
    """A row for each run; a column for each run where there are many numbers."""
    found = [{number.name: number for number in numbers(run.result)} for run in task.runs]
    names = list(dict.fromkeys(name for row in found for name in row))
    rows = []
    for run, row in zip(task.runs, found, strict=True):
        counts = run.result["counts"]
        cells = [_cell(row[name]) if name in row else ABSENT for name in names]
        rows.append((run.label, *cells, str(counts["items"]), losses(counts) or ABSENT))
    header = ("run", *map(_named, names), "items", "of these")
    if len(names) >= MANY_NUMBERS:
        # Tables with a column for each aspect fit on no terminal.
        header, *rows = zip(header, *rows, strict=True)
    return Sheet("", header, tuple(rows), tuple(_footnotes(task)))


def _footnotes(task: TaskReport) -> Iterator[str]:
    """What the numbers do not say."""
    yield from (f"{run.label}: {reason}" for run in task.runs if (reason := run.result.get("unscored_because")))
    if how := how_text([run.result for run in task.runs]):
        yield how
    intervals = [
        interval
        for run in task.runs
        for interval in run.result["metrics"].get("intervals", {}).values()
        if interval["low"] is not None
    ]
    if intervals:
        shares = sorted({f"{interval['confidence'] * 100:g} %" for interval in intervals})
        yield f"In brackets: the {' or '.join(shares)} interval of a bootstrap over videos."
    if any(interval["low"] == interval["high"] for interval in intervals):
        yield "An interval without width says that all items are alike, not that the number is certain."


def _named(name: str) -> str:
    return f"{name} ({unit(name)})" if unit(name) else name


def _words(name: str) -> str:
    """Name of a table for people, which can go on in the next line."""
    return name.replace("_", " ")


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
        sheets.append(
            Sheet(f"{_named(number)} by {_words(name)}", (_words(name), "items", *_labels(task.runs)), tuple(rows))
        )
    return sheets


def pair_sheets(pairs: Sequence[Paired]) -> list[Sheet]:
    """The comparisons of two runs, a table for each benchmark."""
    sheets = []
    for title in dict.fromkeys(pair.title for pair in pairs):
        own = [pair for pair in pairs if pair.title == title]
        items = " or ".join(str(count) for count in sorted({pair.num_items for pair in own}))
        rows = tuple(map(_pair_row, own))
        sheets.append(Sheet(f"{title} ({items} items)", PAIR_HEADER, rows, tuple(_pair_notes(own))))
    footnotes = (
        *sheets[-1].footnotes,
        f"First: {pairs[0].first}. Second: {pairs[0].second}.",
        "The interval of the difference draws videos with all their items; p is McNemar's exact test, which takes "
        "items for independent, and does not weigh them as a mean over groups does.",
    )
    return [*sheets[:-1], replace(sheets[-1], footnotes=footnotes)]


def _pair_row(pair: Paired) -> tuple[str, ...]:
    found, name = pair.comparison, pair.number
    return (
        _named(name) if pair.over is None else f"{_named(name)}, mean over {_words(pair.over)}",
        _number(name, found.first),
        _number(name, found.second),
        _difference(name, pair),
        ABSENT if found.only_first is None else f"{found.only_first} / {found.only_second}",
        ABSENT if found.p_value is None else f"{found.p_value:.3g}",
    )


def _pair_notes(pairs: Sequence[Paired]) -> Iterator[str]:
    for number in dict.fromkeys(pair.number for pair in pairs):
        if left_out := next(pair.left_out for pair in pairs if pair.number == number):
            yield f"{left_out} items have no {number} in one of the runs and are left out."
    if pairs[0].differing:
        yield f"The runs differ in {', '.join(pairs[0].differing)}, too."


def _difference(name: str, pair: Paired) -> str:
    found = pair.comparison.difference
    digits = DIGITS[unit(name)]
    text = f"{in_units(name, found.estimate):+.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{in_units(name, found.low):+.{digits}f}, {in_units(name, found.high):+.{digits}f}]"
