"""The report as one HTML file that needs no other: tables, and the items with frames, answers and a filter."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence

from .page_items import MARKS, item_cards
from .page_parts import POLICY, SCRIPT, STYLE
from .report import Report
from .sheets import NOT_MEASURED, Sheet, sections
from .thumbnails import Thumbnails

__all__ = ["MOST_ITEMS", "as_page"]

MOST_ITEMS = 200
_NUMBER = re.compile(r"[-+]?[\d.]+( \[.*\])?")
_NAME = re.compile(r"`([^`]+)`")


def as_page(report: Report, max_items: int = MOST_ITEMS, pictures: bool = True) -> str:
    """The page.

    Args:
        report: what it shows.
        max_items: most items of each task. The page says how many there are.
        pictures: show frames of the videos, as far as these are still there.

    Raises:
        ValueError: the items of a run cannot be read.
    """
    thumbnails = Thumbnails() if pictures else None
    cards: list[str] = []
    notes: list[str] = []
    for task in report.tasks:
        found, count = item_cards(task, max_items, thumbnails)
        cards += found
        if len(found) < count:
            notes.append(f"{task.title}: the first {len(found)} of {count} items are shown.")
    if thumbnails is not None and thumbnails.num_missing:
        notes.append(
            f"Files that are not there any more, so that their frames are not shown: {thumbnails.num_missing}."
        )
    return "\n".join(_lines(report, cards, notes)) + "\n"


def _lines(report: Report, cards: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Results</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>Results</h1>"
    found = sections(report)
    names = [heading for heading, _, _ in found] + ["Items"]
    links = (f'<a href="#part{number}">{_text(name)}</a>' for number, name in enumerate(names))
    yield f"<nav>{' '.join(links)}</nav>"
    for number, (heading, sheets, remarks) in enumerate(found):
        yield f'<h2 id="part{number}">{_text(heading)}</h2>'
        for sheet in sheets:
            yield from _table(sheet)
        yield from (f'<p class="note">{_marked(remark)}</p>' for remark in remarks)
    yield f'<h2 id="part{len(found)}">Items</h2>'
    yield from (f'<p class="note">{_text(note)}</p>' for note in notes)
    if cards:
        yield from _filter(report)
        yield from cards
        yield f"<script>{SCRIPT}</script>"
    yield "</body>\n</html>"


def _table(sheet: Sheet) -> Iterator[str]:
    kind = ' class="printed"' if sheet.title.startswith(NOT_MEASURED) else ""
    yield f'<div class="scroll"><table{kind}>'
    if sheet.title:
        yield f"<caption>{_text(sheet.title)}</caption>"
    yield f"<tr>{''.join(f'<th>{_text(name)}</th>' for name in sheet.header)}</tr>"
    for row in sheet.rows:
        yield f"<tr>{''.join(map(_cell, row))}</tr>"
    yield "</table></div>"
    yield from (f'<p class="note">{_marked(note)}</p>' for note in sheet.footnotes)


def _cell(text: str) -> str:
    """A cell; a number is not broken in front of its interval."""
    kind = ' class="number"' if _NUMBER.fullmatch(text) else ""
    return f"<td{kind}>{_text(text)}</td>"


def _marked(text: str) -> str:
    """A note, in which names stand between backticks."""
    return _NAME.sub(r"<code>\1</code>", _text(text))


def _filter(report: Report) -> Iterator[str]:
    tasks = "".join(f'<option value="{_text(task.task)}">{_text(task.title)}</option>' for task in report.tasks)
    marks = {**MARKS, "failed": "judge failed", "differ": "the runs differ"}
    states = "".join(f'<option value="{word}">{mark}</option>' for word, mark in marks.items())
    names = {task.task: [run.label for run in task.runs] for task in report.tasks}
    every_task = '<option value="">all tasks</option>' if len(report.tasks) > 1 else ""
    yield (
        f'<div class="filter"><select id="task">{every_task}{tasks}</select> '
        f'<select id="state"><option value="all">all answers</option>{states}</select> '
        '<select id="run"></select> <input id="text" type="search" placeholder="words"> <span id="count"></span></div>'
    )
    # Inside a script element, only "<" could end it.
    data = json.dumps(names, ensure_ascii=False).replace("<", "\\u003c")
    yield f'<script id="runs" type="application/json">{data}</script>'


def _text(value: str) -> str:
    return html.escape(value)
