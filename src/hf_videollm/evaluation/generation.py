"""Answers of a model to batches of questions; the batch becomes smaller when the memory is not enough."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from .answers import generated_answer
from .asking import Inputs
from .encoded_rows import EncodedRows

__all__ = ["AUTO_BATCH_SIZE", "Generated", "Generator", "seed_of"]

# Where `batch_size="auto"` begins; it halves from there.
AUTO_BATCH_SIZE = 16


@dataclass(frozen=True)
class Generated:
    """What the model wrote for one question.

    Attributes:
        answer: after cutting by the rules of the prompt.
        text: as it was generated, without special tokens.
        error: why there is no answer; None where there is one.
    """

    answer: str = ""
    text: str = ""
    error: Exception | None = None


@dataclass
class Generator:
    """Generates answers.

    Prompts are padded on the left, so that in float32 an answer does not depend on the other questions of its batch.
    Sampled answers are generated one by one, each with a random state that depends on `seed` and on the question alone:
    they do not depend on the batch size or on where a run was resumed either.

    Attributes:
        model: a model of this package with a head.
        processor: its processor; used by the thread that generates only.
        batch_size: largest number of questions at a time. It is halved when the memory is not enough and
            `shrinks` is set, and stays so.
        shrinks: see `batch_size`.
        overrides: options of `generate` that take the place of the prompts' own, e.g. `{"max_new_tokens": 8}`.
        media_options: options of the processor that the model must get, too.
        seed: of sampled answers.
        encoded: keeps the encoded media of the last questions; without it, each question is encoded anew.
    """

    model: Any
    processor: Any
    batch_size: int = AUTO_BATCH_SIZE
    shrinks: bool = True
    overrides: Mapping[str, Any] = field(default_factory=dict)
    media_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    encoded: EncodedRows | None = None

    def answers(self, questions: Sequence[Inputs]) -> list[Generated]:
        """Answers in the order of the questions.

        Raises:
            RuntimeError: the memory is not enough for `batch_size` questions and the batch may not shrink.
        """
        results: list[Generated] = []
        for (is_sampled, _), group in groupby(questions, key=lambda inputs: self._kind(inputs)):
            waiting = list(group)
            while waiting:
                batch = waiting[: 1 if is_sampled else self.batch_size]
                done = self._try(batch)
                results += done
                waiting = waiting[len(done) :]
        return results

    def _options(self, inputs: Inputs) -> dict[str, Any]:
        return {**inputs.ask.prompt.generate_kwargs, **self.overrides}

    def _kind(self, inputs: Inputs) -> tuple[bool, str]:
        """Questions of one kind can be generated together."""
        options = self._options(inputs)
        return bool(options.get("do_sample")), repr(sorted(options.items()))

    def _try(self, batch: Sequence[Inputs]) -> list[Generated]:
        """Answers of a batch; none, and a smaller `batch_size`, when the memory was not enough.

        What the model refuses (a prompt that does not fit it) is an error of that question alone.
        """
        from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

        try:
            return self._generate(batch)
        except ValueError as error:
            if len(batch) == 1:
                return [Generated(error=error)]
            return [result for inputs in batch for result in self._try([inputs])]
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            reason = str(error)
        # Outside of `except`, because the traceback keeps the tensors of the failed call.
        _free_memory()
        if not self.shrinks:
            raise RuntimeError(
                f"The memory is not enough for {len(batch)} questions at a time: lower batch_size or num_frames, or "
                f"take batch_size=auto. ({' '.join(reason.split())[:200]})"
            )
        if len(batch) == 1:
            return [Generated(error=MemoryError("The memory is not enough for this question alone."))]
        self.batch_size = len(batch) // 2
        return []

    def _inputs(self, batch: Sequence[Inputs]) -> Any:
        if self.encoded is not None:
            return self.encoded.inputs(batch)
        return self.processor.collate([inputs.row for inputs in batch], padding_side="left").to(self.model.device)

    def _generate(self, batch: Sequence[Inputs]) -> list[Generated]:
        import torch

        options = self._options(batch[0])
        if self.model.generation_config.pad_token_id is None:
            options.setdefault("pad_token_id", self.processor.tokenizer.pad_token_id)
        with torch.inference_mode():
            together = self._inputs(batch)
        length = together["input_ids"].shape[1]
        with torch.inference_mode(), _seeded(self.seed, batch[0], bool(options.get("do_sample"))):
            tokens = self.model.generate(**together, **self.media_options, **options)
        texts = self.processor.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
        return [Generated(_answer_of(text, inputs), text) for text, inputs in zip(texts, batch, strict=True)]


def _answer_of(text: str, inputs: Inputs) -> str:
    prompt = inputs.ask.prompt
    return generated_answer(text, prompt.answer_prefix, prompt.return_prefix, prompt.stop)


def seed_of(seed: int, *parts: Any) -> int:
    """A seed that depends on all parts, and is the same in every process and run."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:4], "big")


@contextmanager
def _seeded(seed: int, inputs: Inputs, is_sampled: bool) -> Iterator[None]:
    """The random state of one sampled answer; the state of the process is put back."""
    if not is_sampled:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, inputs.ask.item.id, inputs.ask.question))
        yield


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
