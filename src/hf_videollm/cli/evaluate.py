"""`hf-videollm evaluate`: benchmarks of the papers with a model."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .evaluate_options import AnsweringOptions, ModelOptions, ScoringOptions
from .judge_options import JudgeOptions
from .options import AsJson, spread_options
from .output import note, print_drawing, print_json

__all__ = ["evaluate"]

ONE_FAILED = 1


@spread_options
def evaluate(
    context: typer.Context,
    *,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Names of tasks, separated by commas, or all.")] = None,
    data: Annotated[Path, typer.Option("--data", help="Folder with a folder of each task's name.")] = Path("data"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch tasks from the Hub first; nothing is fetched without it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder of the results; evaluations/MODEL by default. A stopped run goes on."),
    ] = None,
    model: ModelOptions,
    answering: AnsweringOptions,
    scoring: ScoringOptions,
    judging: JudgeOptions,
    list_tasks: Annotated[bool, typer.Option("--list", help="Show the tasks, or those of --tasks in full.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on benchmarks of the papers.

    A run that was stopped goes on when the same command is given again. Under torchrun or accelerate, the processes
    share the items. A task that cannot be run does not stop the others; the exit code is then 1.

    Examples:

      hf-videollm evaluate --list

      hf-videollm evaluate --model ./pllava-7b --tasks mvbench --data data --prompt-style pllava --choice-rule pllava

      hf-videollm evaluate --model ./pllava-7b --tasks msvd_qa --judge openai --judge-model gpt-4o-mini --limit 200

      hf-videollm evaluate --model ./pllava-7b --tasks nextqa --mode likelihood --ranking letters

      torchrun --nproc-per-node 4 -m hf_videollm.cli evaluate --model ./pllava-7b --tasks mvbench,egoschema
    """
    if list_tasks:
        _show_tasks(tasks, as_json)
        return
    chosen = _chosen(tasks)
    debug = bool(context.ensure_object(dict).get("debug"))
    from .evaluate_run import EvaluateRun

    run = EvaluateRun(model, answering, scoring, judging, data, download, output, quiet=as_json, debug=debug)
    run.check(chosen)
    results, failed, unfinished = run.all(chosen)
    if as_json:
        print_json({"results": results, "failed": failed, "unfinished": unfinished})
    elif results:
        from .evaluate_tables import results_table

        print_drawing(results_table(results.values()))
    for name in unfinished:
        note(f"{name}: this process has done its share; the last one to finish writes the result.")
    if failed:
        lines = [f"  {name}: {reason}" for name, reason in failed.items()]
        print("\n".join([f"{len(failed)} of {len(chosen)} tasks failed:", *lines]), file=sys.stderr)
        raise typer.Exit(ONE_FAILED)


def _chosen(tasks: str | None) -> list[Any]:
    """The tasks of `--tasks`, each once.

    Raises:
        ValueError: there is none, or no task of a name; the nearest name is given.
    """
    from ..evaluation.tasks import find_task, task_names

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if not names:
        raise ValueError("Say what to evaluate on: --tasks NAME,NAME or --tasks all (--list shows the names).")
    if names == ["all"]:
        names = task_names()
    return [find_task(name) for name in dict.fromkeys(names)]


def _show_tasks(tasks: str | None, as_json: bool) -> None:
    from .evaluate_tables import task_facts, task_page, tasks_table

    chosen = _chosen(tasks or "all")
    if as_json:
        print_json({"tasks": [task_facts(task) for task in chosen]})
    elif tasks is None or tasks.strip() == "all":
        print_drawing(tasks_table(chosen))
    else:
        print("\n\n".join(task_page(task) for task in chosen))
