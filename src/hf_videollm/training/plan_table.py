"""The plan of a training as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..costs.info_table import readable

if TYPE_CHECKING:
    from .plan import TrainingPlan

__all__ = ["plan_table"]


def plan_table(plan: TrainingPlan) -> Any:
    """Parts, samples, steps and memory, one below the other."""
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    parts = Table("part", Column("parameters", justify="right"), Column("trained", justify="right"), box=None)
    for name, count in plan.parts.items():
        parts.add_row(name, f"{count.total:,}", f"{count.trained:,}")
    counts = plan.parts.values()
    parts.add_row("total", f"{sum(part.total for part in counts):,}", f"{sum(part.trained for part in counts):,}")
    begins = [] if plan.base is None else [f"begins with (paper): {plan.base}"]
    lines = [f"sizes: {plan.sizes}", *begins, *_lines(plan), *(f"note: {note}" for note in plan.notes)]
    return Group(parts, *(Text(line, overflow="fold") for line in lines))


def _lines(plan: TrainingPlan) -> list[str]:
    rows = "unknown" if plan.rows is None else f"{plan.rows:,}"
    together = plan.batch * plan.accumulation * plan.processes
    processes = f" x {plan.processes} processes" if plan.processes > 1 else ""
    steps = "unknown" if plan.steps is None else f"{plan.steps:,}"
    least, most = min(plan.tokens), max(plan.tokens)
    tokens = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    lines = [
        f"samples: {rows} ({plan.rows_from})",
        f"batches: {plan.batch} samples x {plan.accumulation} until the weights change{processes} = {together}",
        f"steps: {steps}",
        f"tokens of a sample: {tokens} ({plan.tokens_from})",
    ]
    lines.append(f"loss on: {plan.loss}")
    if plan.options:
        options = ", ".join(f"{name} {value}" for name, value in plan.options.items())
        lines.append(f"options of the processor: {options}")
    if plan.memory is not None:
        named = ("weights", "gradients", "optimizer", "inputs", "activations")
        sizes = plan.memory.to_dict()
        shown = ", ".join(f"{name} {readable(sizes[name])}" for name in named)
        lines.append(f"memory of a device, predicted: {readable(plan.memory.total)} ({shown})")
    return lines
