"""How the command line talks: results on stdout, all else on stderr.

rich is loaded when there is something to draw, so that help takes no time for it.
"""

import json
from contextlib import AbstractContextManager
from typing import Any


def print_json(value: dict[str, Any]) -> None:
    """One JSON object for other programs."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_report(report: Any, as_json: bool) -> None:
    """A report that has `to_dict` and `render`."""
    if as_json:
        print_json(report.to_dict())
    else:
        print_drawing(report.render())


def print_drawing(drawing: Any) -> None:
    """A table, or whatever else rich draws."""
    from rich.console import Console

    Console().print(drawing)


def note(text: str) -> None:
    """One line on stderr."""
    from rich.console import Console

    Console(stderr=True).print(text, soft_wrap=True)


def status(text: str) -> AbstractContextManager[Any]:
    """What is being done, on stderr, as long as the block lasts and if someone looks."""
    from rich.console import Console

    return Console(stderr=True).status(text)


class ByteProgress:
    """A progress bar in bytes, on stderr so that stdout stays clean, and if someone looks."""

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
        """Show that `done` of `total` bytes are written; the bar appears with the first of them."""
        self.bar.start()
        self.bar.update(self.task, completed=done, total=total)


__all__ = ["ByteProgress", "note", "print_drawing", "print_json", "print_report", "status"]
