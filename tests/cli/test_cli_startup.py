"""Help, and what is mistyped, is answered before any large library is loaded, and without a word of theirs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import ready_python
from typer.core import TyperOption
from typer.main import get_command

from hf_videollm.cli.app import Command
from hf_videollm.cli.commands import app

HEAVY = ("torch", "torchvision", "transformers", "peft", "trl", "datasets", "av", "numpy", "huggingface_hub")
# Runs command lines one after the other, until one has loaded something, and tells what came of each.
RUN = """
import contextlib, functools, io, json, sys
import typer.main
from hf_videollm.cli import main
# The command line is built once, not for each of the lines.
typer.main.get_command = functools.cache(typer.main.get_command)
report = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    report.append([arguments, code, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(report))
"""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The group itself and everything below it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(get_command(app)))


def run(lines: list[tuple[str, ...]], has_torch: bool = False) -> list[tuple[list[str], int, str, str, list[str]]]:
    """What became of command lines in one new interpreter; in one with torch, if that is quicker."""
    arguments = ("-c", RUN, json.dumps(lines), json.dumps(HEAVY))
    if has_torch:
        process = ready_python.run(*arguments, with_transformers=False)
    else:
        command = [sys.executable, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads(process.stdout)


def mistyped() -> Iterator[tuple[str, ...]]:
    """Unknown commands and options, options of the wrong type or range, and arguments that are missing."""
    for path, command in ALL:
        if hasattr(command, "commands"):
            yield (*path, "frobnicate")
            yield (*path, *([] if path else ["--frobnicate"]))
            continue
        yield (*path, "--frobnicate")
        needed = ["x" for parameter in command.params if not isinstance(parameter, TyperOption) and parameter.required]
        if needed:
            yield path
        hints = get_type_hints(command.callback)
        for option in command.params:
            hint = hints.get(option.name)
            if isinstance(option, TyperOption) and {int, float} & {hint, *get_args(hint)}:
                yield (*path, *needed, option.opts[0], "many")
                yield (*path, *needed, option.opts[0])


def test_help_loads_no_large_library_and_says_nothing_on_stderr() -> None:
    lines = [(*path, flag) for path, _ in ALL for flag in ("--help", "-h")]
    report = run([("--version",), *lines])
    assert len(report) >= 30
    for arguments, code, out, err, loaded in report:
        assert (code, err, loaded) == (0, "", []), arguments
        assert out.strip(), arguments


def test_what_is_mistyped_is_told_before_a_large_library_is_loaded() -> None:
    lines = list(mistyped())
    assert any(line[-1] == "many" for line in lines)
    for arguments, code, out, err, loaded in run(lines):
        assert (code, out, loaded) == (2, "", []), (arguments, err)
        assert err.startswith("error: "), arguments
        assert err.count("\n") == 1, err


def test_the_tests_above_can_fail() -> None:
    """A control: a command that goes on to do something has loaded libraries, of which there were none before."""
    lines = [("--version",), ("info", "pllava-tiny", "--json"), ("ask", "gone.mp4", "What?")]
    (*_, before), (*_, loaded), (_, code, *_) = run(lines, has_torch=True)
    assert not {"transformers", "huggingface_hub"} & set(before)
    assert {"transformers", "huggingface_hub"} <= set(loaded)
    assert code == 2


def test_while_any_command_runs_libraries_are_quiet() -> None:
    for path, command in ALL:
        assert hasattr(command, "commands") or isinstance(command, Command), path
