"""A bound for a whole call. The timeouts of `requests` bound the gaps between bytes, and a slow reply has no end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["within"]

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises, if it ends in time.

    The call runs in a thread of its own. Nothing can end a thread from outside: a call that is late goes on until the
    other side closes the connection, or the process ends.

    Args:
        seconds: most time that it may take.
        call: made by one thread; what it uses must not be used again after a `TimeoutError`.

    Raises:
        TimeoutError: it takes longer.
    """
    outcomes: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(1)

    def run() -> None:
        try:
            outcomes.put(([call()], None))
        except BaseException as error:
            outcomes.put(([], error))

    threading.Thread(target=run, name="judge-request", daemon=True).start()
    try:
        values, error = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no end in {seconds:g} seconds") from None
    if error is not None:
        raise error
    return values[0]
