"""Evaluates one model under several settings, one after the other: the x-axes of the papers' figures.

Each setting is an ordinary run of `runner.Runner` in a folder of its own. So a sweep that was stopped goes on where it
was, and a sweep of one setting is an evaluation. The model is as before after each setting, also after an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .answer_lengths import Lengths, lengths_of
from .data_files import DataFiles
from .prompting import PromptRule
from .provenance import model_facts
from .records import read_records
from .result import RESULT
from .run_options import RunOptions
from .runner import Runner
from .scoring import Scoring
from .sweep_report import SweepReport, SweepRow
from .task import Task

__all__ = ["MakeScoring", "Setting", "measured_lengths", "report_of", "run_setting", "run_sweep"]

# Task, options and folder of a run -> how it is scored, and what the result says of the judge.
MakeScoring = Callable[[Task, RunOptions, Path], tuple[Scoring, Mapping[str, Any] | None]]


def _nothing(pipe: Any) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True)
class Setting:
    """One point of a sweep.

    Attributes:
        label: name of its folder.
        value: for the table.
        place: where it stands in the table, whatever the order in which settings were given.
        set_up: changes a pipeline as long as the block lasts.
        processor_options: added to those of the run.
        prompt_style: takes the place of the run's own.
        prompts: prompt styles that the task lacks.
        model_changes: see `RunOptions`.
        x: place on the x-axis; None where settings have no numbers.
        series: settings with the same one are joined by a line.
    """

    label: str
    value: Any
    place: tuple[Any, ...]
    set_up: Callable[[Any], AbstractContextManager[Any]] = _nothing
    processor_options: Mapping[str, Any] = field(default_factory=dict)
    prompt_style: str | None = None
    prompts: Mapping[str, PromptRule] = field(default_factory=dict)
    model_changes: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None
    series: str = ""

    def options(self, base: RunOptions) -> RunOptions:
        """The options of the run under this setting."""
        return replace(
            base,
            processor_options={**base.processor_options, **self.processor_options},
            prompt_style=self.prompt_style or base.prompt_style,
            model_changes={**base.model_changes, **self.model_changes},
        )

    def task(self, task: Task) -> Task:
        """The task, with the prompt styles of this setting."""
        return replace(task, prompts={**task.prompts, **self.prompts}) if self.prompts else task


def run_setting(
    runner: Runner,
    task: Task,
    data: DataFiles,
    folder: Path,
    setting: Setting,
    make_scoring: MakeScoring | None = None,
) -> dict[str, Any] | None:
    """Run one setting into `folder / setting.label`.

    Args:
        runner: its options hold for all settings; it is as before afterwards.
        task: the benchmark.
        data: its files.
        folder: of the sweep.
        setting: what differs.
        make_scoring: how answers are scored; by the task's own rules when None.

    Returns:
        As `Runner.run`.

    Raises:
        ValueError: the model cannot be set up so, or as `Runner.run`.
    """
    task, place = setting.task(task), folder / setting.label
    options = setting.options(runner.options)
    scoring, judge = (None, None) if make_scoring is None else make_scoring(task, options, place)
    with _unchanged(runner), setting.set_up(runner.pipe):
        runner.options = options
        return runner.run(task, data, place, scoring, judge)


def run_sweep(
    runner: Runner,
    kind: str,
    task: Task,
    data: DataFiles,
    folder: Path,
    settings: Sequence[Setting],
    make_scoring: MakeScoring | None = None,
) -> SweepReport | None:
    """Run all settings. A setting that fails stops the sweep; what was done is kept.

    Args:
        runner: model and options.
        kind: name of the sweep.
        task: the benchmark.
        data: its files.
        folder: of the sweep.
        settings: in any order.
        make_scoring: see `run_setting`.

    Returns:
        The table; None if other processes have not finished their share yet.

    Raises:
        ValueError: as in `run_setting`.

    Example:
        >>> runner = Runner(load_pipeline("./pllava-7b"), "./pllava-7b")                          # doctest: +SKIP
        >>> settings = alpha_settings(["0", "4", "32"], runner.pipe, task)                        # doctest: +SKIP
        >>> run_sweep(runner, "alpha", task, DataFiles(Path("data/mvbench")), Path("sweep"), settings)  # doctest: +SKIP
    """
    ordered = in_order(settings)
    for setting in ordered:
        run_setting(runner, task, data, folder, setting, make_scoring)
    return report_of(runner, kind, task, data, folder, ordered)


def report_of(
    runner: Runner,
    kind: str,
    task: Task,
    data: DataFiles,
    folder: Path,
    settings: Sequence[Setting],
    failed: Mapping[str, str] | None = None,
    with_lengths: bool = False,
    kept: Sequence[Setting] = (),
) -> SweepReport | None:
    """The table of settings that have been run.

    Args:
        runner: model and options.
        kind: name of the sweep.
        task: the benchmark.
        data: its files.
        folder: of the sweep.
        settings: that were asked for.
        failed: label -> why a setting has no result; it gets no row.
        with_lengths: also measure how long the answers are.
        kept: settings of an earlier table. Those that were run with the same model and items stay in the table.

    Returns:
        The table; None if other processes have not finished their share yet.
    """
    failed = failed or {}
    num_items = sum(1 for _ in task.items(data, runner.options.limit))
    asked = {setting.label for setting in settings}
    rows: list[SweepRow] = []
    model = None
    for setting in in_order([*settings, *kept]):
        place = folder / setting.label
        if setting.label in failed:
            continue
        result = finished_result(place, num_items)
        if setting.label not in asked:
            model = model or model_facts(runner.pipe, runner.source)
            if result is None or not _is_of(result, model):
                continue
        elif result is None:
            return None
        lengths = measured_lengths(place, runner.pipe.processor.tokenizer) if with_lengths else {}
        is_kept = setting.label not in asked
        rows.append(SweepRow(setting.label, setting.value, result, setting.x, setting.series, lengths, is_kept))
    return SweepReport(kind, task.name, task.title, tuple(rows), failed)


def _is_of(result: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether a result is of the same model, however it was set up."""
    return all(result["model"].get(name) == model[name] for name in ("path", "revision", "dtype"))


def in_order(settings: Sequence[Setting]) -> list[Setting]:
    """The settings as the table has them, each once."""
    return list({setting.label: setting for setting in sorted(settings, key=lambda setting: setting.place)}.values())


def finished_result(folder: Path, num_items: int) -> dict[str, Any] | None:
    """The result in a folder; None where other processes are still at work on it."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result["counts"]["items"] == num_items else None


def measured_lengths(folder: Path, tokenizer: Any) -> dict[str, Lengths]:
    """How long the answers in the folder of a run are, in words and in tokens; nothing where there are no answers.

    What the model wrote is measured, before rules of the prompt cut it.
    """
    records = read_records(folder).values()
    answered = [record for record in records if "error" not in record]
    texts = [text for record in answered for text in record.get("generated") or record["answers"]]
    return lengths_of(texts, tokenizer) if texts else {}


@contextmanager
def _unchanged(runner: Runner) -> Iterator[None]:
    """Give the runner its options back, and the model its mode."""
    options, was_training = runner.options, runner.pipe.model.training
    try:
        yield
    finally:
        runner.options = options
        runner.pipe.model.train(was_training)
