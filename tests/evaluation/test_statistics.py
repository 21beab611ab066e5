"""Bootstrap intervals and paired comparisons."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_videollm.evaluation.statistics import bootstrap_interval, compare_runs, mcnemar_exact

FEW = {"resamples": 400}


def simulate(rng: np.random.Generator, clusters: int, size: int) -> tuple[list[float], list[str]]:
    """Right and wrong of questions whose videos are hard or easy: mean 0.5, and questions of a video are alike."""
    difficulty = rng.choice([0.1, 0.9], size=clusters)
    values = (rng.random((clusters, size)) < difficulty[:, None]).astype(float)
    return values.ravel().tolist(), [str(video) for video in range(clusters) for _ in range(size)]


def coverage(by_video: bool, runs: int = 150) -> float:
    """Share of simulated benchmarks whose interval holds the true mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(runs):
        values, videos = simulate(rng, clusters=60, size=5)
        interval = bootstrap_interval(values, videos, by_video=by_video, seed=seed, **FEW)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.5 <= interval.high
    return hits / runs


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    assert 0.90 <= coverage(by_video=True) <= 0.99


def test_control_drawing_single_questions_of_a_video_makes_the_interval_too_narrow() -> None:
    assert coverage(by_video=False) < 0.85


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    interval = bootstrap_interval([1.0] * 300 + [0.0] * 700)
    width = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert (interval.low, interval.high) == pytest.approx((0.3 - width, 0.3 + width), abs=0.003)
    assert (interval.num_units, interval.by_video) == (1000, False)


def test_drawing_kinds_is_drawing_units() -> None:
    """The shortcut over alike units has the distribution of the plain bootstrap."""
    rng = np.random.default_rng(3)
    values, videos = simulate(rng, clusters=30, size=4)
    interval = bootstrap_interval(values, videos, resamples=20_000)
    sums = np.array(values).reshape(30, 4).sum(axis=1)
    plain = sums[rng.integers(0, 30, size=(20_000, 30))].sum(axis=1) / 120
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.01)


def test_videos_are_drawn_wherever_they_are_known() -> None:
    values, videos = [1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]
    assert bootstrap_interval(values, videos).by_video
    assert bootstrap_interval(values, videos).num_units == 2
    single = bootstrap_interval(values, videos, by_video=False)
    assert (single.by_video, single.num_units) == (False, 4)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from("abc")), min_size=1, max_size=12), st.randoms()
)
@settings(max_examples=40, deadline=None)
def test_the_order_of_items_plays_no_part(rows: list[tuple[float, str]], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    first, second = (
        bootstrap_interval([value for value, _ in part], [video for _, video in part], **FEW)
        for part in (rows, shuffled)
    )
    assert first == second
    if first.low is not None and first.high is not None:
        assert first.low <= first.estimate + 1e-9
        assert first.estimate <= first.high + 1e-9 or first.num_units < 4


def test_seeds_change_draws_and_nothing_else_does() -> None:
    values = [float(number % 7) for number in range(50)]
    assert bootstrap_interval(values, seed=1, **FEW) == bootstrap_interval(values, seed=1, **FEW)
    assert bootstrap_interval(values, seed=1, **FEW).low != bootstrap_interval(values, seed=2, **FEW).low


def test_what_one_video_says_has_no_interval() -> None:
    interval = bootstrap_interval([1.0, 0.0], ["a", "a"])
    assert (interval.estimate, interval.low, interval.high) == (0.5, None, None)


def test_mcnemar_is_the_binomial_test() -> None:
    """Against all outcomes of a fair coin that are as improbable or more."""
    for first, second in itertools.product(range(8), range(8)):
        total = first + second
        probabilities = [math.comb(total, heads) / 2**total for heads in range(total + 1)]
        expected = sum(p for p in probabilities if p <= probabilities[first] * (1 + 1e-12))
        assert mcnemar_exact(first, second) == pytest.approx(expected)
    assert 0 < mcnemar_exact(9_000, 10_000) < 1e-11  # no overflow
    assert mcnemar_exact(0, 5_000) == 0.0


def test_a_better_run_is_told_from_an_equal_one() -> None:
    rng = np.random.default_rng(0)
    ids = [f"q{number}" for number in range(400)]
    first = dict(zip(ids, (rng.random(400) < 0.5).astype(float), strict=True))
    better = {id: max(value, float(rng.random() < 0.2)) for id, value in first.items()}
    swapped = {id: 1 - value if number < 20 else value for number, (id, value) in enumerate(first.items())}
    result = compare_runs(first, better)
    assert result.p_value is not None
    assert result.p_value < 0.001
    assert result.difference.low is not None
    assert result.difference.low > 0
    assert result.only_first == 0
    assert result.second - result.first == pytest.approx(result.difference.estimate)
    counts = (result.both_right, result.only_first, result.only_second, result.both_wrong)
    assert sum(count or 0 for count in counts) == 400
    # The control: some answers change, but not for the better.
    equal = compare_runs(first, swapped)
    assert equal.p_value is not None
    assert equal.p_value > 0.05
    # The other way round.
    back = compare_runs(better, first)
    assert (back.p_value, back.only_second) == (result.p_value, 0)
    assert back.difference.estimate == pytest.approx(-result.difference.estimate)


def test_the_comparison_is_paired() -> None:
    """Items that both runs find equally hard do not widen the interval."""
    first = {str(number): float(number % 2) for number in range(200)}
    second = {**first, "0": 1.0, "2": 1.0, "4": 1.0}
    interval = compare_runs(first, second).difference
    alone = bootstrap_interval(list(second.values()))
    assert interval.low is not None
    assert interval.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert interval.high - interval.low < (alone.high - alone.low) / 3


def test_scores_are_compared_without_counting_right_and_wrong() -> None:
    result = compare_runs({"a": 4.0, "b": 2.0}, {"a": 5.0, "b": 2.0})
    assert result.difference.estimate == 0.5
    assert (result.p_value, result.both_right) == (None, None)


def test_order_of_ids_plays_no_part() -> None:
    first, second = {"a": 1.0, "b": 0.0, "c": 1.0}, {"c": 0.0, "a": 1.0, "b": 0.0}
    videos = {"a": "x", "b": "x", "c": "y"}
    assert compare_runs(first, second, videos) == compare_runs(dict(reversed(first.items())), second, videos)
    assert compare_runs(first, second, videos).difference.num_units == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: compare_runs({"a": 1, "b": 1}, {"a": 1, "c": 0}),
            "'b' only in the first run, 'c' only in the second run",
        ),
        (lambda: compare_runs({}, {str(n): 1 for n in range(9)}), "'0', '1', '2' and 6 more only in the second run"),
        (lambda: compare_runs({}, {}), "nothing to compare"),
        (lambda: compare_runs({"a": 1}, {"a": 1}, {}), "'a' of the compared items have no video"),
        (lambda: bootstrap_interval([]), "no values"),
        (lambda: bootstrap_interval([1, math.nan]), "Value 1 is not finite"),
        (lambda: bootstrap_interval([1], ["a", "b"]), "1 values, but 2 videos"),
        (lambda: bootstrap_interval([1], by_video=True), "needs `videos`"),
        (lambda: bootstrap_interval([1], confidence=95), "confidence=95"),
        (lambda: bootstrap_interval([1], resamples=0), "resamples=0"),
        (lambda: mcnemar_exact(-1, 2), "negative"),
    ],
)
def test_what_cannot_be_compared_is_one_line(call, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
