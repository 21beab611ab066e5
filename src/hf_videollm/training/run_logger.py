"""The record of a run of which a script made the trainer."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from ..training_outputs import BaseModel

__all__ = ["run_logger"]


def run_logger(maker: str, base: BaseModel | None, train_dataset: Any) -> Any:
    """A callback that writes record, log and plot of a run into its output folder.

    Args:
        maker: name of the function of `hf_videollm` that makes the trainer.
        base: the model that the training begins with, if it was loaded from a folder or the Hub.
        train_dataset: the rows to train on.
    """
    from .run_callbacks import RunLogger
    from .run_record import RunRecord

    rows = {"rows": len(train_dataset)} if isinstance(train_dataset, Sized) else {}
    return RunLogger(RunRecord(None, base, rows, f"hf_videollm.{maker}"))
