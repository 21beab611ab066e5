"""`hf-videollm judge-agreement`: how far a judge agrees with people, before its numbers are believed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .judge_options import JudgeOptions
from .options import AsJson, spread_options
from .output import print_report


@spread_options
def judge_agreement(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="HUMAN",
            help="JSON lines with id, question, answer, prediction, label (yes or no) and, if there is one, score.",
        ),
    ],
    options: JudgeOptions,
    judge_text: Annotated[
        str, typer.Option("--judge-text", help="What the judge is asked: qa, avqa_table9 or avqa_code.")
    ] = "qa",
    as_json: AsJson = False,
) -> None:
    """Measure how far a judge agrees with people.

    Examples:

      hf-videollm judge-agreement labels.jsonl --judge rule

      hf-videollm judge-agreement labels.jsonl --judge openai --judge-model gpt-4o-mini --judge-cache replies.jsonl
    """
    from ..evaluation.judges.agreement import measure_agreement
    from ..evaluation.judges.human_labels import read_human_labels
    from ..evaluation.judges.texts import get_text

    options.check()
    text, policy, rows = get_text(judge_text), options.policy(), read_human_labels(labels)
    judge = options.make(policy)
    with options.open_cache() as cache, judging_progress(len(rows)) as progress:
        report = measure_agreement(rows, text, policy, judge, cache, options.concurrency(), progress)
    print_report(report, as_json)


@contextmanager
def judging_progress(total: int) -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on stderr that counts failures, if someone looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Judging"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} errors"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=total, failed=0)
        yield lambda done, _, failed: bar.update(task, completed=done, failed=failed)


__all__ = ["judge_agreement", "judging_progress"]
