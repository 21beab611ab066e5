"""Where videos and sounds are read: from their files, or by a cache that a caller puts between (`reading_through`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
from transformers.video_utils import VideoMetadata

from .media_audio import load_audio
from .media_video import load_video

__all__ = ["MediaReader", "choice_rule", "keep_choice", "read_sound", "read_video", "reading_through"]


class MediaReader(Protocol):
    """What reads media inside `reading_through`, e.g. a cache on disk."""

    def video(
        self, source: Any, form: Callable[[], Mapping[str, Any]], options: Mapping[str, Any]
    ) -> tuple[np.ndarray, VideoMetadata]:
        """The result of `load_video(source, **options)`.

        Args:
            source: the video.
            form: gives everything that decides what `frame_fn` of the options makes of a decoded frame.
            options: arguments of `load_video`.
        """
        ...

    def sound(self, source: Any, options: Mapping[str, Any]) -> np.ndarray:
        """The result of `load_audio(source, **options)`."""
        ...


# It belongs to a thread, and not to a processor: whatever is an attribute of a processor is saved with it.
_reader: ContextVar[MediaReader | None] = ContextVar("media_reader", default=None)


@contextmanager
def reading_through(reader: MediaReader | None) -> Iterator[None]:
    """Inside this context, the processors of this thread read videos and sounds through `reader`; None: directly."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def read_video(source: Any, form: Callable[[], Mapping[str, Any]], **options: Any) -> tuple[np.ndarray, VideoMetadata]:
    """`load_video(source, **options)`, through the reader of the context if there is one; see `MediaReader.video`."""
    reader = _reader.get()
    return load_video(source, **options) if reader is None else reader.video(source, form, options)


def read_sound(source: Any, **options: Any) -> np.ndarray:
    """`load_audio(source, **options)`, through the reader of the context if there is one."""
    reader = _reader.get()
    return load_audio(source, **options) if reader is None else reader.sound(source, options)


def keep_choice(sampler: Any, rule: Mapping[str, Any]) -> None:
    """Tell caches that a sampler takes long, and that it always chooses the same frames of the same file by this rule.

    Args:
        sampler: a `functools.partial`.
        rule: everything by which it chooses.
    """
    sampler.choice_rule = dict(rule)


def choice_rule(sampler: Any) -> dict[str, Any] | None:
    """The rule of `keep_choice`; None for a sampler that caches ask each time."""
    rule: dict[str, Any] | None = getattr(sampler, "choice_rule", None)
    return rule
