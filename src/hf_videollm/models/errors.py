# ruff: noqa: N818  (the public names say what happened; an Error suffix adds nothing)
"""Errors of the media and checkpoint layers, and the budgets that decoding must keep.

Every message is one line: the name of the source, what is wrong, what to do about it.
"""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import FrameType
from typing import Any

# Above it FFmpeg's resampler takes gigabytes for its filters, or none at all; ultrasound is recorded below it.
MAX_SAMPLING_RATE = 4_000_000
_BYTES_PER_SAMPLE = 4  # float32


class MediaError(ValueError):
    """Base of everything that can go wrong between a media source and its decoded frames or samples."""


class MediaNotFound(MediaError, FileNotFoundError):
    """The path does not exist. Also a `FileNotFoundError`, so existing handlers keep working."""

    # FileNotFoundError would print its own "[Errno ...]" form.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnsupportedMedia(MediaError):
    """The bytes are no video or audio that can be decoded, or the Python object is no video."""


class UnsupportedSamples(UnsupportedMedia, TypeError):
    """The array holds no samples of sound. Also a `TypeError`, as elsewhere in NumPy and transformers."""


class NoVideoStream(MediaError):
    """The file is readable and has no moving pictures in it."""


class NoAudioStream(MediaError):
    """The file is readable and has no sound in it."""


class CorruptMedia(MediaError):
    """The file is empty, truncated or damaged."""


class MediaTooLarge(MediaError):
    """A budget of `MediaLimits` would be, or was, exceeded."""


class UnsafeURL(MediaError):
    """The address was refused: its host is not allowed, is not public, or the scheme is not http(s)."""


class MissingBackend(MediaError, ImportError):
    """A decoder was asked for by name and is not installed or not usable here."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded or converted as asked."""


class MediaWarning(UserWarning):
    """A request was carried out in part; the message says what is missing."""


def warn_caller(message: str) -> None:
    """A `MediaWarning` that names the line of the user's code that led here, however many of our functions lie between.

    Lines of this package, and of the libraries that call it, tell the user nothing.
    """
    passed_over = {__name__.partition(".")[0], "transformers", "torch"}
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None and _package(frame) in passed_over:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, MediaWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@dataclass(frozen=True)
class MediaLimits:
    """Budgets for one call. They are checked from the container and again while decoding, because containers lie.

    Args:
        max_bytes: size of the file, the bytes object or the download.
        max_duration: seconds between the first and the end of the last frame, by their timestamps.
        max_frames: frames returned by one call.
        max_pixels: width times height of one frame.
        max_audio_seconds: seconds of sound returned by one call.
        max_decoded_bytes: bytes of the returned array, of frames or of samples.
        timeout: seconds that one call may take, download included.

    They count alike for videos, for sounds, and for pictures given as frames; `math.inf` means no limit.

    Raises:
        ValueError: a limit is no number, is negative or NaN.
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
        """Raises `MediaTooLarge` when `size` bytes are over budget."""
        if size > self.max_bytes:
            raise MediaTooLarge(
                f"{name}: {size:,} bytes is over the limit of {self.max_bytes:,}; "
                "use a smaller file or raise MediaLimits(max_bytes=...)."
            )

    def check_picture(self, name: str, width: int, height: int) -> None:
        """Raises `MediaTooLarge` when one frame of this size is over budget."""
        if width * height > self.max_pixels:
            raise MediaTooLarge(
                f"{name}: frames of {width}x{height} are over the limit of {self.max_pixels:,} pixels; "
                "scale the video down or raise MediaLimits(max_pixels=...)."
            )

    def check_duration(self, name: str, seconds: float) -> None:
        """Raises `MediaTooLarge` when the clip lasts too long."""
        if seconds > self.max_duration:
            raise MediaTooLarge(
                f"{name}: {seconds:.1f} s of video is over the limit of {self.max_duration:g} s; "
                "cut the file or raise MediaLimits(max_duration=...)."
            )

    def check_result(self, name: str, frames: int, width: int, height: int) -> None:
        """Raises `MediaTooLarge` when an array of (frames, height, width, 3) bytes is over budget."""
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
        """Raises `MediaTooLarge` when this much sound is over budget."""
        if seconds > self.max_audio_seconds:
            raise MediaTooLarge(
                f"{name}: the sound is longer than the limit of {self.max_audio_seconds:g} s; "
                "pass start/end or raise max_audio_seconds."
            )

    def check_samples(self, name: str, samples: int) -> None:
        """Raises `MediaTooLarge` when an array of so many samples, float32, is over budget."""
        size = samples * _BYTES_PER_SAMPLE
        if size > self.max_decoded_bytes:
            raise MediaTooLarge(
                f"{name}: {samples:,} samples of sound need {size:,} bytes, over the limit of "
                f"{self.max_decoded_bytes:,}; pass start/end, a lower sampling_rate, or raise "
                "MediaLimits(max_decoded_bytes=...)."
            )


def check_num_frames(num_frames: int | None) -> None:
    """Raises `ValueError` when this is no whole number, or no frame, or fewer, is asked for."""
    if num_frames is None:
        return
    if not isinstance(num_frames, Integral) or isinstance(num_frames, bool):
        raise ValueError(f"num_frames={num_frames!r}: give a whole number of frames.")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: at least one frame must be asked for.")


def check_interval(start: float | None, end: float | None, of: str = "video") -> None:
    """Raises `ValueError` when `start` or `end` are no seconds of the `of`, or `end` does not come after `start`."""
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (_is_number(value) and 0 <= value <= sys.float_info.max):
            raise ValueError(f"{name}={value!r}: give seconds since the start of the {of}, zero or more.")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end={end} is not after start={start or 0.0}; give an end after the start.")


def check_sampling_rate(sampling_rate: Any) -> int:
    """The rate as a whole number.

    Raises:
        ValueError: it is no number, not a whole one, or not between 1 and `MAX_SAMPLING_RATE`.
    """
    given = _is_number(sampling_rate) and 1 <= sampling_rate <= MAX_SAMPLING_RATE
    if not given or sampling_rate != int(sampling_rate):
        raise ValueError(
            f"sampling_rate={sampling_rate!r}: give samples per second, such as 16000; at most {MAX_SAMPLING_RATE:,}."
        )
    return int(sampling_rate)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_on_decode_error(on_decode_error: str) -> None:
    """Raises `ValueError` when the word is neither of the two."""
    if on_decode_error not in ("raise", "truncate"):
        raise ValueError(f'on_decode_error={on_decode_error!r} is unknown; use "raise" or "truncate".')


class Deadline:
    """The moment at which one call must be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; not below zero."""
        return max(0.0, self._end - time.monotonic())

    def check(self, name: str) -> None:
        """Raises `MediaTooLarge` when the time is up."""
        if time.monotonic() > self._end:
            raise MediaTooLarge(
                f"{name}: not done after {self.seconds:g} s; ask for a shorter part with start/end "
                "or raise MediaLimits(timeout=...)."
            )
