"""Tells which step of a long piece of work has begun, and how far it is."""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

Tell = Callable[[str], None]


@contextmanager
def told_step(tell: Tell, step: str, unit: str = "weights") -> Iterator[Callable[[int, int], None]]:
    """Tell that a step begins, and count what it does, as in "Comparing, 45 of 97 weights".

    What transformers shows as its first progress bar inside the block is counted, too, also if its bars are hidden.

    Args:
        tell: gets each text.
        step: what is done.
        unit: what is counted.

    Yields:
        A function for the block's own counts; it takes the number of things done and the number of all.
    """

    is_first = True

    def count(done: int, total: int) -> None:
        tell(f"{step}, {done:,} of {total:,} {unit}")

    def hook(make_bar: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        nonlocal is_first
        if is_first and arguments and isinstance(arguments[0], Sized):
            is_first = False
            items, *others = arguments
            arguments = (_counted(items, count), *others)
            options = {"total": len(items), **options}
        return make_bar(*arguments, **options)

    tell(step)
    before = logging.set_tqdm_hook(hook)
    try:
        yield count
    finally:
        logging.set_tqdm_hook(before)


def _counted(items: Any, count: Callable[[int, int], None]) -> Iterator[Any]:
    for done, item in enumerate(items, start=1):
        yield item
        count(done, len(items))


__all__ = ["Tell", "told_step"]
