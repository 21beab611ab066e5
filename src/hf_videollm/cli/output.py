"""How the command line talks: results on stdout, all else on stderr."""

import difflib
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class HintingGroup(TyperGroup):
    """Commands of which an unknown one is an error that names the nearest, or all."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise ValueError(self.unknown_command(cmd_name, f"{ctx.command_path} {cmd_name}"))
        return command

    def unknown_command(self, name: str, written: str) -> str:
        """The message for a name that is no command; `written` is what the user wrote."""
        found = difflib.get_close_matches(name, self.commands)
        hint = f"did you mean {' or '.join(found)}?" if found else f"known are {', '.join(self.commands)}."
        return f"{written}: there is no such command; {hint}"


def print_json(value: dict[str, Any]) -> None:
    """One JSON object for other programs."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_report(report: Any, as_json: bool) -> None:
    """A report that has `to_dict` and `render`."""
    if as_json:
        print_json(report.to_dict())
    else:
        console.print(report.render())


class ByteProgress:
    """A progress bar in bytes, on stderr so that stdout stays clean."""

    def __init__(self, title: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=errors
        )
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
