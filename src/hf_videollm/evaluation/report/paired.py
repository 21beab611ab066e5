"""Whether one run is better than another on the same items: each task that both have, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..aggregate_judged import counting_of
from ..statistics import Comparison, compare_runs
from .differing import differing_settings
from .loading import LoadedRun

__all__ = ["Paired", "compare_loaded"]

# Fields of an item that must be the same in both runs.
OF_ITEM = ("questions", "options", "answer", "references")


@dataclass(frozen=True)
class Paired:
    """Two runs of one task.

    Attributes:
        title: of the task.
        task: its name.
        first: label of the first run.
        second: label of the second run.
        number: what is compared, "accuracy" or "score".
        comparison: the numbers.
        num_items: items that are compared.
        left_out: items that at least one of the runs gave no value: no answer, or no judgement.
        differing: settings other than the model in which the runs differ.
    """

    title: str
    task: str
    first: str
    second: str
    number: str
    comparison: Comparison
    num_items: int
    left_out: int
    differing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**vars(self), "comparison": self.comparison.to_dict(), "differing": list(self.differing)}


def compare_loaded(first: Sequence[LoadedRun], second: Sequence[LoadedRun]) -> list[Paired]:
    """Compare the tasks that two folders of runs have in common.

    Raises:
        ValueError: they have none, a folder has two runs of one task, or the runs of a task have other items.
    """
    ours, theirs = _by_task(first), _by_task(second)
    common = [task for task in ours if task in theirs]
    if not common:
        raise ValueError(
            f"The runs to compare have no task in common: {', '.join(ours)} in the first, {', '.join(theirs)} in the "
            "second."
        )
    return [pair for task in common for pair in _compare_task(ours[task], theirs[task])]


def _by_task(runs: Sequence[LoadedRun]) -> dict[str, LoadedRun]:
    found: dict[str, LoadedRun] = {}
    for run in runs:
        if run.task in found:
            raise ValueError(f"Compare two runs: {found[run.task].folder} and {run.folder} are both of {run.task}.")
        found[run.task] = run
    return found


def _compare_task(first: LoadedRun, second: LoadedRun) -> list[Paired]:
    ours = {str(item["id"]): item for item in first.items()}
    theirs = {str(item["id"]): item for item in second.items()}
    for id, item in ours.items():
        other = theirs.get(id)
        changed = [name for name in OF_ITEM if other is not None and item.get(name) != other.get(name)]
        if changed:
            raise ValueError(
                f"{first.folder} and {second.folder}: item {id!r} has other {changed[0]} in one than in the other: "
                "compare runs on the same files."
            )
    pairs = []
    for number in ("accuracy", "score"):
        values = _values(first, ours, number), _values(second, theirs, number)
        if all(any(value is not None for value in column.values()) for column in values):
            pairs.append(_pair(first, second, number, values, ours))
    return pairs


def _pair(
    first: LoadedRun,
    second: LoadedRun,
    number: str,
    values: tuple[Mapping[str, float | None], Mapping[str, float | None]],
    items: Mapping[str, Mapping[str, Any]],
) -> Paired:
    # An item that only one run has is told by `compare_runs`.
    without = {id for column in values for id, value in column.items() if value is None}
    kept = [{id: value for id, value in column.items() if value is not None and id not in without} for column in values]
    left_out = len(without)
    videos = {id: _video(items[id]) for id in kept[0] if id in items}
    try:
        comparison = compare_runs(kept[0], kept[1], videos)
    except ValueError as error:
        raise ValueError(f"{first.folder} and {second.folder}: {error}") from error
    differing = tuple(name for name in differing_settings([first.result, second.result]) if name != "model.revision")
    labels = (first.label, second.label)
    return Paired(
        str(first.result["title"]), first.task, *labels, number, comparison, len(kept[0]), left_out, differing
    )


def _values(run: LoadedRun, items: Mapping[str, Mapping[str, Any]], number: str) -> dict[str, float | None]:
    """What each item counts in a number of the run; None where it does not count."""
    if number == "score":
        # `score` is the whole number of a judged answer; other tasks have none.
        return {id: _float(item.get("score")) for id, item in items.items()}
    scoring = run.result["scoring"]
    failures_are_wrong = scoring["metric"] == "judged_qa" and counting_of(scoring["judge_policy"]).failures_are_wrong
    return {id: _right(item, failures_are_wrong) for id, item in items.items()}


def _right(item: Mapping[str, Any], failures_are_wrong: bool) -> float | None:
    """1 or 0; None without answer, and where the policy leaves a judgement out."""
    if "error" in item:
        return None
    if item.get("judge_failed") or item.get("correct") is None:
        return 0.0 if failures_are_wrong else None
    return float(item["correct"])


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _video(item: Mapping[str, Any]) -> str:
    """What the bootstrap draws: questions on one video are not independent."""
    return str(item["media"][0]["path"])
