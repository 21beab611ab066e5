"""Sound on the clock of its file, the same as that of the pictures (`media_clock`)."""

from __future__ import annotations

from typing import Any

from .media_clock import LONGEST_PAUSE, container_start, early_start
from .media_pyav import best_stream, import_pyav, open_container
from .media_source import MediaHandle

_ROUNDING = 0.1  # seconds by which timestamps may differ from what the number of samples says
_FAR = 2**62  # ticks; numbers of FFmpeg end at 2**63


def file_start(handle: MediaHandle, container: Any) -> float:
    """Second 0 of a file by its container's clock, the same for its pictures."""
    start = container_start(container) or 0.0  # bare sound begins at 0
    if not container.format.name.startswith("matroska") or best_stream(container, "video") is None:
        return start
    with open_container(handle) as second:
        early = early_start(second, best_stream(second, "video"))
    return start if early is None else min(start, early)


def seek_before(container: Any, stream: Any, seconds: float) -> bool:
    """Moves to before a time, where the container knows its times; elsewhere (MP3) seeking is guesswork.

    Returns False where that failed, or led behind the time: then the container has to be opened again.
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
    """When each frame of sound is heard.

    Samples follow each other; small differences of the timestamps are rounding. Where the time steps forward there is a
    pause, where it steps back sound is there twice, unless the clock may be set anew.

    Args:
        resets: see `media_clock.may_reset`.
    """

    def __init__(self, resets: bool) -> None:
        self._resets = resets
        self._shift = 0.0
        self._next: float | None = None  # when the frame after the last one should begin

    def time_of(self, frame: Any) -> tuple[float, bool]:
        """Seconds by the container's clock, and whether the frame does not follow the one before it."""
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
