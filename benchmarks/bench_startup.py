"""Measures the CPU time of the start of the command line, and of the import of the package.

python benchmarks/bench_startup.py --help
"""

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from bench_tools import record

QUICK = ("--repeats", "1", "--no-afterwards")
# The cost of any program that uses typer.
REFERENCE = ("-c", "import typer, rich")
COMMAND = ("-m", "hf_videollm.cli")
# The smallest cost of a wrong value with typer: since 0.29, it loads pydantic to check a value.
SMALLEST_PROGRAM = """
import typer
def command(number: int): pass
typer.run(command)
"""
STARTS = {
    "help": (*COMMAND, "--help"),
    "help_of_a_command": (*COMMAND, "ask", "--help"),
    "version": (*COMMAND, "--version"),
    "unknown_command": (*COMMAND, "asc"),
    "unknown_option": (*COMMAND, "ask", "clip.mp4", "--frame", "3"),
    "wrong_type": (*COMMAND, "ask", "clip.mp4", "What?", "--frames", "many"),
    "wrong_type_in_the_smallest_program": ("-c", SMALLEST_PROGRAM, "many"),
    "import_hf_videollm": ("-c", "import hf_videollm"),
}
AFTERWARDS = {
    "import_transformers": ("-c", "import transformers"),
    "import_hf_videollm_and_transformers": ("-c", "import hf_videollm, transformers"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """User and system time of a new interpreter and its child processes."""
    # Like an installed package, whose compiled files Python reads.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(starts: dict[str, tuple[str, ...]], repeats: int) -> dict[str, dict[str, Any]]:
    """The median CPU time of each, and its ratio to the reference. They run in turns, so a busy machine slows all
    alike."""
    calls = {"import_typer_and_rich": REFERENCE, **starts}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, arguments in calls.items():
            seconds = cpu_seconds(arguments)
            # The first run is not counted, because Python may have written its cached files.
            if turn:
                times[name].append(seconds)
    medians = {name: median(values) for name, values in times.items()}
    reference = medians["import_typer_and_rich"]
    return {
        name: {
            "cpu_seconds": round(seconds, 4),
            "times_import_typer_and_rich": round(seconds / reference, 2),
            "rounds": [round(one, 4) for one in times[name]],
        }
        for name, seconds in medians.items()
    }


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, after one to warm up.")] = 9,
    afterwards: Annotated[bool, typer.Option(help="Measure importing transformers with and without us, too.")] = True,
) -> None:
    """Measure the CPU time of starts. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_startup.py --repeats 1 --no-afterwards

      python benchmarks/bench_startup.py --out benchmarks/results/startup_cpu.json --machine "2 shared cores"
    """
    results = measure(STARTS | (AFTERWARDS if afterwards else {}), repeats)
    method = {
        "order": "in turns: each once, then each again",
        "clock": "user and system time of a new interpreter and its child processes",
        "value": "median of the rounds",
        "warm_up_rounds": 1,
        "rounds": repeats,
    }
    record(results, out, machine, versions={"typer": typer.__version__}, method=method)


if __name__ == "__main__":
    typer.run(main)
