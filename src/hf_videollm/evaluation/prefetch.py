"""Work that is done in the background, a bounded number of steps ahead, and how long its user had to wait for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Prefetch"]

T = TypeVar("T")
R = TypeVar("R")


class Prefetch(Generic[T, R]):
    """Calls a function on items in background threads and gives the results in the order of the items.

    Decoding of videos releases Python's lock, so threads are enough, and frames need not be copied between processes.

    Attributes:
        waited: seconds that the user of the results has waited for them so far.
        elapsed: seconds since the first result was asked for.

    Examples:
        >>> results = Prefetch([1, 2, 3], lambda number: number * 2, ahead=2)
        >>> [result for _, result in results]
        [2, 4, 6]
    """

    def __init__(
        self,
        items: Iterable[T],
        function: Callable[[T], R],
        ahead: int,
        workers: int = 1,
        catch: tuple[type[Exception], ...] = (),
    ) -> None:
        """Args:
        items: read as far as results are being made, not further.
        function: called once for each item.
        ahead: most results that are being made or lie ready; may be changed on the way.
        workers: threads.
        catch: errors of the function that are given as results; others are raised where the result is asked for.
        """
        if ahead < 1 or workers < 1:
            raise ValueError(f"ahead ({ahead}) and workers ({workers}) must be at least 1.")
        self._items = iter(items)
        self._function = function
        self.ahead = ahead
        self._workers = workers
        self._catch = catch
        self.waited = 0.0
        self._began: float | None = None
        self._ended: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds from the first question for a result to the last result, or to now."""
        if self._began is None:
            return 0.0
        return (time.perf_counter() if self._ended is None else self._ended) - self._began

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the user waited; 0 before the first result."""
        return self.waited / self.elapsed if self.elapsed else 0.0

    def __iter__(self) -> Iterator[tuple[T, R | Exception]]:
        self._began = time.perf_counter()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        pending: deque[tuple[T, Future[R]]] = deque()
        try:
            while True:
                self._fill(pool, pending)
                if not pending:
                    return
                item, future = pending.popleft()
                began = time.perf_counter()
                try:
                    result: R | Exception = future.result()
                except self._catch as error:
                    result = error
                finally:
                    self.waited += time.perf_counter() - began
                self._fill(pool, pending)
                yield item, result
        finally:
            self._ended = time.perf_counter()
            # Results that nobody will ask for are not made.
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, pool: ThreadPoolExecutor, pending: deque[tuple[T, Future[R]]]) -> None:
        while len(pending) < self.ahead:
            try:
                item = next(self._items)
            except StopIteration:
                return
            pending.append((item, pool.submit(self._function, item)))
