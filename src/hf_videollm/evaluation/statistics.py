"""How sure a number is, and whether two runs differ: bootstrap intervals and a paired comparison.

Several questions about one video are not independent: a model that fails to see the video fails all of them. So the
videos are drawn, each with all its questions, wherever the items say which video they belong to. The interval of a mean
over items that are drawn one by one is too narrow there.

scipy has both tests, but is not among the dependencies; they are short.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "check_same_ids",
    "checked_values",
    "compare_runs",
    "mcnemar_exact",
    "resampled_means",
]

RESAMPLES = 10_000
# Entries of a matrix of draws that is in memory at once.
MOST_DRAWS = 5_000_000
MOST_IDS_SHOWN = 3


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        estimate: the mean of the values.
        low: lower end of the interval; None for a single unit, which says nothing about the spread.
        high: upper end, alike.
        confidence: share of intervals, over repetitions of the benchmark, that would hold the true mean.
        num_values: number of items.
        num_units: number of videos that were drawn; of items, if each is its own unit.
        by_video: whether videos were drawn, not items.
        resamples: how often.
        seed: of the draws.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    num_values: int
    num_units: int
    by_video: bool
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, for the record of a run."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same items.

    Attributes:
        difference: mean of the second run less that of the first, with its interval. The interval is that of the
            differences of each item, so that what both runs find hard does not widen it.
        first: mean of the first run.
        second: mean of the second run.
        both_right: items that both runs have right; None if the values are not only right and wrong.
        only_first: items that only the first has right.
        only_second: items that only the second has right.
        both_wrong: items that both have wrong.
        p_value: of McNemar's exact test, two-sided: if both runs are equally good, how probable is it that the items
            which only one of them has right are split so unevenly? The test takes items for independent. None if
            the values are not only right and wrong.
    """

    difference: Interval
    first: float
    second: float
    both_right: int | None = None
    only_first: int | None = None
    only_second: int | None = None
    both_wrong: int | None = None
    p_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for the record of a comparison."""
        return asdict(self)


def bootstrap_interval(
    values: Sequence[float],
    videos: Sequence[str] | None = None,
    *,
    by_video: bool | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of the values with its percentile bootstrap interval.

    The interval has no width where all values are alike: no draw can show a value that never occurred.

    Args:
        values: one for each item: whether the answer is right, or its score.
        videos: the video of each item.
        by_video: draw videos, each with all its items, instead of items. Does so by default wherever `videos` is given.
        confidence: between 0 and 1.
        resamples: number of draws.
        seed: of the draws. The order of the items plays no part.

    Raises:
        ValueError: there are no values, a value is not finite, the lists have different lengths, `by_video` is asked
            for without videos, or an option is out of its range.

    Example:
        >>> interval = bootstrap_interval([1, 1, 0, 0] * 25, seed=1)
        >>> interval.estimate, 0.39 < interval.low < 0.42, 0.58 < interval.high < 0.61
        (0.5, True, True)
    """
    numbers = checked_values(values, videos, confidence, resamples)
    if by_video and videos is None:
        raise ValueError("by_video=True needs `videos`, the video of each item.")
    units = videos if videos is not None and by_video is not False else range(len(numbers))
    sums, counts = _totals(numbers, units)
    low, high = None, None
    if len(sums) > 1:
        means = resampled_means(sums, counts, resamples, np.random.default_rng(seed))
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(means, [tail, 1 - tail]))
    return Interval(
        estimate=math.fsum(numbers) / len(numbers),
        low=low,
        high=high,
        confidence=confidence,
        num_values=len(numbers),
        num_units=len(sums),
        by_video=videos is not None and by_video is not False,
        resamples=resamples,
        seed=seed,
    )


def compare_runs(
    first: Mapping[str, float],
    second: Mapping[str, float],
    videos: Mapping[str, str] | None = None,
    *,
    by_video: bool | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Whether one run is better than another on the same items.

    Args:
        first: id of an item -> whether it is right, or its score.
        second: the same of the other run.
        videos: id of an item -> its video.
        by_video: as in `bootstrap_interval`.
        confidence: of the interval, between 0 and 1.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: the runs do not have the same items, an item has no video, or as `bootstrap_interval`.

    Example:
        >>> first = {str(number): number < 60 for number in range(100)}
        >>> second = {str(number): number < 70 for number in range(100)}
        >>> result = compare_runs(first, second)
        >>> round(result.difference.estimate, 3), result.only_first, result.only_second, round(result.p_value, 5)
        (0.1, 0, 10, 0.00195)
    """
    check_same_ids(first, second)
    ids = sorted(first)
    if videos is not None and (missing := [id for id in ids if id not in videos]):
        raise ValueError(f"{_listed(missing)} of the compared items have no video.")
    ours, theirs = [float(first[id]) for id in ids], [float(second[id]) for id in ids]
    difference = bootstrap_interval(
        [right - left for left, right in zip(ours, theirs, strict=True)],
        None if videos is None else [videos[id] for id in ids],
        by_video=by_video,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    means = math.fsum(ours) / len(ids), math.fsum(theirs) / len(ids)
    if not {*ours, *theirs} <= {0.0, 1.0}:
        return Comparison(difference, *means)
    pairs = Counter(zip(ours, theirs, strict=True))
    only_first, only_second = pairs[1.0, 0.0], pairs[0.0, 1.0]
    return Comparison(
        difference,
        *means,
        both_right=pairs[1.0, 1.0],
        only_first=only_first,
        only_second=only_second,
        both_wrong=pairs[0.0, 0.0],
        p_value=mcnemar_exact(only_first, only_second),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: of a fair coin that falls so unevenly, or more.

    Args:
        only_first: items that only the first run has right.
        only_second: items that only the second run has right.

    Raises:
        ValueError: a number is negative.

    Example:
        >>> mcnemar_exact(1, 9), mcnemar_exact(0, 0)
        (0.021484375, 1.0)
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"Numbers of items cannot be negative: {only_first}, {only_second}.")
    total, fewer = only_first + only_second, min(only_first, only_second)
    # Whole numbers, so that nothing underflows: binomial coefficients up to `fewer`, each from the one before.
    coefficient, below = 1, 1
    for number in range(1, fewer + 1):
        coefficient = coefficient * (total - number + 1) // number
        below += coefficient
    return 1.0 if 2 * fewer == total else min(1.0, 2 * below / 2**total)


def _totals(values: Sequence[float], units: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each unit."""
    members: dict[Any, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        members.setdefault(unit, []).append(value)
    sums = np.array([math.fsum(found) for found in members.values()])
    return sums, np.array([len(found) for found in members.values()], dtype=float)


def resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of the items of as many units as there are, drawn with replacement.

    Units with the same sum and number are alike, so that it is enough to draw how often each kind comes. Right and
    wrong answers are two kinds, however many items there are.
    """
    kinds, times = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    probabilities = times / times.sum()
    step = max(1, MOST_DRAWS // len(kinds))
    means = []
    for start in range(0, resamples, step):
        drawn = rng.multinomial(len(sums), probabilities, size=min(step, resamples - start))
        means.append((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))
    return np.concatenate(means)


def checked_values(
    values: Sequence[float], videos: Sequence[str] | None, confidence: float, resamples: int
) -> list[float]:
    """The values as numbers. Raise `ValueError` as `bootstrap_interval` says."""
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("There is no interval of no values.")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"Value {next(i for i, x in enumerate(numbers) if not math.isfinite(x))} is not finite.")
    if videos is not None and len(videos) != len(numbers):
        raise ValueError(f"There are {len(numbers)} values, but {len(videos)} videos: give the video of each item.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1.")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1.")
    return numbers


def check_same_ids(first: Mapping[str, float], second: Mapping[str, float]) -> None:
    """Raise `ValueError` if two runs do not have the same items, or none."""
    only_first, only_second = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    if not first and not second:
        raise ValueError("There is nothing to compare: both runs are empty.")
    if only_first or only_second:
        parts = [
            f"{_listed(ids)} only in the {name} run"
            for name, ids in (("first", only_first), ("second", only_second))
            if ids
        ]
        raise ValueError(
            f"The runs do not have the same items: {', '.join(parts)}. Compare runs of the same task, files and limit."
        )


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, ids[:MOST_IDS_SHOWN]))
    return shown if len(ids) <= MOST_IDS_SHOWN else f"{shown} and {len(ids) - MOST_IDS_SHOWN} more"
