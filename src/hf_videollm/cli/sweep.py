"""`hf-videollm sweep alpha | pooling | frames | tokens-per-frame | prompt-styles`: the papers' figures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Command, HintingGroup
from .evaluate_options import AnsweringOptions, ModelOptions, ScoringOptions
from .judge_options import JudgeOptions
from .options import AsJson, spread_options
from .output import note, print_drawing, print_json

__all__ = ["SweepOptions", "sweep_app", "sweep_task"]

ONE_FAILED = 1

sweep_app = typer.Typer(cls=HintingGroup)


@dataclass(frozen=True)
class SweepOptions:
    """What is swept, on what, and where the numbers go."""

    task: Annotated[str | None, typer.Option("--task", help="Name of the task; hf-videollm evaluate --list.")] = None
    values: Annotated[
        str | None, typer.Option("--values", help="Settings to try, separated by commas; the paper's by default.")
    ] = None
    data: Annotated[Path, typer.Option("--data", help="Folder with a folder of the task's name.")] = Path("data")
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the task from the Hub first; nothing is fetched without it.")
    ] = False
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Folder of the results; sweeps/MODEL/TASK-SWEEP by default. A stopped sweep goes on."
        ),
    ] = None
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the table here, too; OUTPUT/sweep.csv always holds it.")
    ] = None
    plot: Annotated[
        Path | None, typer.Option("--plot", help="PNG, SVG or PDF to draw in (needs matplotlib, extra: plots).")
    ] = None
    as_json: AsJson = False


@sweep_app.callback(invoke_without_command=True)
def sweep(context: typer.Context) -> None:
    """Evaluate a model under several settings, as the papers' figures do.

    Each setting is a run of its own in OUTPUT/SETTING; a sweep that was stopped goes on when the same command is given
    again. The table is in OUTPUT/sweep.csv and OUTPUT/sweep.json.

    Examples:

      hf-videollm sweep alpha --model ./pllava-7b --task mvbench --plot figure9.png

      hf-videollm sweep tokens-per-frame --help
    """
    if context.invoked_subcommand is None:
        raise ValueError(f"Say what to sweep: {', '.join(PAGES)} (hf-videollm sweep --help).")


# Sweep -> what its help says.
PAGES: dict[str, str] = {
    "alpha": """Strength of the LoRA (PLLaVA, Figure 9).

    Examples:

      hf-videollm sweep alpha --model ./pllava-7b --task mvbench --prompt-style pllava --values 0,4,20,32

      hf-videollm sweep alpha --model ./pllava-7b --task vcg --judge openai --plot figure9b.png
    """,
    "pooling": """Shape of a pooled video (PLLaVA, Figure 7).

    Values are time x height x width, and may end with @FRAMES to change the number of frames.

    Examples:

      hf-videollm sweep pooling --model ./pllava-7b --task mvbench --frames 4 --values 4x4x4,4x12x12,4x24x24

      hf-videollm sweep pooling --model ./pllava-7b --task mvbench --values 4x12x12@4,4x12x12@16,16x12x12@16
    """,
    "frames": """Number of frames of a video, for every design.

    Examples:

      hf-videollm sweep frames --model ./linvt-1b --task videomme --values 8,16,32,64 --plot frames.svg
    """,
    "tokens-per-frame": """Tokens of a frame that are kept (FTFV, Table 5).

    The paper trains a model for each number; this asks one model with all of them.

    Examples:

      hf-videollm sweep tokens-per-frame --model ./ftfv-7b --task mvbench --values 16,64,128
    """,
    "prompt-styles": """Lengths of answers under other prompts (PLLaVA, Figure 2).

    Values are prompt styles of the task (all of them by default), or two role tags with a slash between.

    Examples:

      hf-videollm sweep prompt-styles --model ./pllava-7b --task vcg --values pllava,default,Human:/Robot:
    """,
}


def _make_command(kind: str) -> None:
    def command(
        context: typer.Context,
        *,
        where: SweepOptions,
        model: ModelOptions,
        answering: AnsweringOptions,
        scoring: ScoringOptions,
        judging: JudgeOptions,
    ) -> None:
        report = sweep_task(context, kind, where, model, answering, scoring, judging)
        if report is not None and report.failed:
            raise typer.Exit(ONE_FAILED)

    command.__doc__ = PAGES[kind]
    sweep_app.command(kind, cls=Command)(spread_options(command))


for name in PAGES:
    _make_command(name)


def sweep_task(
    context: typer.Context,
    kind: str,
    where: SweepOptions,
    model: ModelOptions,
    answering: AnsweringOptions,
    scoring: ScoringOptions,
    judging: JudgeOptions,
) -> Any:
    """Run a sweep and print its table.

    Returns:
        The table; None if other processes have not finished their share yet.

    Raises:
        ValueError: an option is wrong, or the task cannot be run.
    """
    values = [value.strip() for value in (where.values or "").split(",") if value.strip()]
    if where.values is not None and not values:
        raise ValueError("--values is empty: give settings, separated by commas, or leave it out.")
    if not where.task:
        raise ValueError("Say what to evaluate on: --task NAME (hf-videollm evaluate --list shows the names).")
    from ..evaluation.tasks import find_task
    from .sweep_run import SweepRun

    task = find_task(where.task.strip())
    run = SweepRun(
        model,
        answering,
        scoring,
        judging,
        where.data,
        where.download,
        where.output,
        quiet=where.as_json,
        debug=bool(context.ensure_object(dict).get("debug")),
        kind=kind,
        values=values,
        csv=where.csv,
        plot=where.plot,
    )
    run.check([task])
    report = run.sweep(task)
    if report is None:
        note(f"{task.name}: this process has done its share; the last one to finish writes the table.")
        return None
    if where.as_json:
        print_json(report.to_dict())
    elif report.rows:
        print_drawing(report.render())
    if report.failed:
        lines = [f"  {label}: {reason}" for label, reason in report.failed.items()]
        count = len(report.failed) + len(report.rows)
        print("\n".join([f"{len(report.failed)} of {count} settings failed:", *lines]), file=sys.stderr)
    return report
