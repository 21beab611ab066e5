"""The sound of a video or audio file as a mono waveform."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .media_errors import CorruptMedia, Deadline, MediaError, MediaLimits, NoAudioStream, UnsupportedMedia
from .media_source import is_frames, open_media
from .video_pyav import best_stream, file_start, import_pyav, open_container

_LEAD = 0.25  # seconds decoded before `start`: lossy codecs need a run-up to settle


def load_audio(
    source: Any,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    limits: MediaLimits = MediaLimits(),  # noqa: B008 (frozen)
    allowed_hosts: Sequence[str] = (),
) -> np.ndarray:
    """Decodes the sound of a file.

    Args:
        source: a path, `file://` or allowed http(s) address, data URL, bytes or binary file object.
        sampling_rate: of the result, in Hz.
        start, end: seconds since the start of the file, the same clock as in `load_video`.
        limits: `max_bytes`, `max_audio_seconds` and `timeout` apply.
        allowed_hosts: see `load_video`.

    Returns:
        float32 (samples,), the mean of all channels, in [-1, 1]. Sample i is heard i / sampling_rate seconds after
        `start`; where the sound begins later than the file, the gap is silence.

    Raises:
        NoAudioStream, UnsupportedMedia, CorruptMedia, MediaTooLarge, UnsafeURL, MediaNotFound; ValueError for a
        wrong argument.
    """
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate={sampling_rate}: give samples per second, such as 16000.")
    for argument, value in (("start", start), ("end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{argument}={value}: give seconds since the start of the file, zero or more.")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end={end} is not after start={start or 0.0}; swap them.")
    if is_frames(source):
        raise UnsupportedMedia("<frames>: pictures carry no sound; pass the file that holds it.")
    deadline = Deadline(limits.timeout)
    with open_media(source, limits, allowed_hosts, deadline) as handle, open_container(handle) as container:
        stream = best_stream(container, "audio")
        if stream is None:
            raise NoAudioStream(f"{handle.name}: there is no sound in this file; use a file with sound or go without.")
        return _decode(container, stream, handle.name, sampling_rate, start or 0.0, end, limits, deadline)


def _decode(
    container: Any,
    stream: Any,
    name: str,
    sampling_rate: int,
    start: float,
    end: float | None,
    limits: MediaLimits,
    deadline: Deadline,
) -> np.ndarray:
    """Resampled sound between two times; see `load_audio`."""
    parts: list[np.ndarray] = []
    wanted = None if end is None else round((end - start) * sampling_rate)
    zero = file_start(container, math.inf)
    zero = 0.0 if math.isinf(zero) else zero
    if start > 0:
        _seek(container, stream, zero + start - _LEAD)
    collected = 0
    offset: int | None = None  # sample number, counted from `start`, of the next sample to come
    for time, chunk in _resampled(container, stream, name, sampling_rate, deadline):
        if offset is None:
            offset = round((time - zero - start) * sampling_rate)
            if offset > 0:
                limits.check_audio(name, offset / sampling_rate)
                gap = offset if wanted is None else min(offset, wanted)
                parts.append(np.zeros(gap, dtype=np.float32))
                collected = gap
        if offset < 0:
            drop = min(-offset, len(chunk))
            chunk, offset = chunk[drop:], offset + drop
        if wanted is not None:
            chunk = chunk[: wanted - collected]
        parts.append(chunk)
        collected += len(chunk)
        limits.check_audio(name, collected / sampling_rate)
        if wanted is not None and collected >= wanted:
            break
    if offset is None and start <= 0:
        raise CorruptMedia(f"{name}: the sound cannot be decoded; download or export the file again.")
    if not collected:
        raise MediaError(f"{name}: there is no sound after start={start:g} s; choose an earlier start.")
    return np.clip(np.concatenate(parts), -1.0, 1.0)


def _seek(container: Any, stream: Any, seconds: float) -> None:
    av = import_pyav()
    try:
        container.seek(max(0, round(seconds / float(stream.time_base))), stream=stream, backward=True)
    except (av.FFmpegError, OSError):
        container.seek(0)  # decoding from the beginning is slower and as right


def _resampled(
    container: Any, stream: Any, name: str, sampling_rate: int, deadline: Deadline
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time in seconds of the frame that led to the chunk, float32 mono samples)."""
    av = import_pyav()
    resampler: Any = None
    layout = None
    damaged = CorruptMedia(f"{name}: the sound is damaged; download or export the file again.")
    time = 0.0
    try:
        for frame in container.decode(stream):
            deadline.check(name)
            time = frame.time if frame.time is not None else time
            if frame.format.name != "dummy" and (frame.layout.name, frame.sample_rate, frame.format.name) != layout:
                # Channels are kept apart: FFmpeg's own downmix of floats can exceed 1.
                if resampler is not None:
                    yield from ((time, _mono(out)) for out in resampler.resample(None))
                layout = (frame.layout.name, frame.sample_rate, frame.format.name)
                resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=sampling_rate)
            frame.pts = None  # gaps in the timestamps are not for the resampler to fill
            for out in resampler.resample(frame):
                yield time, _mono(out)
        if resampler is not None:
            for out in resampler.resample(None):
                yield time, _mono(out)
    except (av.FFmpegError, OSError):
        raise damaged from None


def _mono(frame: Any) -> np.ndarray:
    return frame.to_ndarray().mean(axis=0, dtype=np.float32)
