"""Functions that the benchmarks of models share: timing in turns, ratios, and writing the results."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers


def seconds_by_turns(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median wall time of each, after one warm-up call. They run in turns, so that a busy machine slows all
    alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            synchronize()
            began = time.perf_counter()
            function()
            synchronize()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def with_ratios(times: dict[str, float], reference: str) -> dict[str, dict[str, float]]:
    """The seconds of each, and their ratio to the reference."""
    return {
        name: {"seconds": round(value, 4), f"times_{reference}": round(value / times[reference], 3)}
        for name, value in times.items()
    }


def record(
    results: dict[str, Any],
    out: Path | None,
    machine: str,
    facts: dict[str, Any] | None = None,
    versions: dict[str, str | None] | None = None,
) -> None:
    """Print the results with machine and versions, and write them to a file if one is given.

    Args:
        facts: further facts about the run.
        versions: of further libraries.
    """
    content = {
        "machine": machine,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        **(facts or {}),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, **(versions or {})},
        "results": results,
    }
    text = json.dumps(content, indent=2)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
