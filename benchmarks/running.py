"""Runs benchmarks one after the other, each in a process of its own, and keeps what is finished."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery import Benchmark, UsageError
from run_facts import REPOSITORY, begin, complete, own_arguments, revision, write_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How benchmarks are run.

    Attributes:
        out: folder of the results.
        machine: name of the machine, for the record.
        quick: take the arguments of a short run.
        again: measure what is finished, too.
        arguments: further arguments of the benchmark.
    """

    out: Path
    machine: str
    quick: bool = False
    again: bool = False
    arguments: tuple[str, ...] = ()


def arguments_of(benchmark: Benchmark, plan: Plan) -> list[str]:
    """The arguments that say what a benchmark measures.

    Raises:
        UsageError: a short run is asked for, and the benchmark has none.
    """
    if plan.quick and benchmark.quick is None:
        raise UsageError(f"{benchmark.name} has no short run: add QUICK = (...) to {benchmark.script.name}.")
    return [*(benchmark.quick or () if plan.quick else ()), *plan.arguments]


def missing_need(benchmark: Benchmark, plan: Plan) -> str | None:
    """What a benchmark needs and this run does not have; `None` if there is nothing."""
    if benchmark.needs == "gpu":
        return None if plan.quick else "it needs a GPU: name it to run it"
    if benchmark.needs is not None and not os.environ.get(benchmark.needs):
        return f"it needs the variable {benchmark.needs}"
    return None


def is_finished(file: Path, benchmark: Benchmark, arguments: Sequence[str]) -> bool:
    """Whether a file holds the result of this benchmark, with these arguments, on the code as it is now."""
    content = read_result(file)
    wanted = {"benchmark": benchmark.name, "arguments": own_arguments(arguments), "revision": revision()}
    return content is not None and all(content.get(name) == value for name, value in wanted.items())


def read_result(file: Path) -> dict[str, Any] | None:
    """The content of a result; `None` if there is no readable one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "results" in content else None


def run_all(benchmarks: Sequence[Benchmark], plan: Plan, say: Say) -> list[str]:
    """Run benchmarks; what is finished in the folder is kept. A run that was killed goes on with what is missing.

    Args:
        benchmarks: what is run.
        plan: how it is run.
        say: called with a line for each step.

    Returns:
        The names of those that failed. The others are run all the same.

    Raises:
        UsageError: see `arguments_of`.
    """
    failed = []
    all_arguments = {benchmark.name: arguments_of(benchmark, plan) for benchmark in benchmarks}
    for number, benchmark in enumerate(benchmarks, 1):
        head, file = f"[{number}/{len(benchmarks)}] {benchmark.name}", plan.out / benchmark.result_name
        arguments = all_arguments[benchmark.name]
        if not plan.again and is_finished(file, benchmark, arguments):
            say(f"{head}: is finished in {file} (--again measures it again)")
            continue
        began = time.monotonic()
        say(f"{head}: {benchmark.summary}")
        code = run_one(benchmark, arguments, file, plan)
        seconds = f"{time.monotonic() - began:.0f} s"
        if code:
            failed.append(benchmark.name)
            say(f"{head}: FAILED after {seconds} with exit code {code}")
        else:
            say(f"{head}: {seconds}, {file}")
    return failed


def run_one(benchmark: Benchmark, arguments: Sequence[str], file: Path, plan: Plan) -> int:
    """Run a benchmark in a process of its own, and put its result in place when it is whole.

    A benchmark that writes its result step by step writes it beside the destination, where its next run finds it.

    Returns:
        The exit code of the process; 1 if it wrote no result.
    """
    partial = file.with_name(f"{file.stem}.partial.json")
    if plan.again:
        partial.unlink(missing_ok=True)
    plan.out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(benchmark.script),
        *arguments,
        "--out",
        str(partial.resolve()),
        "--machine",
        plan.machine,
    ]
    begin()
    # The result is in the file. What the benchmark says while it runs goes to stderr.
    code = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False).returncode
    content = read_result(partial)
    if code or content is None:
        return code or 1
    write_json(file, complete(content, benchmark.name, plan.machine, arguments))
    partial.unlink()
    return 0
