"""Collects all commands, runs the one that was given, and turns errors into one line and an exit code."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from .app import Command, app
from .ask import ask, caption
from .build import build
from .card import card
from .chat import chat
from .convert import convert_app
from .errors import INTERRUPTED, report
from .evaluate import evaluate
from .finish import finish_app
from .hub import push, quantize
from .inspect import flops, info
from .judge import judge_agreement
from .look import look
from .mixes import data_app
from .recaption import recaption
from .results import results
from .signals import signals_as_ctrl_c
from .sweep import sweep_app
from .train import train
from .tune import tune_alpha_command

COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask,
    "caption": caption,
    "chat": chat,
    "look": look,
    "info": info,
    "flops": flops,
    "build": build,
    "quantize": quantize,
    "train": train,
    "tune-alpha": tune_alpha_command,
    "evaluate": evaluate,
    "results": results,
    "recaption": recaption,
    "judge-agreement": judge_agreement,
    "card": card,
    "push": push,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)
app.add_typer(convert_app, name="convert")
app.add_typer(data_app, name="data")
app.add_typer(finish_app, name="finish")
app.add_typer(sweep_app, name="sweep")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input gives an error of one line and exit code 2; `--debug` shows the traceback."""
    _run(list(sys.argv[1:] if arguments is None else arguments), "error")


def run_old_module(command: Sequence[str]) -> None:
    """Run a command for `python -m` with the module that held it in earlier releases.

    Errors start with "Error", as they did in those releases.
    """
    _run([*command, *sys.argv[1:]], "Error")


def _run(arguments: list[str], label: str) -> None:
    run: dict[str, Any] = {"debug": "--debug" in arguments}
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with signals_as_ctrl_c():
            code = app(args=arguments, prog_name="hf-videollm", standalone_mode=False, obj=run)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        print("Stopped; nothing half-written is left behind.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if run["debug"]:
            raise
        sys.exit(report(error, run.get("command"), arguments, label))
    sys.exit(code if isinstance(code, int) else 0)


__all__ = ["app", "main", "run_old_module"]
