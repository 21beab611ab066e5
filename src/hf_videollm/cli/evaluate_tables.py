"""What `hf-videollm evaluate` draws: the list of tasks, and the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["results_table", "task_facts", "task_page", "tasks_table"]


def tasks_table(tasks: Sequence[Any]) -> Any:
    """All tasks, a line each."""
    from rich.table import Column, Table

    # The name is what a user has to copy.
    name = Column("name", no_wrap=True)
    table = Table(name, "benchmark", "metric", "prompt styles", "sees and hears", "on the Hub")
    for task in tasks:
        hub = "yes" if task.hub_ids else "mirror" if task.mirror_ids else "no"
        table.add_row(task.name, task.title, task.metric, ", ".join(task.prompts), ", ".join(task.modalities), hub)
    return table


def task_facts(task: Any) -> dict[str, Any]:
    """A task for other programs."""
    return {
        "name": task.name,
        "title": task.title,
        "metric": task.metric,
        "prompt_styles": list(task.prompts),
        "choice_rules": dict(task.choice_rules) if task.metric == "multiple_choice" else {},
        "match_rules": dict(task.match_rules),
        "judge_texts": dict(task.judge_texts),
        "judge_policies": dict(task.judge_policies),
        "group_by": list(task.group_by),
        "modalities": list(task.modalities),
        "files": list(task.files),
        "source": task.source,
        "hub_ids": list(task.hub_ids),
        "mirror_ids": list(task.mirror_ids),
        "has_public_answers": task.has_public_answers,
        "has_alternative_answers": task.has_alternative_answers,
        "has_submission": task.submission is not None,
        "notes": list(task.notes),
    }


def task_page(task: Any) -> str:
    """All about one task, for people."""
    lines = [f"{task.name}: {task.title}"]
    for name, value in task_facts(task).items():
        if name in ("name", "title") or value in ([], {}):
            continue
        if isinstance(value, dict):
            value = [f"{key}: {entry}" for key, entry in value.items()]
        text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"  {name.replace('_', ' ')}: {text}")
    return "\n".join(lines)


def results_table(results: Iterable[Mapping[str, Any]]) -> Any:
    """The numbers of all tasks, with what spoils them beside them."""
    from rich.table import Column, Table

    from ..evaluation.headline import headlines, losses

    table = Table(
        Column("task", no_wrap=True),
        Column("number", no_wrap=True),
        Column("95 % interval", no_wrap=True),
        Column("items", justify="right"),
        # On a narrow terminal, a word goes on in the next line rather than end in dots.
        Column("of these", overflow="fold"),
    )
    for result in results:
        found, counts = headlines(result), result["counts"]
        values = "\n".join(f"{line.name} {line.text}" for line in found) or "not scored"
        intervals = "\n".join(line.interval for line in found)
        table.add_row(result["task"], values, intervals, str(counts["items"]), losses(counts))
    return table
