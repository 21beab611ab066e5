"""Makes the signals that end a process work like Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Treat the signals of kill, containers and schedulers like Ctrl-C, so that half-written files are removed.

    The previous handlers are restored, because tests and notebooks call `main` in their own process. Only the main
    thread can have signal handlers; in other threads, nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None means that the handler was not set from Python; Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


__all__ = ["signals_as_ctrl_c"]
