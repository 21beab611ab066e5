"""Options by their names: one that nobody knows is an error, and the error tells the nearest name that is known."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from huggingface_hub.errors import StrictDataclassError

# A longer list of known names helps nobody.
MOST_NAMES_SHOWN = 16
P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: Any, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The one or two known names that look most like this one; none where nothing looks like it."""
    return difflib.get_close_matches(str(name).lower(), sorted(known), n=2, cutoff=cutoff)


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the nearest ones, or all where they are few."""
    if found := nearest(name, known):
        return f"did you mean {' or '.join(found)}?"
    return f"known are {', '.join(sorted(known))}." if len(known) <= MOST_NAMES_SHOWN else "leave it out."


def refuse_unknown(
    given: Iterable[Any], known: Collection[str], owner: str, elsewhere: Collection[str] = frozenset()
) -> None:
    """Raises `TypeError` for the first name that is not known.

    Args:
        given: the names.
        known: names that may be given.
        owner: begins the message.
        elsewhere: names that are known in another place, and may be what was meant.
    """
    for name in given:
        if name not in known:
            raise TypeError(f"{owner} has no option {name!r}: {did_you_mean(name, {*known, *elsewhere} - {name})}")


def names_options(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose error about an unknown keyword argument also tells the nearest known one."""
    known = list(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown(kwargs, known, f"{function.__name__}()")
        return function(*args, **kwargs)

    return checked


@contextmanager
def plain_type_errors() -> Iterator[None]:
    """Options of a wrong type become one line of `TypeError` or `ValueError`; transformers has classes of its own."""
    try:
        yield
    except StrictDataclassError as error:
        cause = error.__cause__ if isinstance(error.__cause__, TypeError | ValueError) else TypeError(str(error))
        # Of a union, the first sentence says which types there are.
        raise type(cause)(" ".join(str(cause).split()).split(" Errors:")[0]) from error


__all__ = ["did_you_mean", "names_options", "nearest", "plain_type_errors", "refuse_unknown"]
