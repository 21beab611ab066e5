"""The program itself: what comes before a command, and how every command runs."""

import contextlib
import difflib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .quiet import quiet_libraries


class _CheapHelp:
    """Without a value of its own, typer 0.29 checks that of `--help` in every run, and loads pydantic to do so."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class Command(_CheapHelp, TyperCommand):
    """A command during which libraries are quiet, unless `--debug` was given.

    Libraries are loaded by what a command does, not before: help and mistyped options take no time.
    """

    def invoke(self, ctx: Any) -> Any:
        run = ctx.ensure_object(dict)
        run["command"] = self
        with contextlib.nullcontext() if run.get("debug") else quiet_libraries():
            return super().invoke(ctx)


class HintingGroup(_CheapHelp, TyperGroup):
    """Commands of which an unknown one is an error that names the nearest, or all."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise ValueError(self.unknown_command(cmd_name, f"{ctx.command_path} {cmd_name}"))
        return command

    def unknown_command(self, name: str, written: str) -> str:
        """The message for a name that is no command; `written` is what the user wrote."""
        nearest = difflib.get_close_matches(name, self.commands)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known are {', '.join(self.commands)}."
        return f"{written}: there is no such command; {hint}"


app = typer.Typer(
    name="hf-videollm",
    cls=HintingGroup,
    help="Ask videos questions, and work with the checkpoints of five video-language designs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error (anywhere).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from ..version import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        commands = ", ".join(getattr(context.command, "commands", {}))
        raise ValueError(f"Say what to do: {commands} (hf-videollm --help).")


__all__ = ["Command", "HintingGroup", "app"]
