"""Reads the audio of a video or audio file as a mono waveform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from .errors import (
    MAX_SAMPLING_RATE,
    CorruptMedia,
    Deadline,
    MediaLimits,
    NoAudioStream,
    UnsupportedMedia,
    check_interval,
    check_on_decode_error,
    check_sampling_rate,
    warn_caller,
)
from .media_addresses import host_names
from .media_audio_clock import SoundClock, file_start, seek_before
from .media_audio_mix import MonoMixer
from .media_clock import may_reset
from .media_container import best_stream, import_pyav, open_container
from .media_source import is_cut_short, is_frames, open_media
from .video_llm_option_names import names_options

_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # first bytes of the metadata blocks of MP3 files
_LEAD = 0.25  # seconds that are decoded before `start`: the first output of a lossy codec after a seek is inaccurate
_MAX_CHANNELS = 64  # FFmpeg's resampler accepts no more
_FAR = 2**62  # upper bound for a count of samples or ticks; FFmpeg's integers end at 2**63


@names_options
def load_audio(
    source: Any,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    limits: MediaLimits = MediaLimits(),  # noqa: B008 (frozen)
    allowed_hosts: Sequence[str] = (),
    on_decode_error: Literal["raise", "truncate"] = "raise",
    channel: Literal["mean", "first"] = "mean",
) -> np.ndarray:
    """Decodes the audio of a file.

    Args:
        source: a path, `file://` or allowed http(s) address, data URL, bytes or binary file object.
        sampling_rate: sampling rate of the result, in Hz.
        start: time at which the result starts, in seconds from the start of the file as in `load_video`.
        end: time at which the result ends, in seconds from the start of the file.
        limits: `max_bytes`, `max_audio_seconds`, `max_decoded_bytes` and `timeout` apply.
        allowed_hosts: see `load_video`.
        on_decode_error: "raise", or "truncate": warn and return the audio that comes before the damage.
        channel: "mean" averages all channels, "first" takes only the first (left) one. Files may have 1 to 64 channels.

    Returns:
        float32 (samples,), in [-1, 1]. Sample i is the sound at i / sampling_rate seconds after `start`, exact to half
        a sample. If the audio track begins later than the file, zeros fill the gap.

    Raises:
        NoAudioStream: the file has no sound.
        UnsupportedMedia: the source is not audio that can be decoded.
        CorruptMedia: the file is damaged, or has samples that are NaN or infinite.
        MediaTooLarge: a limit is exceeded.
        UnsafeURL: the address is not allowed.
        MediaNotFound: there is no such file.
        ValueError: an argument is wrong.
    """
    sampling_rate = check_sampling_rate(sampling_rate)
    check_interval(start, end, of="file")
    if is_frames(source):
        raise UnsupportedMedia("<frames>: pictures carry no sound; pass the file that holds it.")
    check_on_decode_error(on_decode_error)
    allowed_hosts = sorted(host_names(allowed_hosts))
    if channel not in ("mean", "first"):
        raise ValueError(f'channel={channel!r} is unknown; use "mean" or "first".')
    deadline = Deadline(limits.timeout)
    with open_media(source, limits, allowed_hosts, deadline) as handle:
        name, cut_short = handle.name, is_cut_short(handle)
        with open_container(handle) as container, ExitStack() as reopened:
            stream = best_stream(container, "audio")
            if stream is None:
                if best_stream(container, "video") is None:
                    raise UnsupportedMedia(f"{name}: there are neither pictures nor sound in it; use another file.")
                raise NoAudioStream(f"{name}: there is no sound in this file; use a file that has sound.")
            if cut_short and on_decode_error == "raise":
                raise _damaged(name)
            zero = file_start(handle, container) + (start or 0.0)
            if start and not seek_before(container, stream, zero - _LEAD):
                container = reopened.enter_context(open_container(handle))
                stream = best_stream(container, "audio")
            chunks = _resampled(container, stream, name, sampling_rate, zero - _LEAD, limits, deadline, channel)
            # Even the shortest interval returns one sample.
            length = None if end is None else max(1, round(min((end - (start or 0.0)) * sampling_rate, _FAR)))
            wave, complete = _collect(chunks, name, sampling_rate, zero, length, limits)
            if len(wave) == 0 and not start and best_stream(container, "video") is None:
                # FFmpeg silently skips bytes that are not packets. If the stream has a duration but gave no samples,
                # the file is damaged. (In a video file the duration may be that of the pictures, so it proves nothing.)
                complete = complete and not stream.duration
    if not complete and on_decode_error == "raise":
        raise _damaged(name)
    if len(wave) == 0:
        if complete and not cut_short:
            if start:
                raise NoAudioStream(f"{name}: there is no sound after start={start:g} s; choose an earlier start.")
            raise NoAudioStream(f"{name}: its track of sound is empty; use a file that has sound.")
        raise CorruptMedia(f"{name}: the sound cannot be decoded; download or export the file again.")
    if cut_short or not complete:
        warn_caller(f"{name}: the sound is damaged; {len(wave) / sampling_rate:.2f} s are returned.")
    return np.clip(wave, -1.0, 1.0, out=wave)


def _damaged(name: str) -> CorruptMedia:
    return CorruptMedia(
        f"{name}: the sound ends too early, is damaged, or holds NaN or infinity; download or export the file again, "
        'or pass on_decode_error="truncate" to use what can be read.'
    )


def _collect(
    chunks: Iterator[tuple[float, np.ndarray] | None],
    name: str,
    sampling_rate: int,
    begin: float,
    length: int | None,
    limits: MediaLimits,
) -> tuple[np.ndarray, bool]:
    """Joins timed chunks into one waveform that starts at `begin` (seconds of the file), with zeros in the gaps.

    Returns float32 (samples,), at most `length` of them, and whether the audio was read without damage.
    """
    parts: list[np.ndarray] = []
    collected = 0
    piece_start: float | None = None  # start time of the current piece, a run of chunks without a gap
    position = 0  # index of the next chunk's first sample, counted from `begin`
    for item in chunks:
        if item is None:
            return np.concatenate([np.zeros(0, np.float32), *parts]), False
        time, chunk = item
        if time != piece_start:
            piece_start, position = time, round((time - begin) * sampling_rate)
            silence = max(0, (position if length is None else min(position, length)) - collected)
            limits.check_audio(name, (collected + silence) / sampling_rate)
            limits.check_samples(name, collected + silence)
            parts.append(np.zeros(silence, dtype=np.float32))
            collected += silence
        skip = max(0, collected - position)  # samples that lie before `begin`, or that were collected already
        position += len(chunk)
        chunk = chunk[skip:]
        if length is not None:
            chunk = chunk[: length - collected]
        finite = np.isfinite(chunk)
        if not finite.all():
            return np.concatenate([np.zeros(0, np.float32), *parts, chunk[: int(finite.argmin())]]), False
        if len(chunk):
            parts.append(chunk)
        collected += len(chunk)
        limits.check_audio(name, collected / sampling_rate)
        limits.check_samples(name, collected)
        if length is not None and collected >= length:
            break
    return np.concatenate([np.zeros(0, np.float32), *parts]), True


def _resampled(
    container: Any,
    stream: Any,
    name: str,
    sampling_rate: int,
    earliest: float,
    limits: MediaLimits,
    deadline: Deadline,
    channel: str,
) -> Iterator[tuple[float, np.ndarray] | None]:
    """Yields (start time in seconds, float32 mono samples), and None when it meets damage.

    A piece is a run of chunks without a gap; each chunk comes with the start time of its piece. Frames that end before
    the time `earliest` are decoded and dropped.
    """
    av = import_pyav()
    _replace_custom_layout(stream)
    mixer: MonoMixer | None = None
    form: tuple[str, int, str] | None = None
    checked = 0  # samples of the largest frame of this form that was checked
    origin: float | None = None  # start time of the current piece
    clock = SoundClock(may_reset(container))
    has_output = False
    try:
        for frame in _frames(container, stream):
            deadline.check(name)
            frame_form = (frame.layout.name, frame.sample_rate, frame.format.name)
            if frame_form != form or frame.samples > checked:
                _check_frame(frame, name, sampling_rate, limits)
                checked = frame.samples
            time, is_gap = clock.time_of(frame)
            if origin is None and time + frame.samples / frame.sample_rate < earliest:
                continue
            if mixer is None or frame_form != form or is_gap:
                if mixer is not None and origin is not None:
                    for chunk in mixer.end():
                        has_output = True
                        yield origin, chunk
                form, mixer = frame_form, MonoMixer(frame, sampling_rate, channel)
            origin = time if origin is None or is_gap else origin
            frame.pts = None  # without timestamps FFmpeg does not fill gaps; `_collect` does
            mixer.add(frame)
            if mixer.is_full:
                for chunk in mixer.pending():
                    has_output = True
                    yield origin, chunk
        if mixer is not None and origin is not None:
            for chunk in mixer.end():
                has_output = True
                yield origin, chunk
            if not has_output:
                yield origin, mixer.short_sound()
    except (av.FFmpegError, OSError):
        if mixer is not None and origin is not None:
            for chunk in mixer.pending():
                yield origin, chunk
        yield None


def _replace_custom_layout(stream: Any) -> None:
    """Gives the decoder a channel layout that PyAV can handle. The samples and their order do not change.

    FFmpeg stores a custom order of channels (CAF, MOV and AIFF files may have one) in memory of its own. PyAV copies
    only the pointer to this memory, but frees the memory with each copy, so the process ends with "double free".

    This function reads the layout once, which is safe because the decoder gets a new layout before the copy is freed.
    The name of a layout does not always tell whether its order is custom, so every layout is replaced: by one of the
    same name if that is a standard name, else by the number of channels.
    """
    context = stream.codec_context
    layout = context.layout
    is_standard = not set("(+") & set(layout.name)
    if layout.nb_channels:
        context.layout = layout.name if is_standard else f"{layout.nb_channels} channels"


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yields decoded audio frames; ignores packets that cannot be decoded if they are harmless.

    These packets are harmless: those before the first good frame (a file that was cut may begin in the middle of a
    frame), and metadata tags between frames (in files that were joined). Other decoding errors are raised.
    """
    av = import_pyav()
    has_frames, failed = False, None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if not bytes(packet).startswith(_TAGS):
                if has_frames:
                    raise
                failed = error
            continue
        has_frames = has_frames or bool(frames)
        yield from frames
    if failed is not None and not has_frames:
        # The track has packets but none could be decoded, so the file is damaged. (An empty track has no packets.)
        raise failed


def _check_frame(frame: Any, name: str, sampling_rate: int, limits: MediaLimits) -> None:
    """Refuses a frame that the resampler cannot convert, or could convert only with too much memory.

    Raises:
        UnsupportedMedia: too many channels, or an impossible sampling rate.
        MediaTooLarge: the resampled frame would be over the limit.
    """
    channels, rate = frame.layout.nb_channels, frame.sample_rate
    if channels > _MAX_CHANNELS:
        raise UnsupportedMedia(f"{name}: the sound has {channels} channels; at most {_MAX_CHANNELS} can be read.")
    if not 1 <= rate <= MAX_SAMPLING_RATE:
        raise UnsupportedMedia(
            f"{name}: the sound has a sampling rate of {rate:,} Hz; rates from 1 to {MAX_SAMPLING_RATE:,} can be read."
        )
    limits.check_samples(name, -(-frame.samples * sampling_rate // rate) * channels)
