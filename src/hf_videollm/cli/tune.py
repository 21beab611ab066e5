"""`hf-videollm tune-alpha`: finds the strength of a LoRA that answers labelled questions, or a benchmark, best."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .evaluate_options import AnsweringOptions, ModelOptions, ScoringOptions
from .judge_options import JudgeOptions
from .options import AsJson, Device, Dtype, NumFrames, spread_options
from .output import note, print_report
from .sweep import ONE_FAILED, SweepOptions, sweep_task

if TYPE_CHECKING:
    from ..evaluation.sweep_report import SweepReport

__all__ = ["tune_alpha_command"]

ALPHAS = "0,1,2,4,8,12,16,20,24,28,32"
# What records are answered with where nothing was said.
BATCH_SIZE, MAX_NEW_TOKENS = 8, 32
# Options of answering that records have, too.
OF_RECORDS = ("limit", "batch_size", "max_new_tokens")


@spread_options
def tune_alpha_command(
    context: typer.Context,
    path_or_id: Annotated[str, typer.Argument(help="Converted PLLaVA checkpoint that still has its LoRA.")],
    records: Annotated[
        Path | None,
        typer.Argument(help="Labelled questions: a JSON Lines file of records (see README). Or give --task."),
    ] = None,
    *,
    alphas: Annotated[str, typer.Option(help="Values to try, separated by commas.")] = ALPHAS,
    task: Annotated[
        str | None, typer.Option("--task", help="Benchmark instead of records; hf-videollm evaluate --list.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with a folder of the task's name; data by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of a task's results, as of hf-videollm sweep alpha.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table of a task here, too.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG, SVG or PDF to draw a task's numbers in.")] = None,
    num_frames: NumFrames = None,
    answering: AnsweringOptions,
    scoring: ScoringOptions,
    judging: JudgeOptions,
    dtype: Dtype = "auto",
    device: Device = None,
    save: Annotated[
        bool, typer.Option("--save", help="Record the best alpha in the checkpoint's config.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search the LoRA alpha that answers best (PLLaVA paper, section 3.4).

    With records, an answer is right if it is the record's, whatever its case and punctuation. With --task, answers are
    asked for, read and judged as hf-videollm evaluate does.

    Examples:

      hf-videollm tune-alpha ./pllava-7b validation.jsonl

      hf-videollm tune-alpha ./pllava-7b validation.jsonl --alphas 0,4,16,20,32 --limit 200 --save

      hf-videollm tune-alpha ./pllava-7b --task mvbench --prompt-style pllava --choice-rule pllava --plot figure9.png
    """
    numbers = _numbers(alphas)
    if (records is None) == (task is None):
        raise ValueError("Give a file of records or --task NAME, one of them (hf-videollm tune-alpha --help).")
    if task is None:
        given = {"--data": data, "--output": output, "--csv": csv, "--plot": plot}
        _refuse_for_records(given, answering, scoring, judging)
        assert records is not None
        report = _on_records(path_or_id, records, numbers, num_frames, answering, dtype, device, save, as_json)
        print_report(report, as_json)
        if save and report.is_tied:
            note("All alphas have the same score, so no alpha is recorded.")
            raise typer.Exit(ONE_FAILED)
        return
    if save:
        _check_folder(path_or_id)
    values = ",".join(f"{number!r}" for number in numbers)
    where = SweepOptions(task, values, data or Path("data"), False, output, csv, plot, as_json)
    model = ModelOptions(model=path_or_id, num_frames=num_frames, dtype=dtype, device=device)
    sweep = sweep_task(context, "alpha", where, model, answering, scoring, judging)
    if sweep is not None:
        _finish(sweep, path_or_id, save)


def _finish(report: "SweepReport", path_or_id: str, save: bool) -> None:
    """Say which alpha is best, and record it if asked to.

    Raises:
        ValueError: it is to be recorded, and there is no number to choose by.
    """
    best = report.best
    if report.failed:
        if save:
            note("The best alpha is not recorded, because settings failed.")
        raise typer.Exit(ONE_FAILED)
    if best is None:
        if save:
            raise ValueError("No alpha is best, because nothing was scored: choose a judge, or leave out --save.")
        return
    name = best.numbers[0].name
    if report.is_tied:
        note(f"All alphas have the same {name}, so none is best: ask more items (--limit), or others.")
        if save:
            note("No alpha is recorded.")
            raise typer.Exit(ONE_FAILED)
        return
    others = ", ".join(f"{row.value:g}" for row in report.equally_good[1:])
    note(f"best alpha by {name}: {best.value:g}" + (f" (the lowest of equals; the others are {others})" * bool(others)))
    if save:
        from ..known_models import find_model
        from ..training.tune_alpha import save_alpha

        save_alpha(find_model(path_or_id), best.value)


def _on_records(
    path_or_id: str,
    records: Path,
    alphas: list[float],
    num_frames: int | None,
    answering: AnsweringOptions,
    dtype: str,
    device: str | None,
    save: bool,
    as_json: bool,
) -> Any:
    size = answering.batch_size
    if size != "auto" and not (size.isdigit() and int(size)):
        raise ValueError(f"--batch-size must be a number of at least 1, not {size!r}.")
    from ..training.tune_alpha import tune_alpha_on_file

    return tune_alpha_on_file(
        path_or_id,
        records,
        alphas=alphas,
        limit=answering.limit,
        batch_size=BATCH_SIZE if size == "auto" else int(size),
        num_frames=num_frames,
        max_new_tokens=answering.max_new_tokens or MAX_NEW_TOKENS,
        dtype=dtype,
        device=device,
        save=save,
        progress=not as_json and sys.stderr.isatty(),
    )


def _refuse_for_records(places: dict[str, Any], *options: Any) -> None:
    """Refuse options that only a task has.

    Raises:
        ValueError: the message names the first one that was given.
    """
    given = [flag for flag, value in places.items() if value is not None]
    for group in options:
        changed = [field.name for field in fields(group) if getattr(group, field.name) != field.default]
        given += ["--" + name.replace("_", "-") for name in changed if name not in OF_RECORDS]
    if given:
        raise ValueError(f"{given[0]} does something with --task alone: leave it out.")


def _check_folder(path_or_id: str) -> None:
    from ..known_models import find_model

    if not Path(find_model(path_or_id), "config.json").is_file():
        raise ValueError(f"{path_or_id} is no local folder with a config.json, so --save has nowhere to write.")


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(f"--alphas must be numbers of at least 0, separated by commas, not {text!r}.")
    return numbers
