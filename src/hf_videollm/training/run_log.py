"""Reads the log of a run, and draws the plot of its losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..atomic import atomic_file

__all__ = ["LOG_FILE", "PLOT_FILE", "draw_losses", "read_log"]

LOG_FILE, PLOT_FILE = "log.jsonl", "losses.png"
# Names of losses in the log -> their names in the plot.
LOSSES = {"loss": "training", "eval_loss": "evaluation"}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of the log of a run. A line that a killed run has not finished is left out."""
    file = folder / LOG_FILE
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def draw_losses(file: Path, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Draw the losses over the steps as a PNG.

    Args:
        file: the PNG.
        entries: those of a log.

    Returns:
        Whether there is a picture: not without losses, and not if matplotlib is missing (extra `plots`).
    """
    curves = {
        label: [(entry["step"], entry[name]) for entry in entries if isinstance(entry.get(name), int | float)]
        for name, label in LOSSES.items()
    }
    if not any(curves.values()) or find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    panel = figure.subplots()
    for label, points in curves.items():
        if points:
            steps, losses = zip(*points, strict=True)
            panel.plot(steps, losses, "." if len(points) == 1 else "-", label=label)
    panel.set_xlabel("step")
    panel.set_ylabel("loss")
    panel.legend()
    with atomic_file(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True
