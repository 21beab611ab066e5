"""The program: the options before a command, and the classes of commands and of groups of commands."""

import contextlib
import difflib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .quiet import quiet_libraries


class _CheapHelp:
    """Gives `--help` a default value. If it has none, typer 0.29 loads pydantic in every run to check its value."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class Command(_CheapHelp, TyperCommand):
    """A command that hides the messages of libraries while it runs, unless `--debug` was given.

    The function of a command imports heavy libraries itself, so help and errors about options do not load them.
    """

    def invoke(self, ctx: Any) -> Any:
        run = ctx.ensure_object(dict)
        run["command"] = self
        with contextlib.nullcontext() if run.get("debug") else quiet_libraries():
            return super().invoke(ctx)


class HintingGroup(_CheapHelp, TyperGroup):
    """A group of commands. An unknown command is an error that names similar commands, or all if none is similar."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise ValueError(self.unknown_command(cmd_name, f"{ctx.command_path} {cmd_name}"))
        return command

    def unknown_command(self, name: str, written: str) -> str:
        """The error message for an unknown command.

        Args:
            name: the unknown command.
            written: the command line up to this name, as the user typed it.
        """
        nearest = difflib.get_close_matches(name, self.commands)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"the commands are {', '.join(self.commands)}."
        return f"{written}: there is no such command; {hint}"


app = typer.Typer(
    name="hf-videollm",
    cls=HintingGroup,
    help="Ask questions about videos, and work with the checkpoints of five video-language designs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full traceback of an error (works anywhere on the line).")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from ..version import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        commands = ", ".join(getattr(context.command, "commands", {}))
        raise ValueError(f"No command is given: use one of {commands} (hf-videollm --help).")


__all__ = ["Command", "HintingGroup", "app"]
