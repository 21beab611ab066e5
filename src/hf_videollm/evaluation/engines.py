"""Two ways to an answer, with one interface: what the model writes, and which option it finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.video_llm_watched_media import MediaMemory
from .asking import Inputs
from .encoded_rows import encoded_rows
from .generation import AUTO_BATCH_SIZE, Generator
from .likelihood import Ranker, normalised
from .run_options import RunOptions

__all__ = ["Engine", "GenerateEngine", "LikelihoodEngine", "Outcome", "make_engine"]


@dataclass(frozen=True)
class Outcome:
    """The answer to one question.

    Attributes:
        answer: as it is scored.
        facts: what else the records say of it.
        error: why there is no answer; None where there is one.
    """

    answer: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


class Engine:
    """Answers questions; `batch_size` is the number that it takes at a time, which may become smaller."""

    batch_size: int = 1

    def outcomes(self, questions: Sequence[Inputs]) -> list[Outcome]:
        """One outcome for each question."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What the result says of the engine."""
        return {"batch_size": self.batch_size}


class GenerateEngine(Engine):
    """What the model writes."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        return self.generator.batch_size

    def outcomes(self, questions: Sequence[Inputs]) -> list[Outcome]:
        return [
            Outcome(result.answer, {"generated": result.text}, result.error)
            for result in self.generator.answers(questions)
        ]


class LikelihoodEngine(Engine):
    """The likeliest option. Where several are equally likely, none is chosen, and the record names them."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker

    def outcomes(self, questions: Sequence[Inputs]) -> list[Outcome]:
        return [self._outcome(inputs) for inputs in questions]

    def _outcome(self, inputs: Inputs) -> Outcome:
        from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

        try:
            scores = self.ranker.scores(inputs)
        except ValueError as error:
            return Outcome(error=error)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            return Outcome(error=MemoryError("The memory is not enough for this question."))
        facts: dict[str, Any] = {"likelihoods": scores, "probabilities": normalised(scores)}
        first, *others = (number for number, score in enumerate(scores) if score == max(scores))
        if others:
            return Outcome("", {**facts, "choice": None, "tied": [first, *others]})
        return Outcome(inputs.ask.item.options[first], {**facts, "choice": first})

    def facts(self) -> dict[str, Any]:
        kept = self.ranker.kept
        return {
            **super().facts(),
            "media_encoded": kept.num_encoded,
            "tokens_run": kept.num_tokens_run,
            "tokens_kept": kept.num_tokens_kept,
        }


def make_engine(model: Any, processor: Any, options: RunOptions, memory: MediaMemory | None = None) -> Engine:
    """The engine of a run.

    Args:
        model: a model of this package with a head.
        processor: its processor, which no other thread may use.
        options: of the run.
        memory: encoded media of earlier runs; with mode "generate" only.
    """
    shared = model.base_model.media_options
    media_options = {name: value for name, value in options.processor_options.items() if name in shared}
    if options.mode == "likelihood":
        return LikelihoodEngine(Ranker(model, processor, options.ranking, media_options))
    generator = Generator(
        model,
        processor,
        options.batch_size or AUTO_BATCH_SIZE,
        shrinks=options.batch_size is None,
        overrides=options.generate_options,
        media_options=media_options,
        seed=options.seed,
        encoded=encoded_rows(model, processor, options.processor_options, memory),
    )
    return GenerateEngine(generator)
