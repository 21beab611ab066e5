"""Intervals of means over groups: they hold the true mean as often as they say, and pair two runs by their items."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from hf_videollm.evaluation.macro_statistics import compare_macro, macro_interval, macro_mean
from hf_videollm.evaluation.statistics import bootstrap_interval


def benchmark(rng: np.random.Generator, sizes: dict[str, int], chances: dict[str, float], per_video: int = 4):
    """Items of several groups; all questions on a video have the same answer, right or wrong."""
    values, labels, videos = [], [], []
    for group, size in sizes.items():
        for video in range(size):
            right = float(rng.random() < chances[group])
            values += [right] * per_video
            labels += [group] * per_video
            videos += [f"{group}{video}"] * per_video
    return values, labels, videos


def share_that_holds(truth: float, interval: Callable[[int], object], times: int = 120) -> float:
    held = 0
    for seed in range(times):
        found = interval(seed)
        held += found.low <= truth <= found.high  # type: ignore[attr-defined]
    return held / times


SIZES, CHANCES = {"a": 100, "b": 25}, {"a": 0.8, "b": 0.4}
TRUTH = 0.6


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    def by_video(seed: int):
        return macro_interval(*benchmark(np.random.default_rng(seed), SIZES, CHANCES), resamples=400, seed=seed)

    def by_item(seed: int):
        values, labels, _ = benchmark(np.random.default_rng(seed), SIZES, CHANCES)
        return macro_interval(values, labels, resamples=400, seed=seed)

    def of_all_items(seed: int):
        values, _, videos = benchmark(np.random.default_rng(seed), SIZES, CHANCES)
        return bootstrap_interval(values, videos, resamples=400, seed=seed)

    assert 0.88 <= share_that_holds(TRUTH, by_video) <= 1
    # The controls: items that are drawn one by one are too sure; the mean over items is another number.
    assert share_that_holds(TRUTH, by_item) < 0.8
    assert share_that_holds(TRUTH, of_all_items) < 0.5


def test_the_estimate_is_the_mean_of_the_means() -> None:
    rng = np.random.default_rng(1)
    values, labels, videos = benchmark(rng, SIZES, CHANCES)
    found = macro_interval(values, labels, videos, resamples=100)
    by_hand = np.mean([np.mean([v for v, g in zip(values, labels, strict=True) if g == name]) for name in "ab"])
    assert found.estimate == pytest.approx(by_hand) == macro_mean(values, labels)
    assert found.low < found.estimate < found.high  # type: ignore[operator]
    assert (found.num_values, found.num_units, found.by_video) == (500, 125, True)


def test_one_group_has_the_interval_of_its_mean() -> None:
    rng = np.random.default_rng(2)
    values, labels, videos = benchmark(rng, {"a": 60}, {"a": 0.5})
    macro, plain = macro_interval(values, labels, videos), bootstrap_interval(values, videos)
    assert (macro.low, macro.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_the_order_of_the_items_plays_no_part() -> None:
    values, labels, videos = benchmark(np.random.default_rng(3), SIZES, CHANCES)
    order = np.random.default_rng(4).permutation(len(values))
    mixed = macro_interval(*([column[place] for place in order] for column in (values, labels, videos)), seed=7)
    plain = macro_interval(values, labels, videos, seed=7)
    assert mixed.estimate == plain.estimate
    assert (mixed.low, mixed.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_videos_with_questions_of_several_groups() -> None:
    """Every video has a question of both groups; where it fails one, it fails both."""
    rng = np.random.default_rng(5)
    right = rng.random(80) < 0.6
    values = [float(value) for value in right for _ in "ab"]
    labels, videos = ["a", "b"] * 80, [str(number) for number in range(80) for _ in "ab"]
    joint = macro_interval(values, labels, videos, seed=1)
    plain = bootstrap_interval([float(value) for value in right], seed=1)
    assert (joint.low, joint.high) == pytest.approx((plain.low, plain.high), abs=0.02)
    # The control: as if the groups had videos of their own, the mean looks more sure.
    apart = macro_interval(values, labels, [f"{video}{label}" for video, label in zip(videos, labels, strict=True)])
    assert apart.high - apart.low < 0.85 * (joint.high - joint.low)  # type: ignore[operator]


def test_labels_may_be_several_or_none() -> None:
    found = macro_interval([1, 1, 0, 0, 1], [["a", "b"], "a", "b", None, ("b", "b")], resamples=200)
    assert found.estimate == pytest.approx((1 + 2 / 3) / 2)
    assert found.num_values == 4


@pytest.mark.parametrize(
    ("labels", "videos"),
    [
        # Group b has one video, with two questions.
        (["a", "a", "b", "b"], ["1", "2", "3", "3"]),
        # All groups share one video.
        (["a", "b", "a", "b"], ["1", "1", "1", "1"]),
    ],
)
def test_a_group_with_one_video_has_no_interval(labels: list[str], videos: list[str]) -> None:
    found = macro_interval([1, 0, 1, 0], labels, videos)
    assert (found.low, found.high) == (None, None)
    assert math.isfinite(found.estimate)


def test_groups_that_are_rarely_drawn_together_have_no_interval() -> None:
    """Thirty groups of two videos, and videos that have two groups each: hardly any draw has all of them."""
    labels = [label for number in range(30) for label in (str(number), str((number + 1) % 30))]
    videos = [str(number) for number in range(30) for _ in range(2)]
    found = macro_interval([1.0, 0.0] * 30, labels, videos, resamples=200)
    assert (found.low, found.high) == (None, None)


def test_a_pair_is_surer_than_its_runs() -> None:
    """Both runs fail the same hard videos. The second is right about a little more in each group."""
    rng = np.random.default_rng(6)
    values, labels, videos = benchmark(rng, {"a": 60, "b": 30}, CHANCES, per_video=2)
    ids = [str(number) for number in range(len(values))]
    better = [1.0 if number % 9 == 0 else value for number, value in enumerate(values)]
    first, second = dict(zip(ids, values, strict=True)), dict(zip(ids, better, strict=True))
    groups, of_videos = dict(zip(ids, labels, strict=True)), dict(zip(ids, videos, strict=True))
    found = compare_macro(first, second, groups, of_videos)
    assert found.difference.low > 0  # type: ignore[operator]
    assert found.first == macro_mean(values, labels)
    assert found.second == macro_mean(better, labels)
    assert found.difference.estimate == pytest.approx(found.second - found.first)
    assert (found.p_value, found.only_first) == (None, None)
    one, other = macro_interval(values, labels, videos), macro_interval(better, labels, videos)
    # The control: the intervals of the two runs overlap.
    assert one.high > other.low  # type: ignore[operator]
    swapped = compare_macro(second, first, groups, of_videos)
    assert swapped.difference.estimate == pytest.approx(-found.difference.estimate)


def test_equal_runs_do_not_differ() -> None:
    values, labels, videos = benchmark(np.random.default_rng(8), SIZES, CHANCES)
    ids = [str(number) for number in range(len(values))]
    run = dict(zip(ids, values, strict=True))
    found = compare_macro(run, run, dict(zip(ids, labels, strict=True)), dict(zip(ids, videos, strict=True)))
    assert (found.difference.low, found.difference.estimate, found.difference.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], ["a", "b"]), "There are 1 values, but 2 labels"),
        (([1.0], [None]), "no item has a group"),
        (([], []), "There is no interval of no values"),
        (([1.0], ["a"], ["x", "y"]), "There are 1 values, but 2 videos"),
        (([float("nan")], ["a"]), "Value 0 is not finite"),
    ],
)
def test_wrong_values(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        macro_interval(*arguments)


def test_runs_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="'2' only in the second run"):
        compare_macro({"1": 1.0}, {"1": 1.0, "2": 0.0}, {"1": "a"})
