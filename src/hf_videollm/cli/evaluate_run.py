"""What `hf-videollm evaluate` does: checks, loads the model once, and runs one task after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import note, status

if TYPE_CHECKING:
    from .evaluate import AnsweringOptions, ModelOptions, ScoringOptions

__all__ = ["EvaluateRun"]


@dataclass
class EvaluateRun:
    """One run of the command.

    Attributes:
        model: options of the model.
        answering: options of asking and answering.
        scoring: options of scoring.
        data: folder with a folder of each task's name.
        download: fetch tasks first.
        output: folder of the results.
        quiet: draw no progress.
        debug: show tracebacks of tasks that fail.
    """

    model: ModelOptions
    answering: AnsweringOptions
    scoring: ScoringOptions
    data: Path
    download: bool = False
    output: Path | None = None
    quiet: bool = False
    debug: bool = False

    def check(self, chosen: list[Any]) -> None:
        """Refuse options that are wrong for all tasks, before a model is loaded.

        Raises:
            ValueError: the message names the option.
        """
        from ..evaluation.multiple_choice import FALLBACKS
        from ..models.video_llm_option_names import did_you_mean

        self.options()
        if self.model.num_frames is not None and self.model.fps is not None:
            raise ValueError("`num_frames` and `fps` exclude each other: pass one of them.")
        if self.scoring.fallback not in FALLBACKS:
            raise ValueError(
                f"There is no fallback {self.scoring.fallback!r}: {did_you_mean(self.scoring.fallback, FALLBACKS)}"
            )
        metrics = {task.metric for task in chosen}
        given = {
            "--choice-rule": self.scoring.choice_rule != "default",
            "--fallback": self.scoring.fallback != "none",
            "--match-rule": self.scoring.match_rule != "default",
        }
        of_metric = {"--match-rule": "exact_match"}
        for flag, is_given in given.items():
            if is_given and of_metric.get(flag, "multiple_choice") not in metrics:
                raise ValueError(f"{flag} does nothing for {', '.join(task.name for task in chosen)}: leave it out.")

    def options(self) -> Any:
        """The options of the runner.

        Raises:
            ValueError: a value is impossible.
        """
        from ..evaluation.run_options import RunOptions

        text = self.answering.batch_size
        if text != "auto" and not text.isdigit():
            raise ValueError(f"--batch-size is a number or auto, not {text!r}.")
        new_tokens = self.answering.max_new_tokens
        if self.answering.mode == "likelihood" and new_tokens is not None:
            raise ValueError("--max-new-tokens does nothing with --mode likelihood: leave it out.")
        return RunOptions(
            mode=self.answering.mode,  # type: ignore[arg-type]
            ranking=self.answering.ranking,  # type: ignore[arg-type]
            prompt_style=self.answering.prompt_style,
            limit=self.answering.limit,
            batch_size=None if text == "auto" else int(text),
            workers=self.answering.workers,
            processor_options=self.model.of_processor(),
            generate_options={} if new_tokens is None else {"max_new_tokens": new_tokens},
            seed=self.answering.seed,
            max_errors=self.answering.max_errors,
            retry_errors=self.answering.retry_errors,
        )

    def all(self, chosen: list[Any]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """Run the tasks one after the other.

        Returns:
            Results, reasons of failures, and names of tasks that other processes have not finished.
        """
        from ..evaluation.ranks import Ranks
        from ..evaluation.runner import Runner
        from ..inference import load_pipeline
        from ..known_models import find_model

        ranks = Ranks.of_environment()
        source = find_model(self.model.model)
        ready, failed = self._with_data(chosen)
        results: dict[str, Any] = {}
        unfinished: list[str] = []
        if not ready:
            return results, failed, unfinished
        with status("Loading the model ..."):
            pipe = load_pipeline(
                source,
                dtype=self.model.dtype,
                device=ranks.device(self.model.device),
                lora_alpha=self.model.lora_alpha,
                trust_remote_code=self.model.trust_remote_code,
            )
        self._check_model(pipe, source)
        runner = Runner(pipe, self.model.model or source, self.options(), ranks)
        folder = self.output or Path("evaluations") / Path(source).name
        for task in ready:
            with self._progress(task.title, ranks.rank) as show:
                runner.on_progress = show
                result, reason = self._one(runner, task, folder / task.name)
            if reason is not None:
                failed[task.name] = reason
            elif result is None:
                unfinished.append(task.name)
            else:
                results[task.name] = result
                self._warn(task, result, folder / task.name)
        return results, failed, unfinished

    def _with_data(self, chosen: list[Any]) -> tuple[list[Any], dict[str, str]]:
        """The tasks whose files are there, and why the others cannot run: told before a model is loaded."""
        from ..evaluation.data_files import DataFiles, MissingFilesError
        from ..evaluation.download import download, missing_files_message

        ready, failed = [], {}
        for task in chosen:
            files = DataFiles(self.data / task.name)
            try:
                if self.download:
                    with status(f"Downloading {task.title} ..."):
                        fetched = download(task, files.root)
                    note(f"{task.name}: {fetched} is in {files.root}.")
                next(task.items(files, 1), None)
            except MissingFilesError as error:
                failed[task.name] = missing_files_message(task, files, error)
            except Exception as error:
                failed[task.name] = self._reason(error)
            else:
                ready.append(task)
        return ready, failed

    def _one(self, runner: Any, task: Any, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
        """Result of one task, and why it failed."""
        from ..evaluation.data_files import DataFiles

        try:
            result = runner.run(task, DataFiles(self.data / task.name), folder, self._scoring(task, runner.options))
        except Exception as error:
            return None, self._reason(error)
        if result is not None and not result["counts"]["answered"]:
            kinds = ", ".join(f"{name} {count}" for name, count in result["counts"]["errors_by_type"].items())
            return result, f"no item has an answer ({kinds}); {folder / 'records.jsonl'} has the error of each."
        return result, None

    def _scoring(self, task: Any, options: Any) -> Any:
        from ..evaluation.run_options import prompt_style
        from ..evaluation.scoring import Scoring

        given: dict[str, Any] = {}
        if task.metric == "multiple_choice":
            given = {"choice_rule": self.scoring.choice_rule, "fallback": self.scoring.fallback}
        elif task.metric == "exact_match":
            given = {"match_rule": self.scoring.match_rule}
        return Scoring(task, prompt_style(task, options), seed=options.seed, **given)

    def _reason(self, error: Exception) -> str:
        """Why a task failed, in one line."""
        if self.debug:
            traceback.print_exception(error)
        text = " ".join(str(error).split()) or type(error).__name__
        return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"

    def _check_model(self, pipe: Any, source: str) -> None:
        """Refuse options that this design does not have."""
        if foreign := sorted(set(self.model.of_processor()) - pipe.media_options()):
            raise ValueError(f"{source} has no option {foreign[0]}=: leave it out.")

    def _warn(self, task: Any, result: dict[str, Any], folder: Path) -> None:
        counts = result["counts"]
        if counts["errors"]:
            kinds = ", ".join(f"{name} {count}" for name, count in counts["errors_by_type"].items())
            note(
                f"warning: {task.name}: {counts['errors']} of {counts['items']} items have no answer ({kinds}) and are "
                f"in no number but accuracy_errors_wrong; {folder / 'records.jsonl'} has the error of each."
            )
        if result["unscored_because"]:
            note(f"note: {task.name}: {result['unscored_because']}")

    @contextmanager
    def _progress(self, title: str, rank: int) -> Iterator[Callable[[Any, Any], None]]:
        """A bar with throughput, remaining time, errors and the share of waiting; on terminals only."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        bar = Progress(*columns, console=console, disable=rank > 0 or self.quiet or not console.is_terminal)
        line = bar.add_task(title, total=None, facts="")

        def show(task: Any, state: Any) -> None:
            speed = state.num_done / state.seconds if state.seconds else 0.0
            facts = f"{speed:.1f}/s, waiting {state.waiting_share:.0%}, errors {state.num_errors}"
            bar.update(line, completed=state.num_done, total=state.num_items, facts=facts)

        with bar:
            yield show
