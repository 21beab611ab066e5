"""The table of a sweep, as JSON, CSV, and a drawing for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from .answer_lengths import UNITS, Lengths, bin_edges
from .headline import Headline, headlines

__all__ = ["SweepReport", "SweepRow", "write_report", "write_text"]

COUNTS = ("items", "errors", "parse_failures", "judge_failures")
COUNT_TITLES = ("items", "no answer", "unread", "unjudged")


@dataclass(frozen=True)
class SweepRow:
    """One setting and what came of it.

    Attributes:
        label: of the setting, and name of its folder.
        value: of the setting.
        result: what `result.json` holds.
        x: place on the x-axis; None without numbers.
        series: rows with the same one are joined by a line.
        lengths: unit -> lengths of the answers; empty where they were not asked for.
        is_kept: whether the setting was not asked for this time, and its row is that of an earlier sweep.
    """

    label: str
    value: Any
    result: Mapping[str, Any]
    x: float | None = None
    series: str = ""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    is_kept: bool = False

    @property
    def numbers(self) -> list[Headline]:
        """The numbers with their intervals; none where nothing was scored."""
        return headlines(self.result)

    @property
    def counts(self) -> dict[str, int]:
        """Items, and those that spoil the numbers."""
        return {name: self.result["counts"][name] for name in COUNTS}


@dataclass(frozen=True)
class SweepReport:
    """All rows of a sweep.

    Attributes:
        kind: name of the sweep.
        task: name of the benchmark.
        title: of the benchmark.
        rows: in the order of the table.
        failed: label -> why a setting has no row.
    """

    kind: str
    task: str
    title: str
    rows: tuple[SweepRow, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> SweepRow | None:
        """The row with the highest first number; the first of several. None where nothing was scored.

        Kept rows do not count: this is the best of the settings that were asked for.
        """
        return max(self._scored, key=lambda row: row.numbers[0].value, default=None)

    @property
    def equally_good(self) -> tuple[SweepRow, ...]:
        """The rows that were asked for and have the same first number as the best one; it is the first of them."""
        best = self.best
        return tuple(row for row in self._scored if best and row.numbers[0].value == best.numbers[0].value)

    @property
    def is_tied(self) -> bool:
        """Whether all of several settings have the same first number, so that none is better than another."""
        return 1 < len(self._scored) == len(self.equally_good)

    @property
    def _scored(self) -> list[SweepRow]:
        return [row for row in self.rows if row.numbers and not row.is_kept]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        edges = {unit: bin_edges([row.lengths for row in self.rows], unit) for unit in UNITS}
        best = self.best
        return {
            "sweep": self.kind,
            "task": self.task,
            "best": None if best is None else best.value,
            "tied": self.is_tied,
            "rows": [_row_dict(row, edges) for row in self.rows],
            "failed": dict(self.failed),
        }

    def as_csv(self) -> str:
        """One line for each setting and number. Shares are shares of 1, as in `result.json`."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("setting", "number", "value", "low", "high", *COUNTS))
        for row in self.rows:
            counts = tuple(row.counts.values())
            for name, value, low, high in _numbers(row):
                writer.writerow((row.label, name, *(_plain(number) for number in (value, low, high)), *counts))
        return stream.getvalue()

    def render(self) -> Any:
        """The table for a rich console."""
        from rich.table import Column, Table

        has_lengths = any(row.lengths for row in self.rows)
        first = [Column("setting", no_wrap=True)]
        numbers = [Column(name, no_wrap=True) for name in ("number", "95 % interval")]
        lengths = [Column("words (10 to 90 %)", no_wrap=True)] if has_lengths else []
        counted = [Column(name, justify="right") for name in COUNT_TITLES]
        table = Table(*first, *numbers, *lengths, *counted, title=f"{self.title}: {self.kind}")
        best = self.best
        for row in self.rows:
            texts = "\n".join(f"{number.name} {number.text}" for number in row.numbers) or "not scored"
            intervals = "\n".join(number.interval for number in row.numbers)
            words = [_middle(row.lengths["words"]) if row.lengths else ""] if has_lengths else []
            style = "bold" if row is best and len(self.rows) > 1 and not self.is_tied else None
            table.add_row(row.label, texts, intervals, *words, *map(str, row.counts.values()), style=style)
        return table


def write_report(folder: Path, report: SweepReport) -> None:
    """Write `sweep.json` and `sweep.csv` into the folder of a sweep."""
    write_text(folder / "sweep.json", json.dumps(report.to_dict(), ensure_ascii=False, indent=2) + "\n")
    write_text(folder / "sweep.csv", report.as_csv())


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _row_dict(row: SweepRow, edges: Mapping[str, list[float]]) -> dict[str, Any]:
    numbers = {number.name: {"value": number.value, "low": number.low, "high": number.high} for number in row.numbers}
    lengths = {unit: lengths.to_dict(edges[unit]) for unit, lengths in row.lengths.items()}
    return {
        "setting": row.label,
        "value": row.value,
        "numbers": numbers,
        "counts": row.counts,
        **({"lengths": lengths} if lengths else {}),
    }


def _numbers(row: SweepRow) -> Iterator[tuple[str, float | None, float | None, float | None]]:
    """Name, value and interval of all numbers of a row; one empty number where there is none."""
    found = False
    for number in row.numbers:
        found = True
        yield number.name, number.value, number.low, number.high
    for unit, lengths in row.lengths.items():
        found = True
        facts = lengths.to_dict([0.0, 1.0])
        yield f"{unit} mean", facts["mean"], facts["low"], facts["high"]
        for share, value in facts["quantiles"].items():
            yield f"{unit} quantile {share}", value, None, None
    if not found:
        yield "", None, None, None


def _plain(number: float | None) -> str:
    return "" if number is None else repr(number)


def _middle(lengths: Lengths) -> str:
    quantiles = lengths.quantiles()
    return f"{quantiles['0.5']:g} ({quantiles['0.1']:g} to {quantiles['0.9']:g})"
