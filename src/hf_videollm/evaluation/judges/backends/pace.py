"""How fast requests follow each other: waits between retries, and a limit of requests for each minute."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["RateLimiter", "Retries"]


@dataclass(frozen=True)
class Retries:
    """How often a request is repeated that got no reply, and how long to wait before.

    Attributes:
        attempts: requests in all, the first one included.
        first_wait: seconds before the second request; doubled before each further one.
        longest_wait: no wait is longer. A server that asks for more is not waited for.
        jitter: each wait is longer by a random part of itself, up to this one. Without it, all threads that a server
            has turned away would come back at the same moment.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    jitter: float = 0.25

    def wait(self, failures: int, asked_for: float | None, random_part: Callable[[], float] = random.random) -> float:
        """Seconds to wait after so many failures.

        Args:
            failures: how many requests have failed, at least 1.
            asked_for: what the server asked for (Retry-After); it is the least that is waited.
            random_part: gives a number from 0 to 1.
        """
        seconds = min(self.first_wait * 2.0 ** min(failures - 1, 60), self.longest_wait)
        return max(seconds, asked_for or 0.0) * (1 + self.jitter * random_part())


@dataclass
class RateLimiter:
    """Spaces the requests of all threads evenly.

    Attributes:
        per_minute: requests for each minute; `None` is no limit.
        clock: the time in seconds.
    """

    per_minute: float | None = None
    clock: Callable[[], float] = time.monotonic
    _next: float = field(default=float("-inf"), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.per_minute is not None and not 0 < self.per_minute < float("inf"):
            raise ValueError(f"The judge's {self.per_minute} requests for each minute must be a number above 0.")

    def acquire(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until it is this request's turn.

        Args:
            sleep: waits for a number of seconds.
        """
        if self.per_minute is None:
            return
        with self._lock:
            now = self.clock()
            turn = max(now, self._next)
            self._next = turn + 60.0 / self.per_minute
        if turn > now:
            sleep(turn - now)
