"""What ends a process ends a command as Ctrl-C does."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """What kill, containers and schedulers send ends a command as Ctrl-C does: what is half-written goes away.

    The handlers before are put back, because tests and notebooks call `main` in their own process; other threads than
    the main one cannot have any.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set from Python, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


__all__ = ["signals_as_ctrl_c"]
