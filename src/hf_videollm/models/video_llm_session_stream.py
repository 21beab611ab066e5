"""An answer that is read while it is written: `generate` runs in a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

# Generates with these arguments of `generate`, which are added to its own.
Generate = Callable[..., torch.Tensor]


class _StopWhen(StoppingCriteria):
    """Ends generation at the next token after an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class AnswerStream(Iterator[str]):
    """The pieces of an answer, as soon as they are written.

    Attributes:
        text: what was read so far.
    """

    def __init__(self, generate: Generate, tokenizer: Any, finish: Callable[[torch.Tensor | None], None]) -> None:
        """Start to generate.

        Args:
            generate: is called in a thread, with `streamer` and `stopping_criteria`.
            tokenizer: of the model.
            finish: is called once, by the thread that reads the stream, with the ids that `generate` returned; with
                `None` if it failed or was stopped.
        """
        self.text = ""
        self._finish: Callable[[torch.Tensor | None], None] | None = finish
        self._stop = threading.Event()
        self._sequence: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._thread = threading.Thread(target=self._run, args=(generate,), daemon=True)
        self._thread.start()

    def _run(self, generate: Generate) -> None:
        try:
            stop = StoppingCriteriaList([_StopWhen(self._stop)])
            self._sequence = generate(streamer=self._streamer, stopping_criteria=stop)
        except BaseException as error:  # it is raised again by the thread that reads
            self._error = error
            self._streamer.end()

    def __next__(self) -> str:
        for piece in self._streamer:
            # Many tokenizers begin an answer with a blank.
            piece = piece if self.text else piece.lstrip()
            if piece:
                self.text += piece
                return piece
        self._end(is_whole=True)
        raise StopIteration

    def close(self) -> None:
        """Stop generating. The answer does not become part of the conversation."""
        self._stop.set()
        self._end(is_whole=False)

    def _end(self, is_whole: bool) -> None:
        # The last piece comes before `generate` returns the ids.
        self._thread.join()
        finish, self._finish = self._finish, None
        if finish is None:
            return
        finish(self._sequence if is_whole else None)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["AnswerStream"]
