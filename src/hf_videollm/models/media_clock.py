"""What second 0 of a file is, and the time of each of its frames.

Second 0 is the moment at which the file begins: where the earliest of its tracks does, pictures or sound. Players show
it as 0:00, and `ffmpeg -ss` counts from it. A camera's clock, a negative timestamp or the delay of an encoder moves all
tracks alike, so it does not move them here; a track that begins later than another one does so here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .media_packets import NO_TIME

# Formats whose clock may be set anew in the middle: recordings joined end to end, clocks that wrap.
_RESETTABLE = ("mpegts", "mpeg")
# A longer step of such a clock is no pause. FFmpeg draws the line there too.
LONGEST_PAUSE = 10.0
_FEW_PACKETS = 64


def may_reset(container: Any) -> bool:
    """Whether the clock of this format may jump though nothing is missing."""
    return container.format.name in _RESETTABLE


def container_start(container: Any) -> float | None:
    """The time in seconds, by its own clock, at which an opened `av` container begins; None for a bare stream."""
    # FFmpeg counts it in microseconds.
    return None if container.start_time is None else container.start_time / 1_000_000


def early_start(container: Any, stream: Any) -> float | None:
    """When a video stream begins whose first frames have no times, as FFmpeg drops negative ones of Matroska.

    Reads the first packets of the container. None where the first packet has a time.
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
    """The median of the seconds between two frames; None where there are no two."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


def frame_times(pts: Sequence[int], tick: float, step: float, resets: bool) -> np.ndarray:
    """Seconds of the frames by the container's clock, ascending.

    Args:
        pts: times in ticks, in the order of showing; `NO_TIME` where a frame has none.
        tick: seconds of one.
        step: seconds between two frames, for those without a time and where the clock was set anew.
        resets: whether the clock may be set anew, see `may_reset`.
    """
    ticks = np.asarray(pts, dtype=np.int64)
    known = ticks != NO_TIME
    if not known.any():
        return np.arange(len(ticks)) * step
    seconds = np.where(known, ticks, 0) * tick
    first = int(np.argmax(known))
    seconds[:first] = seconds[first] - step * np.arange(first, 0, -1)
    for place in np.flatnonzero(~known[first:]) + first:
        seconds[place] = seconds[place - 1] + step
    steps = np.diff(seconds)
    jumps = (steps <= 0) | (steps > LONGEST_PAUSE) if resets else steps < 0
    if not jumps.any():
        return seconds
    steps[jumps] = step
    return seconds[0] + np.concatenate([[0.0], np.cumsum(steps)])
