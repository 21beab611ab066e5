# ruff: noqa: N818  (most public names have no Error suffix: they already say what happened)
"""Exceptions for media and checkpoints, and the limits that decoding must respect (`MediaLimits`, `Deadline`).

Every error message is one line: the name of the source, what is wrong, and how to fix it.
"""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from contextvars import ContextVar
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import FrameType
from typing import Any

# In Hz. Above this rate, FFmpeg's resampler needs gigabytes for its filters, or fails. Even ultrasound recordings have
# lower rates.
MAX_SAMPLING_RATE = 4_000_000
_BYTES_PER_SAMPLE = 4  # float32


class MediaError(ValueError):
    """Base class of all errors that occur while a media source is opened or decoded."""


class MediaNotFound(MediaError, FileNotFoundError):
    """The path does not exist. Code that catches `FileNotFoundError` catches this error, too."""

    # Without this, FileNotFoundError would format the message as "[Errno ...]".
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnsupportedMedia(MediaError):
    """The file is not a video or audio that can be decoded, or the Python object is not a video or audio."""


class UnsupportedSamples(UnsupportedMedia, TypeError):
    """The array does not hold audio samples. Code that catches `TypeError` catches this error, too.

    NumPy and transformers raise a `TypeError` in this case.
    """


class NoVideoStream(MediaError):
    """The file can be read, but has no video track."""


class NoAudioStream(MediaError):
    """The file can be read, but has no audio track, or an empty one."""


class CorruptMedia(MediaError):
    """The file is empty, truncated or damaged."""


class MediaTooLarge(MediaError):
    """The source exceeds a limit of `MediaLimits`."""


class UnsafeURL(MediaError):
    """The address was refused: its scheme is not http(s), or its host is not allowed or not public."""


class MissingBackend(MediaError, ImportError):
    """A package that the call needs, such as a video decoder, is not installed or does not work."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded or converted as asked."""


class MediaWarning(UserWarning):
    """Warns that a result is incomplete; the message says what is missing."""


def one_line(error: object, limit: int | None = None) -> str:
    """The message of an error in one line; the name of its class if it has no message.

    Args:
        error: the error, or a text.
        limit: most letters. The text is then cut, and has no full stop at its end, because it stands inside a sentence.

    Example:
        >>> one_line(ValueError("two\\n  lines."))
        'two lines.'
        >>> one_line(KeyError(), limit=120)
        'KeyError'
    """
    text = " ".join(str(error).split())
    if limit is not None:
        text = text[:limit].rstrip(" .")
    return text or type(error).__name__


# Warnings of a thread that works for another one, which issues them with `warn_caller`. None: they are issued at once.
held_warnings: ContextVar[list[str] | None] = ContextVar("held_warnings", default=None)


def warn_caller(message: str) -> None:
    """Warns with a `MediaWarning` that names the line of the user's own code which led to the warning.

    Lines inside this package, transformers and torch are skipped, because they would not help the user.
    """
    if (held := held_warnings.get()) is not None:
        held.append(message)
        return
    skipped = {__name__.partition(".")[0], "transformers", "torch"}
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None and _package(frame) in skipped:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, MediaWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@dataclass(frozen=True)
class MediaLimits:
    """Limits for one call. They are checked against the file's header, and again while decoding: headers can be wrong.

    Args:
        max_bytes: size of the file, the bytes object or the download.
        max_duration: seconds from the start of the first frame to the end of the last one, by their timestamps.
        max_frames: frames returned by one call.
        max_pixels: width times height of one frame.
        max_audio_seconds: seconds of audio returned by one call.
        max_decoded_bytes: size in bytes of the returned array of frames or samples.
        timeout: seconds that one call may take, including a download.

    The same limits apply to videos, to audio, and to pictures that are passed as frames; `math.inf` means no limit.

    Raises:
        ValueError: a limit is negative, NaN, or not a number.
    """

    max_bytes: int = 4 * 1024**3
    max_duration: float = 12 * 3600.0
    max_frames: int = 16_384
    max_pixels: int = 7680 * 4320
    max_audio_seconds: float = 4 * 3600.0
    max_decoded_bytes: int = 8 * 1024**3
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not _is_number(value) or not value >= 0:
                raise ValueError(f"MediaLimits({entry.name}={value!r}): give a number, zero or more.")

    def check_bytes(self, name: str, size: int) -> None:
        """Raises `MediaTooLarge` if `size` bytes are more than `max_bytes`."""
        if size > self.max_bytes:
            raise MediaTooLarge(
                f"{name}: {size:,} bytes is over the limit of {self.max_bytes:,}; "
                "use a smaller file or raise MediaLimits(max_bytes=...)."
            )

    def check_picture(self, name: str, width: int, height: int) -> None:
        """Raises `MediaTooLarge` if a frame of this size has more than `max_pixels` pixels."""
        if width * height > self.max_pixels:
            raise MediaTooLarge(
                f"{name}: frames of {width}x{height} are over the limit of {self.max_pixels:,} pixels; "
                "scale the video down or raise MediaLimits(max_pixels=...)."
            )

    def check_duration(self, name: str, seconds: float) -> None:
        """Raises `MediaTooLarge` if the video lasts longer than `max_duration`."""
        if seconds > self.max_duration:
            raise MediaTooLarge(
                f"{name}: {seconds:.1f} s of video is over the limit of {self.max_duration:g} s; "
                "cut the file or raise MediaLimits(max_duration=...)."
            )

    def check_result(self, name: str, frames: int, width: int, height: int) -> None:
        """Raises `MediaTooLarge` if a result of (frames, height, width, 3) bytes has too many frames or bytes."""
        if frames > self.max_frames:
            raise MediaTooLarge(
                f"{name}: {frames:,} frames were asked for and the limit is {self.max_frames:,}; "
                "pass num_frames, start/end, or raise MediaLimits(max_frames=...)."
            )
        size = frames * width * height * 3
        if size > self.max_decoded_bytes:
            raise MediaTooLarge(
                f"{name}: {frames:,} frames of {width}x{height} need {size:,} bytes, over the limit of "
                f"{self.max_decoded_bytes:,}; ask for fewer frames or raise MediaLimits(max_decoded_bytes=...)."
            )

    def check_audio(self, name: str, seconds: float) -> None:
        """Raises `MediaTooLarge` if the audio lasts longer than `max_audio_seconds`."""
        if seconds > self.max_audio_seconds:
            raise MediaTooLarge(
                f"{name}: the sound is longer than the limit of {self.max_audio_seconds:g} s; "
                "pass start/end or raise max_audio_seconds."
            )

    def check_samples(self, name: str, samples: int) -> None:
        """Raises `MediaTooLarge` if this many float32 samples need more than `max_decoded_bytes`."""
        size = samples * _BYTES_PER_SAMPLE
        if size > self.max_decoded_bytes:
            raise MediaTooLarge(
                f"{name}: {samples:,} samples of sound need {size:,} bytes, over the limit of "
                f"{self.max_decoded_bytes:,}; pass start/end, a lower sampling_rate, or raise "
                "MediaLimits(max_decoded_bytes=...)."
            )


def check_num_frames(num_frames: int | None) -> None:
    """Raises `ValueError` unless `num_frames` is None or a whole number of at least 1."""
    if num_frames is None:
        return
    if not isinstance(num_frames, Integral) or isinstance(num_frames, bool):
        raise ValueError(f"num_frames={num_frames!r}: give a whole number of frames.")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: ask for at least one frame.")


def check_interval(start: float | None, end: float | None, of: str = "video") -> None:
    """Raises `ValueError` if `start` or `end` is not a number of at least 0, or `end` does not come after `start`.

    Args:
        of: what the seconds belong to ("video", "file", "sound"), for the error message.
    """
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (_is_number(value) and 0 <= value <= sys.float_info.max):
            raise ValueError(f"{name}={value!r}: give seconds since the start of the {of}, zero or more.")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end={end} is not after start={start or 0.0}; give an end after the start.")


def check_sampling_rate(sampling_rate: Any) -> int:
    """The sampling rate as an `int`.

    Raises:
        ValueError: it is not a whole number between 1 and `MAX_SAMPLING_RATE`.
    """
    is_in_range = _is_number(sampling_rate) and 1 <= sampling_rate <= MAX_SAMPLING_RATE
    if not is_in_range or sampling_rate != int(sampling_rate):
        raise ValueError(
            f"sampling_rate={sampling_rate!r}: give samples per second, such as 16000; at most {MAX_SAMPLING_RATE:,}."
        )
    return int(sampling_rate)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_on_decode_error(on_decode_error: str) -> None:
    """Raises `ValueError` unless `on_decode_error` is "raise" or "truncate"."""
    if on_decode_error not in ("raise", "truncate"):
        raise ValueError(f'on_decode_error={on_decode_error!r} is unknown; use "raise" or "truncate".')


class Deadline:
    """The time at which one call must be finished.

    Args:
        seconds: time from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds that are left, at least zero."""
        return max(0.0, self._end - time.monotonic())

    def check(self, name: str) -> None:
        """Raises `MediaTooLarge` if the deadline has passed."""
        if time.monotonic() > self._end:
            raise MediaTooLarge(
                f"{name}: not done after {self.seconds:g} s; ask for a shorter part with start/end "
                "or raise MediaLimits(timeout=...)."
            )
