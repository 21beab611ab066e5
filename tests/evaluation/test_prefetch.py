"""Results come in order while their user works; not more than was allowed lies ready; waiting is measured."""

import threading
import time

import pytest

from hf_videollm.evaluation.prefetch import Prefetch


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order_and_made_by_other_threads(workers: int) -> None:
    threads = set()

    def double(number: int) -> int:
        threads.add(threading.current_thread())
        time.sleep(0.002 * (number % 3))
        return number * 2

    results = list(Prefetch(range(20), double, ahead=4, workers=workers))
    assert results == [(number, number * 2) for number in range(20)]
    assert threading.current_thread() not in threads
    assert len(threads) == workers


def test_work_overlaps_with_its_user() -> None:
    def work(number: int) -> int:
        time.sleep(0.02)
        return number

    overlapped = Prefetch(range(10), work, ahead=2)
    for _ in overlapped:
        time.sleep(0.03)
    # One result is waited for; the others are made while the user works.
    assert overlapped.waiting_share < 0.3
    control = Prefetch(range(10), work, ahead=2)
    list(control)
    assert control.waiting_share > 0.7
    assert 0.15 < control.elapsed < 1.0


def test_no_more_than_asked_for_lies_ready() -> None:
    begun: list[int] = []
    stream = iter(Prefetch(range(100), lambda number: begun.append(number), ahead=3))
    next(stream)
    time.sleep(0.05)
    assert len(begun) <= 5
    stream.close()  # type: ignore[attr-defined]
    time.sleep(0.02)
    assert len(begun) <= 5


def test_errors_are_results_where_they_are_expected() -> None:
    def fail(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return number

    caught = [result for _, result in Prefetch(range(3), fail, ahead=2, catch=(ValueError,))]
    assert caught[0] == 0
    assert isinstance(caught[1], ValueError)
    assert caught[2] == 2
    with pytest.raises(ValueError, match="one"):
        list(Prefetch(range(3), fail, ahead=2))
    with pytest.raises(ValueError, match="at least 1"):
        Prefetch([], fail, ahead=0)
