"""`hf-videollm evaluate`: benchmarks of the papers with a model."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    AsJson,
    Device,
    Dtype,
    Fps,
    LoraAlpha,
    MaxFrames,
    MissingAudio,
    Model,
    NumFrames,
    NumTokensPerFrame,
    OnDecodeError,
    Sampling,
    Sound,
    TrustRemoteCode,
    spread_options,
)
from .output import note, print_drawing, print_json

__all__ = ["evaluate"]

ONE_FAILED = 1


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded, and how it sees and hears."""

    model: Model = None
    num_frames: NumFrames = None
    fps: Fps = None
    max_frames: MaxFrames = None
    num_tokens_per_frame: NumTokensPerFrame = None
    sampling: Sampling = None
    on_decode_error: OnDecodeError = "raise"
    use_audio_in_video: Sound = None
    missing_audio: MissingAudio = None
    dtype: Dtype = "auto"
    device: Device = None
    lora_alpha: LoraAlpha = None
    trust_remote_code: TrustRemoteCode = False

    def of_processor(self) -> dict[str, Any]:
        """Options of the processor, as far as they were given."""
        others = ("model", "dtype", "device", "lora_alpha", "trust_remote_code")
        names = [field.name for field in fields(self) if field.name not in others]
        options = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if options["on_decode_error"] == "raise":
            del options["on_decode_error"]
        return options


@dataclass(frozen=True)
class AnsweringOptions:
    """How questions are asked and answered."""

    mode: Annotated[
        str, typer.Option("--mode", help="generate, or likelihood: which option does the model find likeliest?")
    ] = "generate"
    ranking: Annotated[
        str,
        typer.Option("--ranking", help="With --mode likelihood: letters, or the options' words by their mean or sum."),
    ] = "mean"
    prompt_style: Annotated[
        str | None, typer.Option("--prompt-style", help="Whose prompts: pllava, videollama2, ...; see --list.")
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, instead of the prompt style's.")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first items of each task.")] = None
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Questions at a time; auto halves it when the memory is not enough.")
    ] = "auto"
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that decode the next videos.")] = 1
    seed: Annotated[int, typer.Option("--seed", help="Of sampled answers and random fallbacks.")] = 0
    max_errors: Annotated[
        float | None,
        typer.Option("--max-errors", min=0, max=1, help="Stop a task when this share of its items has no answer."),
    ] = None
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Ask items again that had no answer in the run that is continued.")
    ] = False


@dataclass(frozen=True)
class ScoringOptions:
    """How answers are scored."""

    choice_rule: Annotated[
        str, typer.Option("--choice-rule", help="Which rule reads answers to multiple choice: robust, pllava, ...")
    ] = "default"
    match_rule: Annotated[
        str, typer.Option("--match-rule", help="Which rule compares short answers: folded, videollama2, ...")
    ] = "default"
    fallback: Annotated[
        str, typer.Option("--fallback", help="What an unreadable choice becomes: none, random, third, first or last.")
    ] = "none"


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
    list_tasks: Annotated[bool, typer.Option("--list", help="Show the tasks, or those of --tasks in full.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on benchmarks of the papers.

    A run that was stopped goes on when the same command is given again. Under torchrun or accelerate, the processes
    share the items. A task that cannot be run does not stop the others; the exit code is then 1.

    Examples:

      hf-videollm evaluate --list

      hf-videollm evaluate --model ./pllava-7b --tasks mvbench --data data --prompt-style pllava --choice-rule pllava

      hf-videollm evaluate --model ./pllava-7b --tasks nextqa --mode likelihood --ranking letters --limit 200

      torchrun --nproc-per-node 4 -m hf_videollm.cli evaluate --model ./pllava-7b --tasks mvbench,egoschema
    """
    if list_tasks:
        _show_tasks(tasks, as_json)
        return
    chosen = _chosen(tasks)
    debug = bool(context.ensure_object(dict).get("debug"))
    from .evaluate_run import EvaluateRun

    run = EvaluateRun(model, answering, scoring, data, download, output, quiet=as_json, debug=debug)
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
