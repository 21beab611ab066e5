"""An answer that is read while it is written: `generate` runs in a thread of its own."""

import threading
from collections.abc import Callable, Iterable, Iterator
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

    At the end of the answer, after `close`, and after an error, there are no further pieces.

    Attributes:
        text: what was read so far.
    """

    def __init__(
        self,
        generate: Generate,
        tokenizer: Any,
        finish: Callable[[torch.Tensor | None], None],
        *,
        stopping_criteria: Iterable[Any] | None = None,
        text_of: Callable[[torch.Tensor], str] | None = None,
    ) -> None:
        """Start to generate.

        Args:
            generate: is called in a thread, with `streamer` and `stopping_criteria`.
            tokenizer: of the model.
            finish: is called once, by the thread that reads the stream, with the ids that `generate` returned; with
                `None` if it failed or was stopped.
            stopping_criteria: of the user, which end the answer, too.
            text_of: the text of an answer, for a generation loop of the user that does not write to a streamer.
        """
        self.text = ""
        self._finish: Callable[[torch.Tensor | None], None] | None = finish
        self._stop = threading.Event()
        self._criteria = StoppingCriteriaList([*(stopping_criteria or ()), _StopWhen(self._stop)])
        self._text_of = text_of
        self._sequence: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._is_over = False
        # Two threads may read, each of them some of the pieces.
        self._reading = threading.Lock()
        self._ending = threading.Lock()
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._thread = threading.Thread(target=self._run, args=(generate,), daemon=True)
        self._thread.start()

    def _run(self, generate: Generate) -> None:
        try:
            self._sequence = generate(streamer=self._streamer, stopping_criteria=self._criteria)
        except BaseException as error:  # it is raised again by the thread that reads
            self._error = error
        finally:
            # A loop of the user (`custom_generate`) need not end the streamer. A second end does no harm.
            self._streamer.end()

    def __next__(self) -> str:
        with self._reading:
            while not self._is_over and not self._stop.is_set():
                piece = next(self._streamer, None)
                if piece is None:
                    self._is_over = True
                    piece = self._unwritten()
                # Many tokenizers begin an answer with a blank.
                piece = piece if self.text else piece.lstrip()
                if piece and not self._stop.is_set():
                    self.text += piece
                    return piece
        self._end()
        raise StopIteration

    def _unwritten(self) -> str:
        """The answer of a generation loop that has written nothing to the streamer."""
        self._thread.join()
        is_missing = not self.text and self._sequence is not None and self._text_of is not None
        return self._text_of(self._sequence) if is_missing else ""  # type: ignore[misc, arg-type]

    def close(self) -> None:
        """Stop generating. The answer does not become part of the conversation."""
        self._stop.set()
        self._end()

    def _end(self) -> None:
        # The last piece comes before `generate` returns the ids.
        self._thread.join()
        with self._ending:
            finish, self._finish = self._finish, None
            if finish is None:
                return
            finish(None if self._stop.is_set() else self._sequence)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["AnswerStream"]
