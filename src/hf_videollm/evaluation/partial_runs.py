"""Runs of fewer items than the benchmark has: they are marked, and never take the place of a larger result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .data_files import DataError, DataFiles
from .items import Item
from .task import Task

__all__ = ["SmallerRunError", "partial_because", "refuse_smaller"]


class SmallerRunError(ValueError):
    """A run with a limit would replace the result of more items; the message says how many."""


def partial_because(task: Task, data: DataFiles, items: Sequence[Item], limit: int | None) -> str | None:
    """How many items `limit` has left out; None for a run with all items of the files.

    Args:
        task: the benchmark.
        data: its files.
        items: of the run.
        limit: of `RunOptions`.
    """
    if limit is None or len(items) < limit:
        return None
    try:
        total = sum(1 for _ in task.items(data))
    except DataError:
        # A row behind the limit is wrong. It does not concern this run, but nobody knows how many items there are.
        return f"the run has only {len(items)} items, because of --limit"
    return None if total == len(items) else f"the run has {len(items)} of {total} items"


def refuse_smaller(result: Path, num_items: int, limit: int | None) -> None:
    """Keep the result of a larger run.

    Args:
        result: file of the result that would be written.
        num_items: of the run.
        limit: of `RunOptions`. Without one, the run has what the benchmark's files hold, and may always be written.

    Raises:
        SmallerRunError: the file holds the result of more items.
    """
    if limit is None or not result.is_file():
        return
    try:
        before = int(json.loads(result.read_text(encoding="utf-8"))["counts"]["items"])
    except (ValueError, KeyError, TypeError):
        # A damaged result is no loss.
        return
    if before > num_items:
        raise SmallerRunError(
            f"{result} is of {before} items, and a run with --limit {limit} would replace it by one of {num_items}: "
            "choose another output, or leave out --limit."
        )
