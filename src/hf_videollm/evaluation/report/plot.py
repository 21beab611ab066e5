"""The numbers of a report as a picture: an SVG of points with their intervals. It needs no plotting library."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .numbers import in_units, numbers, unit
from .report import Report, TaskReport
from .sheets import DIGITS, NOT_MEASURED

__all__ = ["as_svg"]

WIDTH, LABELS, RIGHT, ROW, HEAD = 860, 330, 80, 24, 46
NUM_TICKS = 5
# Scores of judges.
HIGHEST_SCORE = 5.0


@dataclass(frozen=True)
class Point:
    """One row of a panel.

    Attributes:
        label: of the run, or paper and model.
        value: in percent or points.
        low: end of the interval; None without one.
        high: the other end.
        is_printed: whether a paper prints it and nobody has measured it.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    is_printed: bool = False


@dataclass(frozen=True)
class Panel:
    """One number of one task."""

    title: str
    points: tuple[Point, ...]
    highest: float
    digits: int


def as_svg(report: Report) -> str:
    """The picture.

    Raises:
        ValueError: no run has a number.
    """
    panels = [panel for task in report.tasks for panel in _panels(task)]
    if not panels:
        raise ValueError("There is nothing to plot: no run has a number.")
    lines: list[str] = []
    top = 10
    for panel in panels:
        lines += _draw(panel, top)
        top += HEAD + ROW * len(panel.points) + 30
    if any(point.is_printed for panel in panels for point in panel.points):
        lines.append(f'<text x="10" y="{top + 8}" class="note">Open diamonds: {NOT_MEASURED.lower()}.</text>')
        top += 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="13">'
    )
    style = (
        "<style>.note{font-size:12px;fill:#555}.grid{stroke:#ddd}.bar{stroke:#1f5fa8;stroke-width:2}"
        ".run{fill:#1f5fa8}.printed{fill:none;stroke:#555;stroke-width:1.5}.title{font-weight:bold}</style>"
    )
    background = f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>'
    return "\n".join([head, style, background, *lines, "</svg>"]) + "\n"


def _panels(task: TaskReport) -> Iterator[Panel]:
    """One panel for each number that a run has; papers are shown where they print a number of the same name."""
    found = [{number.name: number for number in numbers(run.result)} for run in task.runs]
    for name in dict.fromkeys(name for row in found for name in row):
        points = []
        for run, row in zip(task.runs, found, strict=True):
            if (number := row.get(name)) is not None:
                low, high = (None if end is None else in_units(name, end) for end in (number.low, number.high))
                points.append(Point(run.label, in_units(name, number.value), low, high))
        points += [
            Point(_of_paper(row.paper, row.model), row.numbers[name], is_printed=True)
            for row in task.printed
            if name in row.numbers
        ]
        most = 100.0 if unit(name) else max(HIGHEST_SCORE, *(point.value for point in points))
        yield Panel(f"{task.title}: {name}{' (%)' if unit(name) else ''}", tuple(points), most, DIGITS[unit(name)])


def _draw(panel: Panel, top: int) -> list[str]:
    def across(value: float) -> str:
        return f"{LABELS + (WIDTH - LABELS - RIGHT) * value / panel.highest:.1f}"

    bottom = top + HEAD + ROW * len(panel.points)
    lines = [f'<text x="10" y="{top + 18}" class="title">{html.escape(panel.title)}</text>']
    for number in range(NUM_TICKS + 1):
        value = panel.highest * number / NUM_TICKS
        x = across(value)
        lines.append(f'<line class="grid" x1="{x}" y1="{top + 30}" x2="{x}" y2="{bottom}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" class="note">{value:g}</text>')
    for row, point in enumerate(panel.points):
        y = top + HEAD + ROW * row
        lines += _draw_point(point, across(point.value), y, [across(end) for end in _ends(point)])
        # A paper's number has the digits that it prints.
        text = f"{point.value:g}" if point.is_printed else f"{point.value:.{panel.digits}f}"
        lines.append(f'<text x="{WIDTH - 10}" y="{y + 4}" text-anchor="end" class="note">{text}</text>')
    return lines


def _ends(point: Point) -> Sequence[float]:
    return () if point.low is None or point.high is None else (point.low, point.high)


def _draw_point(point: Point, x: str, y: int, ends: Sequence[str]) -> Iterator[str]:
    yield f'<text x="{LABELS - 12}" y="{y + 4}" text-anchor="end">{html.escape(_short(point.label))}</text>'
    if ends:
        yield f'<line class="bar" x1="{ends[0]}" y1="{y}" x2="{ends[1]}" y2="{y}"/>'
    title = f"<title>{html.escape(point.label)}: {point.value:g}</title>"
    if point.is_printed:
        yield f'<path class="printed" transform="translate({x} {y})" d="M0 -6 6 0 0 6 -6 0Z">{title}</path>'
    else:
        yield f'<circle class="run" cx="{x}" cy="{y}" r="5">{title}</circle>'


def _of_paper(paper: str, model: str) -> str:
    """Label of a model in a paper, which is often named after it."""
    return model if model.startswith(paper) else f"{paper}: {model}"


def _short(label: str, most: int = 46) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
