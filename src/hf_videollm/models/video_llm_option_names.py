"""Refuses unknown names of options, with an error that suggests the most similar known name."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from huggingface_hub.errors import StrictDataclassError

from .errors import one_line

# An error message lists all known names only if there are at most this many.
MOST_NAMES_SHOWN = 16
# Pairs of options that exclude each other.
RIVALS = {"num_frames": "fps", "fps": "num_frames", "max_new_tokens": "max_length", "max_length": "max_new_tokens"}
P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: Any, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The one or two known names that are most similar to this one; an empty list if none is similar."""
    return difflib.get_close_matches(str(name).lower(), sorted(known), n=2, cutoff=cutoff)


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the most similar names, or all known names if they are few."""
    if similar := nearest(name, known):
        return f"did you mean {' or '.join(similar)}?"
    return f"known are {', '.join(sorted(known))}." if len(known) <= MOST_NAMES_SHOWN else "leave it out."


def pixel_options(processor: Any, dtype: Any, has_videos: bool) -> dict[str, Any]:
    """The option that makes the pixel values of videos in the type of the model at once, as `cast_row` would.

    `cast_row` alone holds the float32 values of all frames beside the others.

    Args:
        processor: the processor that will be called.
        dtype: of the model; `None` if it is not known.
        has_videos: whether the call has videos.
    """
    known = has_videos and processor.reads_videos and "pixel_dtype" in processor.known_options()
    return {} if dtype is None or not known else {"pixel_dtype": dtype}


def refuse_unknown(
    given: Iterable[Any], known: Collection[str], owner: str, elsewhere: Collection[str] = frozenset()
) -> None:
    """Raise `TypeError` for the first name that is not known.

    Args:
        given: the names to check.
        known: the names that are allowed.
        owner: what the options belong to; the error message begins with it.
        elsewhere: names of options of something else, which the message may suggest as well.
    """
    for name in given:
        if name not in known:
            raise TypeError(f"{owner} has no option {name!r}: {did_you_mean(name, {*known, *elsewhere} - {name})}")


def names_options(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the function's error about an unknown keyword argument suggests the most similar known one."""
    known = list(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown(kwargs, known, f"{function.__name__}()")
        return function(*args, **kwargs)

    return checked


def merged_options(made_with: Mapping[str, Any], of_call: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the options that a pipeline was made with and those of a call. The options of the call take precedence.

    An option of the call also removes the option of the pipeline that excludes it (`RIVALS`). Groups (`videos_kwargs`,
    ...) are merged option by option. An option that the call passes directly overrides the same option in a group.
    """
    set_by_call = {*of_call, *(RIVALS[name] for name, value in of_call.items() if name in RIVALS and value is not None)}
    groups = {name: value for name, value in of_call.items() if name.endswith("_kwargs") and isinstance(value, Mapping)}
    set_in_groups = {option for group in groups.values() for option in group}
    set_in_groups |= {RIVALS[option] for option in set_in_groups & RIVALS.keys()}
    merged: dict[str, Any] = {}
    for name, value in made_with.items():
        if name.endswith("_kwargs") and isinstance(value, Mapping):
            kept = {option: inner for option, inner in value.items() if option not in set_by_call}
            merged[name] = merged_options(kept, groups.get(name, {}))
        elif name not in set_by_call and name not in set_in_groups:
            merged[name] = value
    return {**of_call, **merged}


@contextmanager
def plain_type_errors() -> Iterator[None]:
    """Turn transformers' errors about wrong types of options into a `TypeError` or `ValueError` of one line."""
    try:
        yield
    except StrictDataclassError as error:
        cause = error.__cause__ if isinstance(error.__cause__, TypeError | ValueError) else TypeError(str(error))
        # For a union of types, the part before "Errors:" lists the allowed types; the rest repeats each failed check.
        raise type(cause)(one_line(cause).split(" Errors:")[0]) from error


__all__ = [
    "did_you_mean",
    "merged_options",
    "names_options",
    "nearest",
    "pixel_options",
    "plain_type_errors",
    "refuse_unknown",
]
