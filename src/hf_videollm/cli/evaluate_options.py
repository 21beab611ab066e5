"""Options that commands share which run a model over many videos, and what they do with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    LOADING,
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
    refuse_count_and_rate,
)
from .output import status

if TYPE_CHECKING:
    from ..evaluation.prompt_styles import PromptStyles

__all__ = ["AnsweringOptions", "ModelOptions", "ScoringOptions", "load_model", "run_progress"]


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
        others = ("model", *LOADING)
        names = [field.name for field in fields(self) if field.name not in others]
        options = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if options["on_decode_error"] == "raise":
            del options["on_decode_error"]
        return options

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            ValueError: the message names them.
        """
        refuse_count_and_rate(self.num_frames, self.fps)


@dataclass(frozen=True)
class AnsweringOptions:
    """How questions are asked and answered."""

    mode: Annotated[
        str, typer.Option("--mode", help="generate, or likelihood: which option does the model find likeliest?")
    ] = "generate"
    ranking: Annotated[
        str | None,
        typer.Option(
            "--ranking", help="With --mode likelihood: letters, or the options' words by their mean (default) or sum."
        ),
    ] = None
    prompt_style: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-style",
            help="Whose prompts: pllava, videollama2, ... (see --list); TASK=STYLE,TASK=STYLE for single tasks.",
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, instead of the prompt style's.")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first items of each task.")] = None
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Questions at a time; auto halves it when the memory is not enough.")
    ] = "auto"
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that decode the next videos.")] = 1
    frame_cache: Annotated[
        str | None, typer.Option("--frame-cache", help="Folder for decoded videos; trainings may share it.")
    ] = None
    frame_cache_size: Annotated[
        str | None, typer.Option("--frame-cache-size", help="Bound of this folder, such as 20GB; 50 GB by default.")
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Of sampled answers and random fallbacks.")] = 0
    max_errors: Annotated[
        float | None,
        typer.Option("--max-errors", min=0, max=1, help="Stop a task when this share of its items has no answer."),
    ] = None
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Ask items again that had no answer in the run that is continued.")
    ] = False

    keep_encoded: Annotated[
        float | None,
        typer.Option(
            "--keep-encoded",
            min=0.001,
            help="GiB of encoded videos that all tasks or settings of the command share; each has its own by default.",
        ),
    ] = None

    def memory(self) -> Any:
        """Encoded media for all runs of a command; None without `--keep-encoded`."""
        from ..models.video_llm_watched_media import MediaMemory

        return None if self.keep_encoded is None else MediaMemory(int(self.keep_encoded * (1 << 30)))

    def media_cache(self) -> Any:
        """The cache of `--frame-cache`; None without it.

        Raises:
            ValueError: its size is wrong, or it cannot be opened.
        """
        from ..data.media_cache.setting import open_cache

        if self.frame_cache is None:
            return None
        try:
            return open_cache({"folder": self.frame_cache, "max_size": self.frame_cache_size})
        except OSError as error:
            raise ValueError(f"--frame-cache {self.frame_cache}: {error}") from error

    def prompt_styles(self) -> "PromptStyles":
        """The prompt styles of the tasks.

        Raises:
            ValueError: one is no style, or a task has two.
        """
        from ..evaluation.prompt_styles import read_prompt_styles

        return read_prompt_styles(self.prompt_style or ())

    def run_options(self, model: ModelOptions, task: str) -> Any:
        """The options of the runner for a task.

        Raises:
            ValueError: a value is impossible.
        """
        from ..evaluation.run_options import RunOptions

        if self.batch_size != "auto" and not self.batch_size.isdigit():
            raise ValueError(f"--batch-size is a number or auto, not {self.batch_size!r}.")
        if self.mode == "likelihood" and self.max_new_tokens is not None:
            raise ValueError("--max-new-tokens does nothing with --mode likelihood: leave it out.")
        if self.mode == "generate" and self.ranking is not None:
            raise ValueError("--ranking does nothing without --mode likelihood: leave it out.")
        if self.mode == "likelihood" and self.keep_encoded is not None:
            raise ValueError("--keep-encoded does nothing with --mode likelihood: leave it out.")
        if self.frame_cache is None and self.frame_cache_size is not None:
            raise ValueError("--frame-cache-size does nothing without --frame-cache: leave it out.")
        model.check()
        return RunOptions(
            mode=self.mode,  # type: ignore[arg-type]
            ranking=self.ranking or "mean",  # type: ignore[arg-type]
            prompt_style=self.prompt_styles().of(task),
            limit=self.limit,
            batch_size=None if self.batch_size == "auto" else int(self.batch_size),
            workers=self.workers,
            processor_options=model.of_processor(),
            generate_options={} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens},
            seed=self.seed,
            max_errors=self.max_errors,
            retry_errors=self.retry_errors,
            frame_cache=self.media_cache(),
        )


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
    judge_text: Annotated[
        str, typer.Option("--judge-text", help="Whose text the judge is asked with: a paper's name, or the text's own.")
    ] = "default"
    references: Annotated[
        str,
        typer.Option(
            "--references",
            help="Where a judge knows several right answers: compare with the first, or with each and take the best.",
        ),
    ] = "first"


def load_model(model: ModelOptions, ranks: Any) -> tuple[Any, str]:
    """The pipeline, and folder or Hub id of its model.

    Raises:
        ValueError: an option does not belong to this design.
    """
    from ..inference import load_pipeline
    from ..known_models import find_model

    source = find_model(model.model)
    with status("Loading the model ..."):
        pipe = load_pipeline(
            source,
            dtype=model.dtype,
            device=ranks.device(model.device),
            lora_alpha=model.lora_alpha,
            trust_remote_code=model.trust_remote_code,
        )
    if foreign := sorted(set(model.of_processor()) - pipe.media_options()):
        raise ValueError(f"{source} has no option {foreign[0]}=: leave it out.")
    return pipe, source


@contextmanager
def run_progress(title: str, rank: int = 0, quiet: bool = False) -> Iterator[Callable[[Any, Any], None]]:
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
    bar = Progress(*columns, console=console, disable=rank > 0 or quiet or not console.is_terminal)
    line = bar.add_task(title, total=None, facts="")

    def show(task: Any, state: Any) -> None:
        speed = state.num_done / state.seconds if state.seconds else 0.0
        facts = f"{speed:.1f}/s, waiting {state.waiting_share:.0%}, errors {state.num_errors}"
        bar.update(line, completed=state.num_done, total=state.num_items, facts=facts)

    with bar:
        yield show
