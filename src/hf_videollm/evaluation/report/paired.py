"""Whether one run is better than another on the same items: each task that both have, compared item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..aggregate import Label
from ..aggregate_judged import counted_score, counting_of
from ..macro_statistics import compare_macro
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
        over: name of the table (or "aspects") over whose rows the mean is taken; None for the mean over all items.
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
    over: str | None = None

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
            pairs += _pairs(first, second, number, values, ours)
    if all("aspects" in run.result["metrics"] for run in (first, second)):
        pairs += _aspect_pairs(first, second, ours, theirs)
    return pairs


@dataclass(frozen=True)
class _Columns:
    """The items that count in both runs: id -> value.

    Attributes:
        first: of the first run.
        second: of the second run.
        left_out: number of items that do not count in one of them.
    """

    first: Mapping[str, float]
    second: Mapping[str, float]
    left_out: int

    @classmethod
    def of(cls, first: Mapping[str, float | None], second: Mapping[str, float | None]) -> _Columns:
        """An item that only one run has stays, and is told by the comparison."""
        without = {id for column in (first, second) for id, value in column.items() if value is None}
        kept = [
            {id: value for id, value in column.items() if value is not None and id not in without}
            for column in (first, second)
        ]
        return cls(kept[0], kept[1], len(without))


def _pairs(
    first: LoadedRun,
    second: LoadedRun,
    number: str,
    values: tuple[Mapping[str, float | None], Mapping[str, float | None]],
    items: Mapping[str, Mapping[str, Any]],
) -> list[Paired]:
    """The comparison of the means over all items, and of those over the rows of each table."""
    columns = _Columns.of(*values)
    videos = {id: _video(items[id]) for id in columns.first if id in items}
    pairs = [_pair(first, second, number, columns, lambda: compare_runs(columns.first, columns.second, videos))]
    for table in first.result["metrics"].get("groups") or {}:
        labels = {id: items[id].get("groups", {}).get(table) for id in columns.first}
        if len({label for label in labels.values() if label is not None}) < 2:
            continue

        def compare(labels: Mapping[str, Label] = labels) -> Comparison:
            return compare_macro(columns.first, columns.second, labels, videos)

        pairs.append(_pair(first, second, number, columns, compare, table))
    return pairs


def _aspect_pairs(
    first: LoadedRun,
    second: LoadedRun,
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> list[Paired]:
    """The comparison of the means over the aspects of VCG or MSVC, in which an item has a score for each aspect.

    There is none where every judgement failed.
    """
    values = [_aspect_values(run, items) for run, items in ((first, ours), (second, theirs))]
    columns = _Columns.of(*({key: value for key, (_, _, value) in column.items()} for column in values))
    labels = {key: aspect for key, (_, aspect, _) in values[0].items()}
    videos = {key: _video(ours[id]) for key, (id, _, _) in values[0].items()}

    def compare() -> Comparison:
        return compare_macro(columns.first, columns.second, labels, videos)

    return [_pair(first, second, "score", columns, compare, "aspects")] if columns.first or columns.second else []


def _aspect_values(run: LoadedRun, items: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str, float | None]]:
    """Key of a judgement -> item, aspect, and what it counts."""
    policy = run.result["scoring"]["judge_policy"]
    return {
        f"{id}, {aspect}": (id, aspect, counted_score(policy, judged["score"], judged["failed"]))
        for id, item in items.items()
        for aspect, judged in ((item.get("detail") or {}).get("aspects") or {}).items()
    }


def _pair(
    first: LoadedRun,
    second: LoadedRun,
    number: str,
    columns: _Columns,
    compare: Callable[[], Comparison],
    over: str | None = None,
) -> Paired:
    try:
        comparison = compare()
    except ValueError as error:
        raise ValueError(f"{first.folder} and {second.folder}: {error}") from error
    differing = tuple(name for name in differing_settings([first.result, second.result]) if name != "model.revision")
    title, labels = str(first.result["title"]), (first.label, second.label)
    counts = (len(columns.first), columns.left_out)
    return Paired(title, first.task, *labels, number, comparison, *counts, differing, over)


def _values(run: LoadedRun, items: Mapping[str, Mapping[str, Any]], number: str) -> dict[str, float | None]:
    """What each item counts in a number of the run; None where it does not count."""
    scoring = run.result["scoring"]
    if number == "score":
        return {id: _score(item, scoring) for id, item in items.items()}
    failures_are_wrong = scoring["metric"] == "judged_qa" and counting_of(scoring["judge_policy"]).failures_are_wrong
    return {id: _right(item, failures_are_wrong) for id, item in items.items()}


def _right(item: Mapping[str, Any], failures_are_wrong: bool) -> float | None:
    """1 or 0; None without answer, and where the policy leaves a judgement out."""
    if "error" in item:
        return None
    if item.get("judge_failed") or item.get("correct") is None:
        return 0.0 if failures_are_wrong else None
    return float(item["correct"])


def _score(item: Mapping[str, Any], scoring: Mapping[str, Any]) -> float | None:
    """The score of a judged answer as the policy counts it; None without answer, and for tasks without scores."""
    if "error" in item or (scoring["metric"] != "judged_qa" and item.get("score") is None):
        return None
    if scoring["metric"] != "judged_qa":
        return float(item["score"])
    return counted_score(scoring["judge_policy"], item.get("score"), bool(item.get("judge_failed")))


def _video(item: Mapping[str, Any]) -> str:
    """What the bootstrap draws: questions on one video are not independent."""
    return str(item["media"][0]["path"])
