"""The table of a model card that compares the paper, the original code and this package on the paper's benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .card_facts import CardSource
from .card_numbers import NOT_MEASURED

__all__ = ["load_measured", "paper_model", "parity_rows"]

# Name of the design's paper in `Task.published`.
PAPERS = {"videollama2_av": "videollama2"}


def load_measured(source: CardSource, folders: Sequence[str | Path]) -> dict[str, Any]:
    """The results of `hf-videollm evaluate` for a checkpoint: task -> run.

    Args:
        source: the checkpoint.
        folders: folders of runs; none gives an empty dict.

    Raises:
        ValueError: a folder has no results, or they are of several models, or of another one than the checkpoint.
    """
    if not folders:
        return {}
    from ..evaluation.report.hub import eval_results
    from ..evaluation.report.loading import load_runs

    runs = load_runs([Path(folder) for folder in folders])
    for run in runs:
        _check_model(source, run)
    # Refuses several models, and several runs of a task.
    eval_results(runs, partial=True)
    return {run.task: run for run in runs}


def _check_model(source: CardSource, run: Any) -> None:
    """Refuse the results of a model that cannot be this checkpoint. Its folder may have another name by now."""
    facts, info = run.result["model"], source.info
    pairs: list[tuple[str, Any, Any]] = [("design", facts.get("design"), source.design)]
    if info.quantization is None and info.lora_alpha is None and facts.get("lora_alpha") is None:
        pairs.append(("number of parameters", facts.get("num_parameters"), info.parameters["total"]))
    for what, found, expected in pairs:
        if found is not None and found != expected:
            raise ValueError(
                f"{run.folder} has results of another model: its {what} is {found}, and that of {source.folder} is "
                f"{expected}."
            )


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
    stated: list[tuple[str, Mapping[str, float]]] = []
    for name in task_names():
        task = find_task(name)
        printed = task.published.get(paper, {}).get(model, {})
        # A paper that does not name the split has one number for all splits of a benchmark.
        if (task.source, printed) in stated and name not in measured:
            continue
        stated.append((task.source, printed))
        for metric in _main(printed) or _first_metric(measured.get(name)):
            title = source.book.name(task.title, f"evaluation/tasks: {name}")
            cell = NOT_MEASURED
            if metric in printed:
                cell = source.book.add(partial(_printed, task, paper, model, metric), _where(name, model), "plain")
            rows.append([title, metric.replace("_", " "), cell, NOT_MEASURED, _own(source, measured.get(name), metric)])
    known = set(task_names())
    rows += [_further(source, run) for name, run in measured.items() if name not in known]
    return rows


def _further(source: CardSource, run: Any) -> list[str]:
    """The row of a benchmark that is not one of the papers', such as one of the user's own."""
    from ..evaluation.report.numbers import numbers

    metric = next((number.name for number in numbers(run.result)), "accuracy")
    title = source.book.name(str(run.result["title"]), f"{run.folder.name}/result.json: title")
    return [title, metric.replace("_", " "), NOT_MEASURED, NOT_MEASURED, _own(source, run, metric)]


def _first_metric(run: Any) -> list[str]:
    """The main metric of a result; none without a result."""
    if run is None:
        return []
    from ..evaluation.report.numbers import numbers

    return [number.name for number in numbers(run.result)][:1]


def _main(printed: Mapping[str, float]) -> list[str]:
    """The metrics of a task that a card shows: the average, not every sub-task."""
    return [metric for metric in printed if "accuracy" in printed and metric == "accuracy"] or list(printed)


def _rounded(metric: str, value: float) -> float:
    """A number as papers print it: percent with one digit behind the point, points with two."""
    from ..evaluation.report.numbers import in_units, unit

    return round(in_units(metric, value), 1 if unit(metric) else 2)


def _printed(task: Any, paper: str, model: str, metric: str) -> float:
    return float(task.published[paper][model][metric])


def _where(task: str, model: str) -> str:
    return f"the paper's table, as evaluation/tasks has it: {task}, {model}"


def _own(source: CardSource, run: Any, metric: str) -> str:
    if run is None:
        return NOT_MEASURED
    from ..evaluation.report.numbers import numbers

    found = {number.name: number.value for number in numbers(run.result)}
    if metric not in found:
        return NOT_MEASURED

    def read() -> float:
        return _rounded(metric, found[metric])

    def asked() -> int:
        return int(run.result["counts"]["items"])

    file = f"{run.folder.name}/result.json"
    value, count = source.book.add(read, f"{file}: {metric}", "plain"), source.book.add(asked, f"{file}: counts/items")
    return f"{value} ({count} questions{', a part of the benchmark' if run.result.get('partial') else ''})"
