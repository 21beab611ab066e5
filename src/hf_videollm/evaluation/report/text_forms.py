"""The report for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator
from typing import Any

from ..headline import Headline
from .numbers import group_tables, in_units, numbers, unit
from .paired import Paired
from .report import Report
from .sheets import MEAN, Sheet, sections

__all__ = ["as_csv", "as_drawing", "as_json", "as_markdown", "as_plain"]

# Of tables that are written into a file.
PLAIN_WIDTH = 160

# What is measured and what papers print have columns of their own, so that nobody adds them up by mistake.
COLUMNS = (
    "task",
    "run",
    "folder",
    "paper",
    "model_in_paper",
    "number",
    "group",
    "label",
    "unit",
    "value",
    "low",
    "high",
    "printed_in_paper",
    "items",
    "errors",
    "parse_failures",
    "judge_failures",
    "partial",
    # Of lines that compare two runs.
    "second_run",
    "value_of_second",
    "difference",
    "difference_low",
    "difference_high",
    "only_first_right",
    "only_second_right",
    "p",
    "left_out",
)


def as_json(report: Report) -> str:
    """One JSON object."""
    return json.dumps(report.to_dict(), ensure_ascii=False, indent=2) + "\n"


def as_drawing(report: Report) -> Any:
    """Tables for `rich`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for heading, sheets, notes in sections(report):
        parts.append(Text(heading, style="bold"))
        for sheet in sheets:
            # As Text: a name may hold brackets, which rich would take for markup.
            table = Table(*map(_column, sheet.header), title=Text(sheet.title) if sheet.title else None)
            for row in sheet.rows:
                table.add_row(*(Text(cell) for cell in row))
            parts += [table, *(Text(note) for note in sheet.footnotes)]
        parts += [*(Text(f"Note: {note}") for note in notes), Text("")]
    return Group(*parts)


def _column(name: str) -> Any:
    from rich.table import Column
    from rich.text import Text

    # A long name goes on in the next line rather than end in dots.
    return Column(Text(name), overflow="fold")


def as_plain(report: Report) -> str:
    """The tables of the terminal as text without colours."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=PLAIN_WIDTH, color_system=None).print(as_drawing(report))
    return text.getvalue()


def as_markdown(report: Report) -> str:
    """A Markdown page, a section for each task."""
    lines = ["# Results", ""]
    for heading, sheets, notes in sections(report):
        lines += [f"## {_markdown(heading)}", ""]
        for sheet in sheets:
            lines += [*_markdown_sheet(sheet), ""]
        lines += [f"- {_markdown(note)}" for note in notes]
        lines += [""] if notes else []
    return "\n".join(lines).rstrip() + "\n"


def _markdown_sheet(sheet: Sheet) -> Iterator[str]:
    if sheet.title:
        yield from (f"### {_markdown(sheet.title)}", "")
    yield f"| {' | '.join(map(_markdown, sheet.header))} |"
    yield f"|{'---|' * len(sheet.header)}"
    for row in sheet.rows:
        yield f"| {' | '.join(map(_markdown, row))} |"
    for note in sheet.footnotes:
        yield from ("", _markdown(note))


def _markdown(text: str) -> str:
    """A text in one line of Markdown that means nothing else there."""
    line = html.escape(" ".join(text.split()), quote=False)
    for sign in ("\\", "|", "*", "_", "`", "[", "]", "#"):
        line = line.replace(sign, f"\\{sign}")
    return line


def as_csv(report: Report) -> str:
    """One line for each number of runs and of papers, and for each comparison of two runs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(_csv_rows(report))
    return text.getvalue()


def _csv_rows(report: Report) -> Iterator[dict[str, Any]]:
    for task in report.tasks:
        for run in task.runs:
            counts = run.result["counts"]
            facts = {name: counts[name] for name in ("items", "errors", "parse_failures", "judge_failures")}
            facts["partial"] = run.result.get("partial") or ""
            line: dict[str, Any] = {"task": task.task, "run": run.label, "folder": str(run.folder), **facts}
            found = numbers(run.result)
            for number in found:
                yield {**line, **_with_ends(number)}
            if not found:
                yield line
            for table in group_tables(run.result):
                for label, (value, count) in table.rows.items():
                    group = {"group": table.name, "label": label, "items": count}
                    yield {"task": task.task, "run": run.label, "folder": str(run.folder), **group} | _value(
                        table.number, value
                    )
                if table.macro is not None:
                    mean = {"group": table.name, "label": MEAN}
                    yield {"task": task.task, "run": run.label, "folder": str(run.folder), **mean} | _with_ends(
                        table.macro
                    )
        for row in task.printed:
            for name, value in row.numbers.items():
                paper = {"task": task.task, "paper": row.paper, "model_in_paper": row.model}
                yield {**paper, "number": name, "printed_in_paper": value}

    yield from map(_pair_row, report.pairs)


def _pair_row(pair: Paired) -> dict[str, Any]:
    """A comparison; in other columns than what was measured, so that nobody takes it for a run."""
    found, name = pair.comparison, pair.number
    difference = found.difference
    inside = {"difference_low": difference.low, "difference_high": difference.high}
    others = {"only_first_right": found.only_first, "only_second_right": found.only_second, "p": found.p_value}
    return {
        "task": pair.task,
        "run": pair.first,
        "second_run": pair.second,
        "number": name,
        "group": pair.over or "",
        "label": "" if pair.over is None else MEAN,
        "unit": unit(name),
        "value": in_units(name, found.first),
        "value_of_second": in_units(name, found.second),
        "difference": in_units(name, difference.estimate),
        **{column: in_units(name, value) for column, value in inside.items() if value is not None},
        **{column: value for column, value in others.items() if value is not None},
        "items": pair.num_items,
        "left_out": pair.left_out,
    }


def _with_ends(number: Headline) -> dict[str, Any]:
    """A number with its interval."""
    ends = {"low": number.low, "high": number.high}
    found = {end: in_units(number.name, value) for end, value in ends.items() if value is not None}
    return {**_value(number.name, number.value), **found}


def _value(name: str, value: float | None) -> dict[str, Any]:
    return {"number": name, "unit": unit(name), "value": "" if value is None else in_units(name, value)}
