"""Answers all items of one process: videos are decoded while the model works, and every item ends in a record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.errors import one_line
from .asking import Ask, Asker, Inputs
from .engines import Engine, Outcome
from .items import Item
from .prefetch import Prefetch
from .prompting import PromptRule
from .records import Record

__all__ = ["Answering", "TooManyErrors"]

# Decoded videos that wait for the model; long videos take gigabytes each.
MOST_WAITING_BYTES = 4 << 30
# So many questions that the model refuses, and none that it takes: prompts and model do not fit each other.
MOST_REFUSED = 20
# What is wrong with the run, not with one video.
FAULTS_OF_RUN = (TypeError, ImportError, AttributeError, NameError)


class TooManyErrors(RuntimeError):  # noqa: N818  (the message of the command line says what it is)
    """More items have no answer than the run allows; all records are kept."""


@dataclass
class Answering:
    """One process's part of a run.

    Attributes:
        asker: makes inputs.
        engine: makes answers of inputs.
        rule: item and question -> prompt.
        workers: threads that decode.
        max_errors: see `RunOptions`.
        on_progress: called with this object after each batch.
        num_done: items with a record so far.
        num_errors: those of them without answer.
        num_items: items to do.
        first_prompt: the first rendered prompt; None before it.
        waited: seconds in which the model waited for videos.
        seconds: of the whole loop so far.
    """

    asker: Asker
    engine: Engine
    rule: PromptRule
    workers: int = 1
    max_errors: float | None = None
    on_progress: Callable[[Answering], None] | None = None
    num_done: int = 0
    num_errors: int = 0
    num_items: int = 0
    first_prompt: str | None = None
    waited: float = 0.0
    seconds: float = 0.0
    _open: dict[str, _OpenItem] = field(default_factory=dict)
    # None as soon as the model has answered something.
    _num_refused: int | None = 0
    _local: threading.local = field(default_factory=threading.local)

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the model waited for videos."""
        return self.waited / self.seconds if self.seconds else 0.0

    def records(self, items: Sequence[Item]) -> Iterator[list[Record]]:
        """The records of items, a few at a time, in the order of the items.

        Raises:
            TooManyErrors: see `max_errors`.
        """
        self.num_items = len(items)
        questions = ((item, number) for item in items for number in range(len(item.questions)))
        ahead = self.engine.batch_size + self.workers
        prefetch: Prefetch[tuple[Item, int], Inputs] = Prefetch(
            questions, self._prepare, ahead, self.workers, catch=(Exception,)
        )
        batch: list[Inputs] = []
        ready: list[Record] = []
        stream = iter(prefetch)
        try:
            for (item, number), inputs in stream:
                self.waited, self.seconds = prefetch.waited, prefetch.elapsed
                if isinstance(inputs, Exception):
                    ready += self._take(item, number, Outcome(error=inputs), None)
                else:
                    self.first_prompt = self.first_prompt or inputs.rendered
                    batch.append(inputs)
                    prefetch.ahead = _bounded(ahead, inputs)
                if len(batch) >= min(self.engine.batch_size, prefetch.ahead):
                    ready += self._answer(batch)
                    batch = []
                if ready and not batch:
                    yield self._counted(ready)
                    ready = []
                    self._check_errors()
            ready += self._answer(batch)
            self.waited, self.seconds = prefetch.waited, prefetch.elapsed
            if ready:
                yield self._counted(ready)
                self._check_errors()
        finally:
            stream.close()  # type: ignore[attr-defined]

    def _prepare(self, question: tuple[Item, int]) -> Inputs:
        item, number = question
        # Each thread has a processor of its own: tokenizers do not stand two threads at once.
        if not hasattr(self._local, "asker"):
            self._local.asker = self.asker.for_thread()
        asker: Asker = self._local.asker
        prompt = self.rule(asker.as_seen(item), item.questions[number])
        return asker.inputs(Ask(item, number, prompt))

    def _answer(self, batch: list[Inputs]) -> list[Record]:
        records = []
        if batch:
            for inputs, outcome in zip(batch, self.engine.outcomes(batch), strict=True):
                self._count_refused(outcome)
                records += self._take(inputs.ask.item, inputs.ask.question, outcome, inputs)
        return records

    def _count_refused(self, outcome: Outcome) -> None:
        if outcome.error is None:
            self._num_refused = None
        elif self._num_refused is not None:
            self._num_refused += 1
            if self._num_refused >= MOST_REFUSED:
                raise outcome.error

    def _take(self, item: Item, number: int, outcome: Outcome, inputs: Inputs | None) -> list[Record]:
        """Note the outcome of one question; the record of its item when that was the last one."""
        if isinstance(outcome.error, FAULTS_OF_RUN):
            raise outcome.error
        open_item = self._open.setdefault(item.id, _OpenItem(item))
        open_item.outcomes[number] = outcome
        if inputs is not None:
            open_item.media = inputs.media
        if len(open_item.outcomes) < len(item.questions):
            return []
        return [self._open.pop(item.id).record()]

    def _counted(self, records: list[Record]) -> list[Record]:
        self.num_done += len(records)
        self.num_errors += sum("error" in record for record in records)
        if self.on_progress is not None:
            self.on_progress(self)
        return records

    def _check_errors(self) -> None:
        """Raise `TooManyErrors` if more items than allowed have no answer."""
        if self.max_errors is not None and self.num_errors > self.max_errors * self.num_items:
            raise TooManyErrors(
                f"{self.num_errors} of {self.num_items} items have no answer, more than the share of "
                f"{self.max_errors:g} that max_errors allows. The records name the error of each."
            )


@dataclass
class _OpenItem:
    """An item of which not all questions are answered yet."""

    item: Item
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    media: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> Record:
        """What is kept of the item."""
        ordered = [self.outcomes[number] for number in sorted(self.outcomes)]
        media = self.media or [{"type": medium.type, "path": str(medium.path)} for medium in self.item.media]
        if (error := next((outcome.error for outcome in ordered if outcome.error is not None), None)) is not None:
            message = one_line(error)
            return {"id": self.item.id, "error": {"type": type(error).__name__, "message": message}, "media": media}
        record: Record = {"id": self.item.id, "answers": [outcome.answer for outcome in ordered]}
        for name in ordered[0].facts:
            record[name] = [outcome.facts[name] for outcome in ordered]
        return {**record, "media": media}


def _bounded(ahead: int, inputs: Inputs) -> int:
    """How many results may wait, by the size of one of them."""
    size = sum(value.nbytes for value in inputs.row.values() if hasattr(value, "nbytes"))
    return max(1, min(ahead, MOST_WAITING_BYTES // max(1, size)))
