"""How sure a mean over groups is, e.g. the mean of the accuracies of MVBench's twenty tasks.

The groups of a benchmark are fixed; the videos in them could be others. So videos are drawn, each with all its items,
and the mean of the groups' means is taken of each draw:

- where every video belongs to one group, each group draws among its own videos;
- where videos have items of several groups, videos are drawn from all. A draw in which a group has no item has no mean
  over all groups, so another one takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .aggregate import Label, mean
from .statistics import MOST_DRAWS, RESAMPLES, Comparison, Interval, check_same_ids, checked_values, resampled_means

__all__ = ["compare_macro", "macro_interval", "macro_mean"]

# So many draws are made for one that has all groups; where more are needed, the groups are too small for an interval.
MOST_TRIES = 10


def macro_mean(values: Sequence[float], labels: Sequence[Label]) -> float:
    """The mean over the groups of the means of their values.

    Args:
        values: one for each item.
        labels: group of each item; None leaves it out, several put it into several groups.

    Raises:
        ValueError: the lists have different lengths, or no item has a group.

    Example:
        >>> macro_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
        0.5
    """
    if len(values) != len(labels):
        raise ValueError(f"There are {len(values)} values, but {len(labels)} labels: give the group of each item.")
    groups: dict[str, list[float]] = {}
    for value, label in zip(values, labels, strict=True):
        for name in names_of(label):
            groups.setdefault(name, []).append(float(value))
    if not groups:
        raise ValueError("There is no mean over groups: no item has a group.")
    return math.fsum(mean(found) or 0.0 for found in groups.values()) / len(groups)


def macro_interval(
    values: Sequence[float],
    labels: Sequence[Label],
    videos: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over groups with its percentile bootstrap interval.

    The interval has no ends where a group has a single video, whose spread nobody knows, or where most draws lack a
    group.

    Args:
        values: one for each item: whether the answer is right, or its score.
        labels: group of each item; None leaves it out, several put it into several groups.
        videos: the video of each item; without it, items are drawn.
        confidence: between 0 and 1.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: as `macro_mean` and `statistics.bootstrap_interval`.

    Example:
        >>> interval = macro_interval([1, 0] * 50 + [1] * 4, ["a"] * 100 + ["b"] * 4, seed=1)
        >>> interval.estimate, 0.69 < interval.low < 0.71, 0.79 < interval.high < 0.81
        (0.75, True, True)
    """
    numbers = checked_values(values, videos, confidence, resamples)
    estimate = macro_mean(numbers, labels)
    sums, counts = _totals(numbers, labels, videos if videos is not None else range(len(numbers)))
    means = _draws(sums, counts, resamples, np.random.default_rng(seed))
    low, high = None, None
    if means is not None:
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(means, [tail, 1 - tail]))
    return Interval(
        estimate=estimate,
        low=low,
        high=high,
        confidence=confidence,
        num_values=sum(bool(names_of(label)) for label in labels),
        num_units=len(sums),
        by_video=videos is not None,
        resamples=resamples,
        seed=seed,
    )


def compare_macro(
    first: Mapping[str, float],
    second: Mapping[str, float],
    labels: Mapping[str, Label],
    videos: Mapping[str, str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Whether the mean over groups of one run is greater than that of another on the same items.

    There is no p-value: McNemar's test counts items, and a mean over groups weighs them.

    Args:
        first: id of an item -> whether it is right, or its score.
        second: the same of the other run.
        labels: id of an item -> its group.
        videos: id of an item -> its video.
        confidence: of the interval, between 0 and 1.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: the runs do not have the same items, or as `macro_interval`.

    Example:
        >>> first = {"1": 0, "2": 1, "3": 1, "4": 0}
        >>> second = {"1": 1, "2": 1, "3": 1, "4": 0}
        >>> result = compare_macro(first, second, {"1": "a", "2": "b", "3": "b", "4": "b"})
        >>> round(result.first, 3), round(result.second, 3), round(result.difference.estimate, 3)
        (0.333, 0.833, 0.5)
    """
    check_same_ids(first, second)
    ids = sorted(first)
    groups = [labels.get(id) for id in ids]
    ours, theirs = [float(first[id]) for id in ids], [float(second[id]) for id in ids]
    difference = macro_interval(
        [right - left for left, right in zip(ours, theirs, strict=True)],
        groups,
        None if videos is None else [videos[id] for id in ids],
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return Comparison(difference, macro_mean(ours, groups), macro_mean(theirs, groups))


def names_of(label: Label) -> list[str]:
    """The groups that a label names, each once."""
    return list(dict.fromkeys([label] if isinstance(label, str) else label or ()))


def _totals(values: Sequence[float], labels: Sequence[Label], units: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each unit in each group, `(units, groups)`, less units without a group."""
    entries = [
        (unit, name, value)
        for value, label, unit in zip(values, labels, units, strict=True)
        for name in names_of(label)
    ]
    rows = {unit: number for number, unit in enumerate(dict.fromkeys(unit for unit, _, _ in entries))}
    columns = {name: number for number, name in enumerate(sorted({name for _, name, _ in entries}))}
    sums, counts = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    for unit, name, value in entries:
        sums[rows[unit], columns[name]] += value
        counts[rows[unit], columns[name]] += 1
    return sums, counts


def _draws(sums: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray | None:
    """Means over the groups of drawn units; None where there is no interval."""
    if ((counts > 0).sum(axis=0) < 2).any():
        return None
    if ((counts > 0).sum(axis=1) == 1).all():
        means = np.zeros(resamples)
        for group in range(sums.shape[1]):
            own = counts[:, group] > 0
            means += resampled_means(sums[own, group], counts[own, group], resamples, rng)
        return means / sums.shape[1]
    return _joint_draws(sums, counts, resamples, rng)


def _joint_draws(sums: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray | None:
    """Means over the groups of units that are drawn from all; None where too many draws lack a group."""
    kinds, times = np.unique(np.concatenate([sums, counts], axis=1), axis=0, return_counts=True)
    kind_sums, kind_counts = np.split(kinds, 2, axis=1)
    step = max(1, min(resamples, MOST_DRAWS // len(kinds)))
    found: list[np.ndarray] = []
    num_found = 0
    for _ in range(0, MOST_TRIES * resamples, step):
        drawn = rng.multinomial(len(sums), times / times.sum(), size=step)
        drawn_counts = drawn @ kind_counts
        has_all = (drawn_counts > 0).all(axis=1)
        found.append(((drawn[has_all] @ kind_sums) / drawn_counts[has_all]).mean(axis=1))
        num_found += len(found[-1])
        if num_found >= resamples:
            return np.concatenate(found)[:resamples]
    return None
