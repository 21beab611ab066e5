"""Writes the record, the log and the plot of a run while it trains.

It is imported where a training begins, because transformers' callbacks load PEFT.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..atomic import atomic_file
from ..evaluation.provenance import now
from .draws import OfEpoch
from .run_log import LOG_FILE, PLOT_FILE, draw_losses, read_log
from .run_record import RunRecord

__all__ = ["EpochTeller", "RunLogger"]

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
        self._had_finished = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write the record. Entries of the log after the step from which the run resumes are removed.

        If the run had finished before, its files stay as they are.
        """
        self._had_finished = 0 < state.max_steps <= state.global_step
        if not state.is_world_process_zero or self._had_finished:
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
        if state.is_world_process_zero and logs and not self._had_finished:
            entry = {"step": state.global_step, "epoch": state.epoch, **logs, "time": now()}
            with (Path(args.output_dir) / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, default=float) + "\n")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the plot, but not more often than once in a minute."""
        if state.is_world_process_zero and time.monotonic() - self._drawn > PLOT_SECONDS:
            self._draw(Path(args.output_dir))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the plot, and note the end of the session."""
        if state.is_world_process_zero and not self._had_finished:
            folder = Path(args.output_dir)
            self._draw(folder)
            self.record.end(folder, state.global_step)

    def _draw(self, folder: Path) -> None:
        self._drawn = time.monotonic()
        draw_losses(folder / PLOT_FILE, read_log(folder))


class EpochTeller(TrainerCallback):
    """Tells which epoch begins, before the data loader starts its workers.

    Args:
        told: what draws anew in each epoch; None is left out.
    """

    def __init__(self, *told: OfEpoch | None) -> None:
        self.told = [one for one in told if one is not None]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch. When a training resumes, the epoch may have begun before."""
        # The epoch is a sum of fractions, which may be a little too small.
        for one in self.told:
            one.epoch = int((state.epoch or 0) + 1e-6)
