"""The table of a model card that compares the paper, the original code and this package on the paper's benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .card_facts import CardSource
from .card_numbers import NOT_MEASURED

__all__ = ["load_measured", "parity_rows"]

# Name of the design's paper in `Task.published`.
PAPERS = {"videollama2_av": "videollama2"}


def load_measured(folders: Sequence[str | Path]) -> dict[str, Any]:
    """The results of `hf-videollm evaluate`: task -> run.

    Args:
        folders: folders of runs; none gives an empty dict.

    Raises:
        ValueError: a folder has no results, or they are of several models.
    """
    if not folders:
        return {}
    from ..evaluation.report.loading import load_runs

    runs = load_runs([Path(folder) for folder in folders])
    models = {(run.result["model"]["model"], run.result["model"].get("revision")) for run in runs}
    if len(models) > 1:
        names = ", ".join(sorted(str(name) for name, _ in models))
        raise ValueError(f"A model card is about one model, and these results are of several: {names}.")
    return {run.task: run for run in runs}


def paper_model(source: CardSource, names: Sequence[str]) -> str:
    """The row of the paper's tables that a checkpoint is compared with.

    Args:
        source: the checkpoint.
        names: names of its sources, of which one may say which size it is.
    """
    known: Mapping[str, str] = source.facts["paper_models"]
    short = [name.split("/")[-1].lower() for name in names]
    fitting = [(key, row) for key, row in known.items() if any(key in name for name in short)]
    # The longest name that fits is the most exact one.
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else known["default"]


def parity_rows(source: CardSource, model: str, measured: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the table: benchmark, metric, paper, original code, this package. Cells are marked text.

    Args:
        source: the checkpoint.
        model: its name in the tables of the paper.
        measured: see `load_measured`.
    """
    from ..evaluation.tasks import find_task, task_names

    paper = PAPERS.get(source.design, source.design)
    rows = []
    for name in task_names():
        task = find_task(name)
        printed = task.published.get(paper, {}).get(model, {})
        for metric in _main(printed) or (["accuracy"] if name in measured else []):
            title = source.book.name(task.title, f"evaluation/tasks: {name}")
            cell = NOT_MEASURED
            if metric in printed:
                cell = source.book.add(partial(_printed, task, paper, model, metric), _where(name, model), "plain")
            rows.append([title, metric.replace("_", " "), cell, NOT_MEASURED, _own(source, measured.get(name), metric)])
    return rows


def _main(printed: Mapping[str, float]) -> list[str]:
    """The metrics of a task that a card shows: the average, not every sub-task."""
    return [metric for metric in printed if "accuracy" in printed and metric == "accuracy"] or list(printed)


def _printed(task: Any, paper: str, model: str, metric: str) -> float:
    return float(task.published[paper][model][metric])


def _where(task: str, model: str) -> str:
    return f"the paper's table, as evaluation/tasks has it: {task}, {model}"


def _own(source: CardSource, run: Any, metric: str) -> str:
    if run is None:
        return NOT_MEASURED
    from ..evaluation.report.numbers import in_units, numbers

    found = {number.name: number.value for number in numbers(run.result)}
    if metric not in found:
        return NOT_MEASURED

    def read() -> float:
        return round(in_units(metric, found[metric]), 1)

    return source.book.add(read, f"{run.folder.name}/result.json: {metric}", "plain")
