"""Options by their names: one that nobody knows is an error, and the error tells the nearest name that is known."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from huggingface_hub.errors import StrictDataclassError

# A longer list of known names helps nobody.
MOST_NAMES_SHOWN = 16
# Of each pair only one can hold.
RIVALS = {"num_frames": "fps", "fps": "num_frames", "max_new_tokens": "max_length", "max_length": "max_new_tokens"}
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


def merged_options(made_with: Mapping[str, Any], of_call: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call before those that a pipeline was made with; of two that exclude each other, the call's.

    Groups (`videos_kwargs`, ...) are merged option by option; what a call says by itself goes before what was in one.
    """
    said = {*of_call, *(RIVALS[name] for name, value in of_call.items() if name in RIVALS and value is not None)}
    groups = {name: value for name, value in of_call.items() if name.endswith("_kwargs") and isinstance(value, Mapping)}
    said_in_groups = {option for group in groups.values() for option in group}
    said_in_groups |= {RIVALS[option] for option in said_in_groups & RIVALS.keys()}
    merged: dict[str, Any] = {}
    for name, value in made_with.items():
        if name.endswith("_kwargs") and isinstance(value, Mapping):
            kept = {option: inner for option, inner in value.items() if option not in said}
            merged[name] = merged_options(kept, groups.get(name, {}))
        elif name not in said and name not in said_in_groups:
            merged[name] = value
    return {**of_call, **merged}


@contextmanager
def plain_type_errors() -> Iterator[None]:
    """Options of a wrong type become one line of `TypeError` or `ValueError`; transformers has classes of its own."""
    try:
        yield
    except StrictDataclassError as error:
        cause = error.__cause__ if isinstance(error.__cause__, TypeError | ValueError) else TypeError(str(error))
        # Of a union, the first sentence says which types there are.
        raise type(cause)(" ".join(str(cause).split()).split(" Errors:")[0]) from error


__all__ = ["did_you_mean", "merged_options", "names_options", "nearest", "plain_type_errors", "refuse_unknown"]
