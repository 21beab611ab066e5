"""Functions that the benchmarks of models share: timing in turns, ratios, and writing the results."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from run_facts import complete, write_json

# What `seconds_by_turns` does, for the record.
BY_TURNS = {
    "order": "in turns: each once, then each again",
    "clock": "cpu_seconds: process_time of all threads; seconds: perf_counter, after a synchronisation of the GPU",
    "value": "median of the rounds; times_X is the ratio of CPU times, on a GPU of wall times",
    "warm_up_rounds": 1,
}
_method: dict[str, Any] = {}


class Times(float):
    """The median wall seconds of several rounds, as a number that remembers its rounds.

    Attributes:
        wall: wall seconds of each round.
        cpu: CPU seconds of all threads of each round.
    """

    def __new__(cls, wall: list[float], cpu: list[float]) -> "Times":
        return super().__new__(cls, median(wall))

    def __init__(self, wall: list[float], cpu: list[float]) -> None:
        self.wall, self.cpu = wall, cpu

    @property
    def judged(self) -> list[float]:
        """The rounds by the clock that counts: CPU time, which other jobs disturb less; on a GPU wall time."""
        return self.wall if torch.cuda.is_available() else self.cpu


def seconds_by_turns(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median wall time of each, after one warm-up call. They run in turns, so that a busy machine slows all
    alike. The numbers are `Times`, from which `with_ratios` takes the CPU times and the rounds."""
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            synchronize()
            if turn:
                rounds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    _method.update(BY_TURNS, rounds=repeats)
    return {name: Times([wall for wall, _ in found], [cpu for _, cpu in found]) for name, found in rounds.items()}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def with_ratios(times: Mapping[str, float], reference: str) -> dict[str, dict[str, Any]]:
    """The seconds of each, and their ratio to the reference. `Times` have both clocks and their rounds."""
    base = times[reference]
    results: dict[str, dict[str, Any]] = {}
    for name, value in times.items():
        results[name] = {"seconds": round(value, 4), f"times_{reference}": round(value / base, 3)}
        if isinstance(value, Times) and isinstance(base, Times):
            results[name] = {
                "seconds": round(value, 4),
                "cpu_seconds": round(median(value.cpu), 4),
                f"times_{reference}": round(median(value.judged) / median(base.judged), 3),
                f"wall_times_{reference}": round(value / base, 3),
                "rounds": [round(one, 4) for one in value.judged],
            }
    return results


def record(
    results: dict[str, Any],
    out: Path | None,
    machine: str,
    facts: dict[str, Any] | None = None,
    versions: dict[str, str | None] | None = None,
    method: dict[str, Any] | None = None,
    *,
    show: bool = True,
) -> None:
    """Print the results with machine and versions, and write them to a file if one is given.

    Args:
        facts: further facts about the run.
        versions: of further libraries.
        method: clock, order and number of rounds; by default those of `seconds_by_turns`, if it was used.
        show: print them; if false, only the file is written.
    """
    script = Path(sys.argv[0]).stem
    content = complete(
        {
            "threads": torch.get_num_threads(),
            "method": method or dict(_method) or {"see": f"the docstrings of {script}.py"},
            **(facts or {}),
            "versions": {"torch": torch.__version__, **(versions or {})},
            "results": results,
        },
        script.removeprefix("bench_"),
        machine,
        sys.argv[1:],
    )
    if show:
        print(json.dumps(content, indent=2))
    if out is not None:
        write_json(out, content)
