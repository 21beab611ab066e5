"""Runs the benchmarks: `python -m benchmarks --help`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

# The scripts of this folder import each other by name, as they do when they are run by themselves.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from discovery import RESULTS, Benchmark, UsageError, choose, find_benchmarks
from running import Plan, missing_need, read_result, run_all


def describe(known: dict[str, Benchmark]) -> str:
    """All benchmarks: name, subject, and when the kept result was measured."""
    lines = []
    for name, benchmark in known.items():
        content = read_result(RESULTS / benchmark.result_name)
        measured = "not measured yet" if content is None else f"measured {content.get('date', 'at an unknown time')}"
        lines.append(f"{name:14} {benchmark.summary}\n{'':14} {measured}")
    return "\n".join(lines)


def chosen(names: list[str], plan: Plan, known: dict[str, Benchmark]) -> list[Benchmark]:
    """The benchmarks that the user named; without names, all that can run here. What is left out is told."""
    if names:
        return choose(names, known)
    found = []
    for benchmark in known.values():
        if plan.quick and benchmark.quick is None:
            print(f"{benchmark.name} is left out: it has no short run", file=sys.stderr)
        elif (reason := missing_need(benchmark, plan)) is not None:
            print(f"{benchmark.name} is left out: {reason}", file=sys.stderr)
        else:
            found.append(benchmark)
    return found


def _words(arguments: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(arguments))
    except ValueError as error:
        raise UsageError(f"--arguments {arguments!r}: {error}.") from None


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; by default all that can run here.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/benchmarks"),
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    quick: Annotated[bool, typer.Option("--quick", help="Short runs, which only show that all works.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure what is finished, too.")] = False,
    arguments: Annotated[str, typer.Option(help="Further arguments, for one benchmark.")] = "",
    show: Annotated[bool, typer.Option("--list", help="Show the benchmarks, and run nothing.")] = False,
) -> None:
    """Run benchmarks one after the other; each writes a JSON file.

    A run that was killed goes on with what is missing: give the same command again. What was measured on other code, or
    with other arguments, is measured again.

    Examples:

      python -m benchmarks --list

      python -m benchmarks --quick

      python -m benchmarks pllava convert --machine "2 shared cores"

      python -m benchmarks --out benchmarks/results --machine "2 shared cores"

      python -m benchmarks gpu --arguments "--device cpu --tiny"

      python benchmarks/compare.py runs/benchmarks
    """
    known = find_benchmarks()
    if show:
        print(describe(known))
        return
    try:
        plan = Plan(out, machine, quick, again, _words(arguments))
        benchmarks = chosen(names or [], plan, known)
        if plan.arguments and len(benchmarks) != 1:
            raise UsageError("--arguments needs the name of one benchmark.")
        failed = run_all(benchmarks, plan, lambda line: print(line, file=sys.stderr))
    except (UsageError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"Stopped. What is finished is in {out}; the same command goes on.", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        print(f"Failed: {', '.join(failed)}. The same command runs them again.", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(prog_name="python -m benchmarks")
