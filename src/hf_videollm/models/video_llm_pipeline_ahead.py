"""The part of the pipeline that reads the next sample while the model works on the one before."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from .errors import held_warnings, warn_caller

_END = object()


class Ahead:
    """An iterator that makes each result from a batch of items, the next one in the background.

    At most one result is made ahead. Items are read in the thread of the caller, because iterators may be bound to it.
    The function runs in a thread of its own for every batch, which ends with the batch: nothing has to be closed, and a
    caller that stops early, or is interrupted, waits for nothing. An error comes at the place of its batch, and the
    batch after it is only begun when it is asked for, as without threads.

    Args:
        items: of the batches.
        function: makes a result of a list of items.
        batch_size: number of items for a result; the last result may have fewer.
    """

    def __init__(self, items: Iterable[Any], function: Callable[[list[Any]], Any], batch_size: int) -> None:
        self._items = iter(items)
        self._function = function
        self._batch_size = batch_size
        self._next: _Work | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        work = self._next or self._begin()
        self._next = None
        result = work.result()  # raises the error of this batch
        if result is _END:
            raise StopIteration
        self._next = self._begin()
        return result

    def _begin(self) -> _Work:
        try:
            batch = list(islice(self._items, self._batch_size))
        except Exception as error:  # it belongs to this batch, and the caller still works on the one before
            return _Work(error=error)
        return _Work(self._function, batch) if batch else _Work()


class _Work:
    """A result that is being made in a thread, an error, or the end."""

    def __init__(
        self,
        function: Callable[[list[Any]], Any] | None = None,
        batch: list[Any] | None = None,
        error: BaseException | None = None,
    ) -> None:
        self._result: Any = _END
        self._error = error
        self._warnings: list[str] = []  # the line of the user's code that they name is in the caller's thread
        self._thread: threading.Thread | None = None
        if function is not None:
            context = contextvars.copy_context()
            context.run(held_warnings.set, self._warnings)
            # A daemon does not keep a process alive that was interrupted.
            self._thread = threading.Thread(
                target=context.run, args=(self._run, function, batch), name="decode ahead", daemon=True
            )
            self._thread.start()

    def _run(self, function: Callable[[list[Any]], Any], batch: list[Any]) -> None:
        try:
            self._result = function(batch)
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error

    def result(self) -> Any:
        if self._thread is not None:
            self._thread.join()
        for message in self._warnings:
            warn_caller(message)
        if self._error is not None:
            raise self._error
        return self._result


class _AheadLoader:
    """Takes the place of a torch `DataLoader` without workers."""

    def __init__(self, loader: Any, items: Any, preprocess: Callable[..., Any], options: dict[str, Any]) -> None:
        self._loader, self._items = loader, items
        self._preprocess, self._options = preprocess, options

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        # A data loader draws a random number when it begins. It is drawn here, too, so that sampled answers do not
        # depend on this class.
        iter(self._loader)
        return Ahead(_each(self._items), self._batch, self._loader.batch_size)

    def _batch(self, items: list[Any]) -> Any:
        return self._loader.collate_fn([self._preprocess(item, **self._options) for item in items])


def _each(items: Any) -> Iterator[Any]:
    """The items of a list, a `Dataset` or an iterable."""
    if isinstance(items, Sized):
        return (items[index] for index in range(len(items)))  # type: ignore[index]
    return iter(items)


class PipelineAheadMixin:
    """For a pipeline of `ImageTextToTextPipeline`.

    Attributes:
        decode_ahead: whether the videos of the next sample (with `batch_size`, of the next batch) are decoded while the
            model works. The answers do not depend on it. Samples of a generator are read one step earlier with it.
    """

    decode_ahead: bool = True
    processor: Any

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """As in transformers; see `decode_ahead`."""
        results = super().get_iterator(  # type: ignore[misc]
            inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
        )
        is_short = isinstance(inputs, Sized) and len(inputs) <= batch_size
        # The workers of a data loader decode ahead themselves.
        if self.decode_ahead and not num_workers and not is_short:
            # Tokenizers do not stand two threads at once, and this one's is used for the answers meanwhile.
            reader: Any = copy.copy(self)
            reader.processor = copy.deepcopy(self.processor)
            model_results = results.loader
            model_results.loader = _AheadLoader(model_results.loader, inputs, reader.preprocess, preprocess_params)
        return results


__all__ = ["Ahead", "PipelineAheadMixin"]
