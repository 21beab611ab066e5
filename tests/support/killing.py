"""Processes that are killed at a chosen step of their work; only children of the test are ever killed."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Before these the state of the disk is another one than after them, also inside library functions.
EVENTS = ("open", "os.", "shutil.", "fcntl.")


def killed_at(step: int, work: Callable[[], Any], files: tuple[str, ...]) -> bool:
    """Do `work` in a child that kills itself (SIGKILL) at a step; False if it was done before it came to that.

    Args:
        step: counts the lines that run in the files of these names, and every call that touches the disk.
        files: ends of the names of source files.
    """
    child = os.fork()
    if child == 0:
        try:
            _count_down(step, files)
            work()
            os._exit(0)
        except BaseException:
            import traceback

            sys.settrace(None)
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _count_down(step: int, files: tuple[str, ...]) -> None:
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if left == -1:  # once: the kill is an event of its own
            os.kill(os.getpid(), signal.SIGKILL)

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            count()
        return on_line

    sys.addaudithook(lambda event, arguments: count() if event.startswith(EVENTS) else None)
    sys.settrace(on_line)
