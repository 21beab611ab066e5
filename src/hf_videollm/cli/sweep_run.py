"""What `hf-videollm sweep` does: checks, loads the model once, runs the settings in turn, and writes the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluate_options import load_model, run_progress
from .evaluate_run import EvaluateRun
from .output import note

if TYPE_CHECKING:
    from ..evaluation.scoring import JudgeAll
    from ..evaluation.sweep import Setting
    from ..evaluation.sweep_report import SweepReport
    from ..evaluation.task import Task

__all__ = ["SweepRun"]

LENGTHS = "prompt-styles"
# Sweep -> options that say what the sweep itself says: name of the field, and the flag.
TAKEN: dict[str, tuple[tuple[str, str], ...]] = {
    "alpha": (("lora_alpha", "--lora-alpha"),),
    "pooling": (),
    "frames": (("num_frames", "--frames"), ("fps", "--fps")),
    "tokens-per-frame": (("num_tokens_per_frame", "--tokens-per-frame"),),
    LENGTHS: (("prompt_style", "--prompt-style"),),
}


@dataclass
class SweepRun(EvaluateRun):
    """One run of the command.

    Attributes:
        kind: name of the sweep.
        values: as the user wrote them; those of the papers when empty.
        csv: file to write the table into, too.
        plot: file to draw in.
    """

    kind: str = "alpha"
    values: Sequence[str] = ()
    csv: Path | None = None
    plot: Path | None = None

    def check(self, chosen: Sequence[Task]) -> None:
        """Refuse what cannot be, before a model is loaded.

        Raises:
            ValueError: the message names the option.
            ImportError: a plot is asked for, and matplotlib is missing.
        """
        super().check(chosen)
        for name, flag in TAKEN[self.kind]:
            holder = self.answering if hasattr(self.answering, name) else self.model
            if getattr(holder, name) is not None:
                raise ValueError(f"sweep {self.kind} sets {flag} itself: leave it out, and give --values.")
        if self.kind == "pooling" and self.model.num_frames is not None and any("@" in value for value in self.values):
            raise ValueError("--frames and a pooling shape with @FRAMES exclude each other: give one of them.")
        if self.kind == LENGTHS and self.answering.mode != "generate":
            raise ValueError("sweep prompt-styles measures what the model writes: leave out --mode.")
        if self.plot is not None:
            self._check_plot(chosen)

    def _check_plot(self, chosen: Sequence[Task]) -> None:
        from ..evaluation.scoring import JUDGED
        from ..evaluation.sweep_plot import check_plot

        assert self.plot is not None
        check_plot(self.plot)
        for task in chosen:
            if self.kind != LENGTHS and (task.metric == "none" or (task.metric in JUDGED and not self._judges)):
                why = "it has no metric" if task.metric == "none" else "its answers are free: choose a --judge"
                raise ValueError(f"--plot has nothing to draw for {task.name}: {why}.")

    def sweep(self, task: Task) -> SweepReport | None:
        """Run all settings, and write the table.

        Returns:
            The table; None if other processes have not finished their share yet.

        Raises:
            ValueError: the files of the task are missing, or the model cannot be set up so.
        """
        from ..evaluation.data_files import DataFiles
        from ..evaluation.ranks import Ranks
        from ..evaluation.runner import Runner
        from ..evaluation.sweep import in_order, report_of
        from ..evaluation.sweep_kinds import make_settings, on_one_axis

        _, missing = self._with_data([task])
        if missing:
            raise ValueError(f"{task.name}: {missing[task.name]}")
        ranks = Ranks.of_environment()
        pipe, source = load_model(self.model, ranks)
        settings = in_order(make_settings(self.kind, self.values, pipe, task))
        self.output = folder = self.output or Path("sweeps") / Path(source).name / f"{task.name}-{self.kind}"
        runner = Runner(pipe, self.model.model or source, self.answering.run_options(self.model, task.name), ranks)
        runner.memory = self.answering.memory()
        failed: dict[str, str] = {}
        for setting in settings:
            if (reason := self._one_setting(runner, task, setting)) is not None:
                failed[setting.label] = reason
        data = DataFiles(self.data / task.name)
        kept = [setting for text in self._earlier(folder) for setting in self._one_of(text, pipe, task)]
        together = on_one_axis([*settings, *kept])
        settings, kept = together[: len(settings)], together[len(settings) :]
        report = report_of(runner, self.kind, task, data, folder, settings, failed, self.kind == LENGTHS, kept)
        if report is not None:
            self._write(folder, report)
        return report

    def _earlier(self, folder: Path) -> list[str]:
        """The settings that the table in the folder has, as a user writes them; none where there is no table."""
        import json

        from ..evaluation.sweep_kinds import text_of

        try:
            table = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
            is_same = table["sweep"] == self.kind
            return [text_of(self.kind, row["value"]) for row in table["rows"]] if is_same else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _one_of(self, text: str, pipe: Any, task: Task) -> list[Setting]:
        """An earlier setting, if this model and task still have it."""
        from ..evaluation.sweep_kinds import make_settings

        try:
            return make_settings(self.kind, [text], pipe, task)
        except ValueError:
            return []

    def _one_setting(self, runner: Any, task: Task, setting: Setting) -> str | None:
        """Run a setting; why it failed, if it did."""
        from ..evaluation.data_files import DataFiles
        from ..evaluation.sweep import run_setting

        assert self.output is not None
        place = self.output / setting.label
        with run_progress(f"{task.title}, {setting.label}", runner.ranks.rank, self.quiet) as show:
            runner.on_progress = show
            try:
                data = DataFiles(self.data / task.name)
                result = run_setting(runner, task, data, self.output, setting, self._scoring)
            except Exception as error:
                return self._reason(error)
        if result is None:
            return None
        counts = result["counts"]
        if not counts["answered"]:
            return f"no item has an answer; {place / 'records.jsonl'} has the errors."
        if counts["errors"]:
            note(
                f"warning: {setting.label}: {counts['errors']} of {counts['items']} items have no answer and are in no "
                f"number; {place / 'records.jsonl'} has the error of each."
            )
        return None

    def _judge_all(self, policy: Any, folder: Path) -> JudgeAll:
        """As in `evaluate`, but the settings share their replies: many answers are the same under all of them."""
        return super()._judge_all(policy, self.output or folder)

    def _write(self, folder: Path, report: SweepReport) -> None:
        from ..evaluation.sweep_plot import write_plot
        from ..evaluation.sweep_report import write_report, write_text

        if all(row.is_kept for row in report.rows):
            # Nothing was measured: an earlier table stays as it is.
            note(f"note: no setting has a result, so no table is written; one in {folder} is an earlier one's.")
            return
        write_report(folder, report)
        if self.csv is not None:
            write_text(self.csv, report.as_csv())
        if reasons := {row.result["unscored_because"] for row in report.rows} - {None}:
            note(f"note: {report.task}: {' '.join(sorted(map(str, reasons)))}")
        if self.plot is not None and report.rows:
            write_plot(self.plot, report)
            note(f"{self.plot} is written.")
