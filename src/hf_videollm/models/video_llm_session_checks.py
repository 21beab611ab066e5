"""Checks of what users pass to a session, and a lock that lets one thread at a time use it."""

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from .video_llm_generation_options import GENERATE_OPTIONS, refuse_options
from .video_llm_option_names import refuse_unknown

P = ParamSpec("P")
R = TypeVar("R")
# Options of `generate` that a session sets itself.
NOT_OF_ASK = frozenset({"generation_config", "cache_implementation", "cache_config", "max_cache_len", "use_cache"})
OF_ASK = GENERATE_OPTIONS - NOT_OF_ASK | {"max_new_tokens", "max_length"}


class Turns:
    """A lock for the threads that use one session.

    A thread waits until the others have their answers. It does not wait for itself: a function of the user that runs
    inside an answer, such as a logits processor, cannot ask the same session.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise ValueError("The session is still answering: it cannot be used inside of its own answer.")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()

    def within(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function that runs while its thread alone uses the session."""

        @wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return alone


def one_at_a_time(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Decorator of a method of a session: one thread at a time runs it; see `Turns`."""

    @wraps(method)
    def alone(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.turns:
            return method(self, *args, **kwargs)

    return alone


def check_question(question: Any) -> str:
    """Return a question.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty.
    """
    if isinstance(question, Mapping):
        raise TypeError(
            "A question is a text, not a chat message: pass its text, with follow_up=True in a conversation."
        )
    if not isinstance(question, str):
        raise TypeError(f"A question is a text or a list of texts, not {type(question).__name__}: {question!r:.60}.")
    if not question.strip():
        raise ValueError("The question is empty: say what you want to know.")
    return question


def check_questions(questions: Any) -> list[str]:
    """Return a list of questions.

    Raises:
        TypeError: it is no list of texts.
        ValueError: there is no question, or one is empty.
    """
    if isinstance(questions, str | bytes | Mapping) or not isinstance(questions, Iterable):
        return [check_question(questions)]
    if not (found := [check_question(question) for question in questions]):
        raise ValueError("The list of questions is empty: pass at least one question.")
    return found


def check_switches(**switches: Any) -> None:
    """Check options that are on or off.

    Raises:
        TypeError: a value is neither `True` nor `False`.
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r:.60}: pass True or False.")


def check_answer_options(model: Any, options: Mapping[str, Any]) -> None:
    """Check the options for all questions of a session, before its media are read.

    Raises:
        TypeError: a name is unknown.
        ValueError: an option would replace the cache of the session, or the model does not support it.
    """
    for name in (NOT_OF_ASK - {"generation_config"}) & set(options):
        if options[name] is not None:
            raise ValueError(
                f"{name}: a session has one cache for all questions: leave it out, or open the session with cache=, "
                "for example cache=StaticCache(config=..., max_cache_len=...)."
            )
    refuse_unknown(options, OF_ASK | NOT_OF_ASK, "VideoSession")
    refuse_options(model, model.refused_options, dict(options))


__all__ = [
    "NOT_OF_ASK",
    "OF_ASK",
    "Turns",
    "check_answer_options",
    "check_question",
    "check_questions",
    "check_switches",
    "one_at_a_time",
]
