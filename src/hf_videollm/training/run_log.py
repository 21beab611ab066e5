"""Writes the record, the log and the plot of a run while it trains.

It is imported where a training begins, because transformers' callbacks load PEFT.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..atomic import atomic_file
from ..evaluation.provenance import now
from .draws import BatchDraws
from .run_record import RunRecord

__all__ = ["LOG_FILE", "PLOT_FILE", "EpochTeller", "RunLogger", "draw_losses", "read_log"]

LOG_FILE, PLOT_FILE = "log.jsonl", "losses.png"
# Names of losses in the log -> their names in the plot.
LOSSES = {"loss": "training", "eval_loss": "evaluation"}
# Seconds between two drawings of the plot while the training runs.
PLOT_SECONDS = 60.0


class RunLogger(TrainerCallback):
    """Keeps the files of a run (`run_record.py`) up to date.

    Args:
        record: what is written down at the beginning.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._drawn = -PLOT_SECONDS

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write the record. Entries of the log after the step from which the run resumes are removed."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.record.begin(folder, args, model, state.global_step, state.max_steps)
        kept = [entry for entry in read_log(folder) if entry.get("step", 0) <= state.global_step]
        with atomic_file(folder / LOG_FILE) as temporary:
            lines = [json.dumps(entry) + "\n" for entry in kept if state.global_step]
            temporary.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Add a line to the log."""
        if state.is_world_process_zero and logs:
            entry = {"step": state.global_step, "epoch": state.epoch, **logs, "time": now()}
            with (Path(args.output_dir) / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, default=float) + "\n")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the plot, but not more often than once in a minute."""
        if state.is_world_process_zero and time.monotonic() - self._drawn > PLOT_SECONDS:
            self._draw(Path(args.output_dir))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the plot, and note the end of the session."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            self._draw(folder)
            self.record.end(folder, state.global_step)

    def _draw(self, folder: Path) -> None:
        self._drawn = time.monotonic()
        draw_losses(folder / PLOT_FILE, read_log(folder))


class EpochTeller(TrainerCallback):
    """Tells the draws of a collator which epoch it is.

    Args:
        draws: those of the collator.
    """

    def __init__(self, draws: BatchDraws) -> None:
        self.draws = draws

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch. When a training resumes, the epoch may have begun before."""
        # The epoch is a sum of fractions, which may be a little too small.
        self.draws.epoch[0] = int((state.epoch or 0) + 1e-6)


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
