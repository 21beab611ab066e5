"""Times of audio frames, in seconds of the file: the same clock as that of the video frames (`media_clock`)."""

from __future__ import annotations

from typing import Any

from .media_clock import LONGEST_PAUSE, container_start, early_start
from .media_container import best_stream, import_pyav, open_container
from .media_source import MediaHandle

_ROUNDING = 0.1  # seconds by which a timestamp may differ from the time that follows from the number of samples
_FAR = 2**62  # upper bound for a number of ticks; FFmpeg's integers end at 2**63


def file_start(handle: MediaHandle, container: Any) -> float:
    """The container's timestamp, in seconds, at which the file begins (second 0 for audio and for video)."""
    start = container_start(container) or 0.0  # a file without a container (raw audio) begins at 0
    if not container.format.name.startswith("matroska") or best_stream(container, "video") is None:
        return start
    with open_container(handle) as second:
        early = early_start(second, best_stream(second, "video"))
    return start if early is None else min(start, early)


def seek_before(container: Any, stream: Any, seconds: float) -> bool:
    """Seeks to a position before `seconds`, if the format stores the times of its packets.

    For other formats (MP3) seeking is inexact; nothing is done, and the file is decoded from its beginning.

    Returns False if the seek failed or went past `seconds`. The caller must then open the container again.
    """
    if not container.format.name.startswith(("mov", "matroska", "wav", "flac")):
        return True
    seconds = max(container_start(container) or 0.0, seconds)
    ticks = round(min(seconds / float(stream.time_base), _FAR))
    try:
        container.seek(ticks, stream=stream, backward=True)
        packet = next(container.demux(stream), None)
        if packet is None or packet.pts is None or packet.pts > ticks + 1:
            return False
        container.seek(ticks, stream=stream, backward=True)
    except (import_pyav().FFmpegError, OSError):
        return False
    return True


class SoundClock:
    """Computes the start time of each audio frame.

    A frame normally starts where the last one ended; small differences of timestamps are rounding errors. A larger
    step forward is a pause. A larger step back means that two frames overlap. If `resets` is true, a step back or a
    very long step forward is a reset of the file's clock instead, and the frames follow each other without a gap.

    Args:
        resets: see `media_clock.may_reset`.
    """

    def __init__(self, resets: bool) -> None:
        self._resets = resets
        self._shift = 0.0  # seconds added to timestamps, to undo the resets so far
        self._next: float | None = None  # the end of the last frame, where the next one should begin

    def time_of(self, frame: Any) -> tuple[float, bool]:
        """The start of a frame in seconds of the container, and whether it does not follow the last frame directly."""
        expected = self._next
        time = (expected or 0.0) if frame.time is None else frame.time + self._shift
        step = 0.0 if expected is None else time - expected
        if self._resets and not -_ROUNDING <= step <= LONGEST_PAUSE:
            self._shift -= step
            time, step = time - step, 0.0
        is_gap = abs(step) > _ROUNDING
        begins = time if expected is None or is_gap else expected
        self._next = begins + frame.samples / frame.sample_rate
        return begins, is_gap
