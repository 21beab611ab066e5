"""Defines second 0 of a file, and computes the time of each of its video frames.

Second 0 is the start of the earliest track, video or audio. Players show this moment as 0:00, and `ffmpeg -ss` counts
from it. Containers may start at any timestamp (the time of day of a camera, a negative number, the delay of an
encoder). This file subtracts the earliest start from all times, so the delay between two tracks does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .media_packets import NO_TIME

# Formats whose timestamps may restart in the middle: joined recordings, or counters that overflow.
_RESETTABLE = ("mpegts", "mpeg")
# In these formats, a step of more seconds than this is a restart of the timestamps, not a pause. FFmpeg uses the same
# limit.
LONGEST_PAUSE = 10.0
_FEW_PACKETS = 64  # how many packets `early_start` reads at most


def may_reset(container: Any) -> bool:
    """Whether timestamps in a container of this format may jump although no frames are missing."""
    return container.format.name in _RESETTABLE


def container_start(container: Any) -> float | None:
    """The first timestamp, in seconds, of an opened `av` container; None for a raw stream without a container."""
    # FFmpeg gives it in microseconds.
    return None if container.start_time is None else container.start_time / 1_000_000


def early_start(container: Any, stream: Any) -> float | None:
    """Estimates when a video stream begins if its first frames have no times.

    FFmpeg drops negative timestamps of Matroska files, so such frames exist. This reads the first packets of the
    container. Returns the start in seconds of the container, or None if the first packet has a time.
    """
    times: list[int] = []
    for packet in container.demux(stream):
        if packet.size:
            times.append(NO_TIME if packet.pts is None else packet.pts)
        if len(times) == _FEW_PACKETS or (times and times[0] != NO_TIME):
            break
    unknown = next((i for i, time in enumerate(times) if time != NO_TIME), 0)
    if unknown == 0:
        return None
    known = sorted(time for time in times[unknown:] if time != NO_TIME)
    tick = float(stream.time_base)
    rate = stream.guessed_rate or stream.average_rate
    step = usual_step(np.array(known) * tick) or (1 / float(rate) if rate else 0.0)
    return known[0] * tick - unknown * step


def usual_step(times: np.ndarray) -> float | None:
    """The median time in seconds between two successive frames; None if there are fewer than two."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


def frame_times(pts: Sequence[int], tick: float, step: float, resets: bool) -> np.ndarray:
    """The time of each frame in seconds of the container, ascending.

    Args:
        pts: timestamps in ticks, in the order in which the frames are shown; `NO_TIME` for a frame without one.
        tick: length of a tick in seconds.
        step: seconds between two frames; used for frames without a timestamp, and where the timestamps restart.
        resets: whether the timestamps may restart, see `may_reset`.
    """
    ticks = np.asarray(pts, dtype=np.int64)
    known = ticks != NO_TIME
    if not known.any():
        return np.arange(len(ticks)) * step
    seconds = np.where(known, ticks, 0) * tick
    first = int(np.argmax(known))
    seconds[:first] = seconds[first] - step * np.arange(first, 0, -1)
    for index in np.flatnonzero(~known[first:]) + first:
        seconds[index] = seconds[index - 1] + step
    steps = np.diff(seconds)
    jumps = (steps <= 0) | (steps > LONGEST_PAUSE) if resets else steps < 0
    if not jumps.any():
        return seconds
    steps[jumps] = step
    return seconds[0] + np.concatenate([[0.0], np.cumsum(steps)])
