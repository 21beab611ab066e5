"""What a user may pass as sounds, and the sound of a video, as waveforms."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .audio_io import load_audio
from .feature_extraction_beats import BeatsFeatureExtractor, resample
from .media_errors import Deadline, MediaLimits, NoAudioStream, UnsupportedMedia
from .media_source import is_frames, open_media
from .video_io import probe_video

# How long a video of frames alone lasts is unknown.
UNKNOWN_SECONDS = 1.0


def flatten_sounds(sounds: Any) -> list[Any]:
    """A flat list of sounds from one sound or from lists of them, nested to any depth; `None` stands for no sound.

    A sound is a path, URL of an allowed host, bytes, file object, waveform `(samples,)` or `(channels, samples)`, or a
    dict with `array` and `sampling_rate`, or with `bytes` or `path`, as in HF datasets.
    """
    if sounds is None:
        return []
    if _is_list_of_numbers(sounds):
        return [np.asarray(sounds, dtype=np.float32)]
    if isinstance(sounds, list | tuple):
        return [sound for item in sounds for sound in flatten_sounds(item)]
    return [sounds]


def as_waveform(
    sound: Any, sampling_rate: int, target_rate: int, extractor: BeatsFeatureExtractor, **reading: Any
) -> np.ndarray:
    """One sound as floats `(samples,)` at `target_rate`.

    Args:
        sound: see `flatten_sounds`.
        sampling_rate: rate of a bare array, in Hz.
        target_rate: rate of the result, in Hz.
        extractor: feature extractor, which knows how several channels become one.
        reading: further arguments of `load_audio`.

    Raises:
        UnsupportedMedia: this is no sound.
        MediaError: the file cannot be read.
    """
    if isinstance(sound, dict):
        if sound.get("array") is not None:
            sound, sampling_rate = sound["array"], int(sound["sampling_rate"])
        elif sound.get("bytes") is not None:
            sound = sound["bytes"]
        elif sound.get("path") is not None:
            sound = sound["path"]
        else:
            raise UnsupportedMedia(
                f"Cannot read a sound from a dict with {sorted(sound)}: it needs 'array' and 'sampling_rate', 'bytes' "
                "or 'path'."
            )
    if isinstance(sound, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(sound, "read"):
        return load_audio(sound, sampling_rate=target_rate, **reading)
    if not hasattr(sound, "__array__"):
        raise UnsupportedMedia(
            f"Cannot read a sound from {type(sound).__name__}: pass a path, bytes, a file or a waveform."
        )
    wave = extractor.to_mono(sound)
    return wave if sampling_rate == target_rate else resample(wave, -(-len(wave) * target_rate // sampling_rate))


def sound_of_video(
    video: Any,
    sampling_rate: int,
    missing_audio: Literal["silence", "skip", "error"],
    **reading: Any,
) -> np.ndarray | None:
    """Sound track of a video, or what the policy puts in its place.

    Args:
        video: see `load_video`; frames have no sound.
        sampling_rate: of the result, in Hz.
        missing_audio: `"silence"` as long as the clip (a second where frames do not tell), `"skip"` (`None` is
            returned) or `"error"`.
        reading: further arguments of `load_audio`, such as `start` and `end`.

    Raises:
        NoAudioStream: there is no sound, and `missing_audio="error"`.
        MediaError: the file cannot be read.
    """
    try:
        if is_frames(video):
            raise NoAudioStream("<frames>: pictures carry no sound; pass the file that holds it.")
        return load_audio(video, sampling_rate=sampling_rate, **reading)
    except NoAudioStream as error:
        if missing_audio == "error":
            raise NoAudioStream(f'{error} missing_audio="silence" or "skip" goes on without sound.') from error
        if missing_audio == "skip":
            return None
    seconds = UNKNOWN_SECONDS if is_frames(video) else _clip_seconds(video, **reading)
    return np.zeros(max(1, round(seconds * sampling_rate)), dtype=np.float32)


def _clip_seconds(video: Any, start: float | None = None, end: float | None = None, **reading: Any) -> float:
    """Length of the clip from `start` to `end`."""
    duration = probe_video(video, **reading).duration or UNKNOWN_SECONDS
    return max(0.0, min(duration, end or duration) - (start or 0.0))


def in_16_bits(wave: np.ndarray) -> np.ndarray:
    """A waveform rounded to the steps of 16-bit sound, in which the original gets the sound of videos from FFmpeg.

    It cannot be heard, but where a mel bin is empty the logarithm makes much of it.
    """
    return (np.round(wave * 2**15) / 2**15).astype(np.float32)


def read_once(source: Any, limits: MediaLimits, allowed_hosts: Sequence[str]) -> Any:
    """The source in a form that can be read twice, for its pictures and for its sound, without a second download."""
    is_address = isinstance(source, str) and source.startswith(("http://", "https://"))
    is_one_way = hasattr(source, "read") and not (hasattr(source, "seekable") and source.seekable())
    if not (is_address or is_one_way):
        return source
    with (
        open_media(source, limits, allowed_hosts, Deadline(limits.timeout)) as handle,
        handle.reading() as stream,
    ):
        return stream.read()


def _is_list_of_numbers(sounds: Any) -> bool:
    return isinstance(sounds, list | tuple) and bool(sounds) and isinstance(sounds[0], int | float)


__all__ = ["as_waveform", "flatten_sounds", "in_16_bits", "read_once", "sound_of_video"]
