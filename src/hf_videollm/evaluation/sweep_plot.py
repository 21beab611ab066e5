"""The plot of a sweep: numbers with their intervals, and for prompt styles the histograms of answer lengths."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from .answer_lengths import UNITS, bin_edges
from .headline import IN_PERCENT
from .sweep_report import SweepReport, SweepRow

__all__ = ["AXES", "check_plot", "write_plot"]

SUFFIXES = (".png", ".svg", ".pdf")
# What stands below the x-axis.
AXES: dict[str, str] = {
    "alpha": "LoRA alpha",
    "pooling": "pooling",
    "frames": "frames of a video",
    "tokens-per-frame": "tokens of a frame",
    "prompt-styles": "prompt style",
}
PANEL = (5.5, 4.0)
MOST_TICKS = 12


def check_plot(path: Path) -> None:
    """Find out before hours of work whether the plot can be written.

    Raises:
        ValueError: the suffix is none that can be drawn.
        ImportError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"A plot is a file that ends with {', '.join(SUFFIXES)}, not {path.name!r}.")
    if find_spec("matplotlib") is None:
        raise ImportError('Plots need matplotlib: pip install "hf-videollm[plots]", or leave out the plot.')


def write_plot(path: Path, report: SweepReport) -> None:
    """Draw a sweep into a file, completely or not at all.

    Args:
        path: ends with one of `SUFFIXES`.
        report: the sweep.

    Raises:
        ValueError: there is nothing to draw, or the suffix is unknown.
        ImportError: matplotlib is not installed.
    """
    check_plot(path)
    names = list(dict.fromkeys(number.name for row in report.rows for number in row.numbers))
    units = [unit for unit in UNITS if any(unit in row.lengths for row in report.rows)]
    if not names and not units:
        raise ValueError("There is nothing to plot: no setting has a number (a judged task needs a judge).")
    from matplotlib.figure import Figure

    count = len(names) + len(units)
    figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=False):
        _draw_number(panel, report, name)
    for panel, unit in zip(panels[len(names) :], units, strict=True):
        _draw_lengths(panel, report, unit)
    figure.suptitle(report.title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=150)


def _draw_number(panel: Any, report: SweepReport, name: str) -> None:
    """One number over the settings; a line for each series."""
    rows = [row for row in report.rows if any(number.name == name for number in row.numbers)]
    has_axis = all(row.x is not None for row in rows)
    for series in dict.fromkeys(row.series for row in rows):
        members = [(index, row) for index, row in enumerate(rows) if row.series == series]
        if has_axis:
            members.sort(key=lambda member: member[1].x or 0.0)
        xs = [row.x if has_axis else index for index, row in members]
        values = [_ends(row, name) for _, row in members]
        middle = [value for value, _, _ in values]
        around = [[value - low for value, low, _ in values], [high - value for value, _, high in values]]
        style = "o-" if has_axis else "o"
        panel.errorbar(xs, middle, yerr=around, fmt=style, capsize=3, label=series or None, clip_on=False)
    places = sorted({row.x for row in rows if row.x is not None})
    if not has_axis:
        panel.set_xticks(range(len(rows)), [row.label for row in rows], rotation=30, ha="right")
    elif len(places) <= MOST_TICKS:
        panel.set_xticks(places, [f"{place:.4g}" for place in places])
    panel.set(xlabel=_axis(report, has_axis), ylabel=f"{name} (%)" if name in IN_PERCENT else name)
    if name in IN_PERCENT:
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, 0.0), min(high, 100.0))
    panel.grid(alpha=0.3)
    if any(row.series for row in rows):
        panel.legend(fontsize=8)


def _draw_lengths(panel: Any, report: SweepReport, unit: str) -> None:
    """Histograms over common bins, as outlines that become thinner: equal ones are all seen."""
    edges = bin_edges([row.lengths for row in report.rows], unit)
    rows = [row for row in report.rows if unit in row.lengths]
    for number, row in enumerate(rows):
        lengths = row.lengths[unit]
        label = f"{row.label} (median {lengths.quantiles()['0.5']:g})"
        # Lengths are whole numbers, which stand in the middle of their bins.
        places = [edge - 0.5 for edge in edges]
        panel.stairs(lengths.histogram(edges), places, linewidth=1.5 * (len(rows) - number), label=label)
    panel.set(xlabel=f"{unit} of an answer", ylabel="answers")
    panel.legend(fontsize=8)


def _ends(row: SweepRow, name: str) -> tuple[float, float, float]:
    """Value, low and high of a number; without an interval all three are the value."""
    number = next(number for number in row.numbers if number.name == name)
    factor = 100.0 if name in IN_PERCENT else 1.0
    low, high = (number.value if end is None else end for end in (number.low, number.high))
    return number.value * factor, low * factor, high * factor


def _axis(report: SweepReport, has_axis: bool) -> str:
    if report.kind != "pooling" or not has_axis:
        return AXES.get(report.kind, report.kind)
    is_rate = all("num_frames" in row.value for row in report.rows)
    return "pooled time steps in percent of the frames" if is_rate else "height and width after pooling"
