"""Output of the command line: results go to stdout, everything else to stderr.

rich is imported only when something is drawn, so that help does not load it.
"""

import json
import os
from contextlib import AbstractContextManager
from typing import Any

FILE_WIDTH = 160


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object, for other programs."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_report(report: Any, as_json: bool) -> None:
    """Print a report, an object with `to_dict` and `render`."""
    if as_json:
        print_json(report.to_dict())
    else:
        print_drawing(report.render())


def print_drawing(drawing: Any) -> None:
    """Print a table, or another object that rich can draw."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(drawing)
        return
    if "COLUMNS" not in os.environ:
        # In a file or a pipe, nothing has to fit on a screen.
        console.width = FILE_WIDTH
    with console.capture() as captured:
        console.print(drawing)
    # Cells are as wide as their column, also the last ones.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def note(text: str) -> None:
    """Print one line on stderr."""
    from rich.console import Console

    Console(stderr=True).print(text, soft_wrap=True)


def status(text: str) -> AbstractContextManager[Any]:
    """Show on stderr what is being done, while the block runs, if stderr is a terminal."""
    from rich.console import Console

    return Console(stderr=True).status(text)


class ByteProgress:
    """A progress bar in bytes, on stderr, if stderr is a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.bar: Progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(title, total=None)

    def __enter__(self) -> "ByteProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def report(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are written. The first call makes the bar appear."""
        self.bar.start()
        self.bar.update(self.task, completed=done, total=total)


__all__ = ["ByteProgress", "note", "print_drawing", "print_json", "print_report", "status"]
