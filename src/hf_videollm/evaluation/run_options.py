"""How a benchmark is run, and which of that the answers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..models.video_llm_option_names import did_you_mean
from .items import Item
from .likelihood import RANKINGS, Ranking
from .provenance import package_versions
from .settings import fingerprint
from .task import Task

if TYPE_CHECKING:
    from ..data.media_cache.cache import MediaCache

__all__ = ["MODES", "Mode", "RunOptions", "answer_settings", "prompt_style"]

Mode = Literal["generate", "likelihood"]
MODES: tuple[str, ...] = get_args(Mode)
# Prompts of tasks that are asked by likelihood stand under this name where they differ.
LIKELIHOOD_STYLE = "likelihood"
# Releases of these may change an answer.
ANSWERING = ("hf_videollm", "transformers", "torch", "av")


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run.

    Attributes:
        mode: "generate" reads what the model writes, "likelihood" compares the options of each question.
        ranking: what "likelihood" compares, see `likelihood.Ranking`.
        prompt_style: how it is asked; the task's "default" when None (in likelihood mode "likelihood", if it has that).
        limit: only the first items.
        batch_size: questions at a time; None begins with `generation.AUTO_BATCH_SIZE` and halves it when the memory is
            not enough.
        workers: threads that decode the next videos.
        processor_options: options of the processor, e.g. `{"num_frames": 8}`.
        frame_cache: holds videos and sounds that were decoded before; it changes no answer.
        generate_options: options of `generate` that take the place of the prompts' own.
        seed: of sampled answers and of random fallbacks.
        max_errors: largest share of items without answer; the run stops when it is exceeded. Never when None.
        retry_errors: ask items again that had no answer in the run that is continued.
        model_changes: what was changed in the loaded model, beside what `model_facts` names; for the record alone.
    """

    mode: Mode = "generate"
    ranking: Ranking = "mean"
    prompt_style: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    workers: int = 1
    processor_options: Mapping[str, Any] = field(default_factory=dict)
    generate_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_errors: float | None = None
    retry_errors: bool = False
    model_changes: Mapping[str, Any] = field(default_factory=dict)
    frame_cache: MediaCache | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: the message names the option.
        """
        for name, value, known in (("mode", self.mode, MODES), ("ranking", self.ranking, RANKINGS)):
            if value not in known:
                raise ValueError(f"There is no {name} {value!r}: {did_you_mean(value, known)}")
        for name in ("limit", "batch_size", "workers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}.")
        if self.max_errors is not None and not 0 <= self.max_errors <= 1:
            raise ValueError(f"max_errors is a share between 0 and 1, not {self.max_errors}.")


def prompt_style(task: Task, options: RunOptions) -> str:
    """Name of the style in which a task is asked.

    Raises:
        ValueError: the task does not know the style.
    """
    style = options.prompt_style
    if style is None:
        by_likelihood = options.mode == "likelihood" and LIKELIHOOD_STYLE in task.prompts
        style = LIKELIHOOD_STYLE if by_likelihood else "default"
    task.prompt_rule(style)
    return style


def answer_settings(task: Task, options: RunOptions, model: Mapping[str, Any], first: Item) -> dict[str, Any]:
    """All that the answers depend on. A run that is continued must have the same.

    Args:
        task: the benchmark.
        options: of the run. Those that change no answer are left out.
        model: of `model_facts`.
        first: first item of the benchmark, whose prompt stands for the style.
    """
    style = prompt_style(task, options)
    prompt = task.prompt_rule(style)(first, first.questions[0])
    begun = f"\n{prompt.answer_prefix}" if prompt.begins_answer else ""
    likelihood = {"ranking": options.ranking} if options.mode == "likelihood" else {}
    generation = {**prompt.generate_kwargs, **options.generate_options} if options.mode == "generate" else {}
    changes = {"model_changes": dict(options.model_changes)} if options.model_changes else {}
    return {
        "task": task.name,
        "model": {name: model.get(name) for name in ("path", "revision", "dtype", "attention", "lora_alpha")},
        "prompt_style": style,
        "prompt": fingerprint(f"{prompt.system}\n{prompt.text}{begun}"),
        "chat_template": fingerprint(prompt.chat_template) or model.get("chat_template"),
        "mode": options.mode,
        **likelihood,
        **changes,
        "processor_options": dict(options.processor_options),
        "generate_options": generation,
        "seed": options.seed,
        "versions": package_versions(ANSWERING),
    }
