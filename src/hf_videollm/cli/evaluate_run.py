"""What `hf-videollm evaluate` does: checks, loads the model once, and runs one task after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluate_options import AnsweringOptions, ModelOptions, ScoringOptions, load_model, run_progress
from .judge import judging_progress
from .judge_options import JudgeOptions
from .output import ByteProgress, note, status

if TYPE_CHECKING:
    from ..evaluation.scoring import JudgeAll, Scoring
    from ..evaluation.task import Task

__all__ = ["EvaluateRun"]

REPLIES = "judge_replies.jsonl"
# Metrics whose answers name one of several options.
CHOICES = ("multiple_choice", "matched_choice")


@dataclass
class EvaluateRun:
    """One run of the command.

    Attributes:
        model: options of the model.
        answering: options of asking and answering.
        scoring: options of scoring.
        judging: options of the judge.
        data: folder with a folder of each task's name.
        download: fetch tasks first.
        output: folder of the results.
        quiet: draw no progress.
        debug: show tracebacks of tasks that fail.
    """

    model: ModelOptions
    answering: AnsweringOptions
    scoring: ScoringOptions
    judging: JudgeOptions
    data: Path
    download: bool = False
    output: Path | None = None
    quiet: bool = False
    debug: bool = False
    # Policy -> judge.
    _judges: dict[str, Any] = field(default_factory=dict)

    def check(self, chosen: Sequence[Task]) -> None:
        """Refuse options that are wrong for all tasks, before a model is loaded.

        Raises:
            ValueError: the message names the option.
        """
        from ..evaluation.alternative_answers import REFERENCES
        from ..evaluation.multiple_choice import FALLBACKS
        from ..evaluation.scoring import JUDGED
        from ..models.video_llm_option_names import did_you_mean

        for task in chosen:
            self.answering.run_options(self.model, task.name)
        for flag, value, known in (
            ("fallback", self.scoring.fallback, FALLBACKS),
            ("choice of references", self.scoring.references, REFERENCES),
        ):
            if value not in known:
                raise ValueError(f"There is no {flag} {value!r}: {did_you_mean(value, known)}")
        self._check_style(chosen)
        judged = [task for task in chosen if task.metric in JUDGED]
        choices = [task for task in chosen if task.metric in CHOICES]
        # Option -> whether it was given, and the tasks that it does something for.
        given = {
            "--choice-rule": (self.scoring.choice_rule != "default", choices),
            "--fallback": (self.scoring.fallback != "none", choices),
            "--match-rule": (
                self.scoring.match_rule != "default",
                [task for task in chosen if task.metric == "exact_match"],
            ),
            "--judge-text": (self.scoring.judge_text != "default", judged),
            "--references": (
                self.scoring.references != "first",
                [task for task in chosen if task.has_alternative_answers],
            ),
            "--judge": (self._names_a_judge(), judged),
        }
        for flag, (is_given, used_by) in given.items():
            if is_given and not used_by:
                raise ValueError(f"{flag} does nothing for {', '.join(task.name for task in chosen)}: leave it out.")
        if self._names_a_judge():
            self.judging.check()
            for task in judged:
                policy = self._policy(task)
                if policy.name not in self._judges:
                    self._judges[policy.name] = self.judging.make(policy)

    def _check_style(self, chosen: Sequence[Task]) -> None:
        """Tell which tasks lack the prompt style that is meant for all.

        Raises:
            ValueError: no task has it, or a style of a single task is wrong; the nearest name is given.
        """
        styles = self.answering.prompt_styles()
        if lacking := styles.lacking(chosen):
            names = ", ".join(task.name for task in lacking)
            note(f"warning: {names}: no prompt style {styles.usual!r}, so these tasks are left out.")

    def all(self, chosen: Sequence[Task]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """Run the tasks one after the other.

        Returns:
            Results, reasons of failures, and names of tasks that other processes have not finished.
        """
        from ..evaluation.ranks import Ranks
        from ..evaluation.runner import Runner
        from ..known_models import find_model

        ranks = Ranks.of_environment()
        source = find_model(self.model.model)
        ready, failed = self._with_data(chosen)
        results: dict[str, Any] = {}
        unfinished: list[str] = []
        if not ready:
            return results, failed, unfinished
        pipe, source = load_model(self.model, ranks)
        runner = Runner(pipe, self.model.model or source, ranks=ranks)
        runner.memory = self.answering.memory()
        folder = self.output or Path("evaluations") / Path(source).name
        for task in ready:
            runner.options = self.answering.run_options(self.model, task.name)
            with run_progress(task.title, ranks.rank, self.quiet) as show:
                runner.on_progress = show
                result, reason = self._one(runner, task, folder / task.name)
            if result is not None:
                results[task.name] = result
                self._warn(task, result, folder / task.name)
            elif reason is None:
                unfinished.append(task.name)
            if reason is not None:
                failed[task.name] = reason
        return results, failed, unfinished

    def _with_data(self, chosen: Sequence[Task]) -> tuple[list[Task], dict[str, str]]:
        """The tasks whose files are there, and why the others cannot run: told before a model is loaded."""
        from ..evaluation.data_files import DataFiles, MissingFilesError
        from ..evaluation.download import missing_files_message
        from ..evaluation.run_options import prompt_style

        ready, failed = [], {}
        for task in chosen:
            files = DataFiles(self.data / task.name)
            try:
                prompt_style(task, self.answering.run_options(self.model, task.name))
                if self.download:
                    note(f"{task.name}: {self._download(task, files.root)} is in {files.root}.")
                next(task.items(files, 1), None)
            except MissingFilesError as error:
                failed[task.name] = missing_files_message(task, files, error)
            except Exception as error:
                failed[task.name] = self._reason(error)
            else:
                ready.append(task)
        return ready, failed

    def _download(self, task: Task, folder: Path) -> str:
        """Fetch and unpack a task; a line says what is done, and a bar how far an archive is."""
        from ..evaluation.download import download

        with ExitStack() as shown:
            shown.enter_context(status(f"Downloading {task.title} ..."))

            def bar(archive: Any) -> Callable[[int, int], None]:
                # Only one of them can be on the terminal.
                shown.close()
                return shown.enter_context(ByteProgress(f"Unpacking {archive.name.name}")).report

            return download(task, folder, bar)

    def _one(self, runner: Any, task: Task, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
        """Result of one task, and why it failed."""
        from ..evaluation.data_files import DataFiles

        try:
            scoring, judge = self._scoring(task, runner.options, folder)
            result = runner.run(task, DataFiles(self.data / task.name), folder, scoring, judge)
        except Exception as error:
            return None, self._reason(error)
        if result is not None and not result["counts"]["answered"]:
            return result, f"no item has an answer ({_kinds(result)}); {folder / 'records.jsonl'} has the errors."
        return result, None

    def _scoring(self, task: Task, options: Any, folder: Path) -> tuple[Scoring, dict[str, Any] | None]:
        """How a task is scored, and who judges it."""
        from ..evaluation.judges.backends.protocol import describe_judge
        from ..evaluation.run_options import prompt_style
        from ..evaluation.scoring import JUDGED, Scoring

        given: dict[str, Any] = {}
        facts: dict[str, Any] | None = None
        # The rule judge compares words and cannot match options; ranked options need no judge.
        reads_letters = task.metric == "matched_choice" and (self.judging.judge == "rule" or options.mode != "generate")
        if task.metric == "multiple_choice" or reads_letters:
            given = {"choice_rule": self.scoring.choice_rule, "fallback": self.scoring.fallback}
            given["reads_letters"] = reads_letters
            given["names_rule_judge"] = reads_letters and self.judging.judge == "rule"
        elif task.metric == "exact_match":
            given = {"match_rule": self.scoring.match_rule}
        elif task.metric in JUDGED:
            policy = self._policy(task)
            given = {"judge_text": self.scoring.judge_text, "policy": policy.name}
            if task.has_alternative_answers:
                given["references"] = self.scoring.references
            if policy.name in self._judges:
                given["judge"] = self._judge_all(policy, folder)
                facts = describe_judge(self._judges[policy.name], policy)
        return Scoring(task, prompt_style(task, options), seed=options.seed, **given), facts

    def _judge_all(self, policy: Any, folder: Path) -> JudgeAll:
        """Judges many items. Replies are kept in the folder of the task, if nothing else was said."""
        from ..evaluation.judges.run import judge_items

        options = self.judging
        if options.judge != "rule" and options.judge_cache is None:
            options = replace(options, judge_cache=folder / REPLIES)

        def judge_all(items: Any) -> Any:
            with options.open_cache() as cache, judging_progress(len(items)) as progress:
                return judge_items(items, policy, self._judges[policy.name], cache, options.concurrency(), progress)

        return judge_all

    def _policy(self, task: Task) -> Any:
        from ..evaluation.judges.policies import DEFAULT_POLICY

        return self.judging.policy(task.judge_policies.get("default", DEFAULT_POLICY))

    def _names_a_judge(self) -> bool:
        """Whether any option of judges was given."""
        return any(getattr(self.judging, entry.name) is not None for entry in fields(self.judging))

    def _reason(self, error: Exception) -> str:
        """Why a task failed, in one line."""
        if self.debug:
            traceback.print_exception(error)
        from ..models.errors import one_line

        text = one_line(error)
        return text if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: {text}"

    def _warn(self, task: Task, result: dict[str, Any], folder: Path) -> None:
        counts = result["counts"]
        if counts["errors"] and counts["answered"]:
            note(
                f"warning: {task.name}: {counts['errors']} of {counts['items']} items have no answer "
                f"({_kinds(result)}) and are in no number but accuracy_errors_wrong; {folder / 'records.jsonl'} has "
                "the error of each."
            )
        if short := counts["shorter_than_annotated"]:
            note(f"warning: {task.name}: the videos of {short} items end before the part that is asked about does.")
        if other := counts["unlike_annotation"]:
            note(
                f"warning: {task.name}: the videos of {other} items have another length than the annotations say; "
                f"`stated` and `found` in {folder / 'records.jsonl'} have both."
            )
        if again := counts["repeated_items"]:
            note(
                f"warning: {task.name}: {again} items repeat another one with its question, video and answer; each "
                "counts by itself, as the benchmark lists them."
            )
        if (same := result["equal_options"])["items"]:
            note(
                f"warning: {task.name}: {same['items']} items offer an option twice, {same['with_the_right_one']} "
                f"of them the right one; they are scored by its letter, and {folder / 'items.jsonl'} marks them "
                "(equal_options)."
            )
        if counts["answered"] and result["unscored_because"]:
            note(f"note: {task.name}: {result['unscored_because']}")
        if reason := result["no_submission"]:
            # The folder may hold the files of a run with all items.
            older = f"; those in {folder / 'submission'} are of an earlier run" * (folder / "submission").exists()
            note(f"warning: {task.name}: {reason}{older}.")


def _kinds(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in result["counts"]["errors_by_type"].items())
