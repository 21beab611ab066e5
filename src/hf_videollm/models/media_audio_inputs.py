"""Turns every form of audio that a user may pass, and the audio track of a video, into a waveform."""

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np

from .errors import (
    CorruptMedia,
    Deadline,
    MediaLimits,
    NoAudioStream,
    UnsupportedMedia,
    check_interval,
    check_sampling_rate,
)
from .feature_extraction_beats import BeatsFeatureExtractor, resample
from .media_dataset_columns import is_column, without_decoding
from .media_reading import read_sound
from .media_source import is_frames, is_seekable, is_web_address, open_media, source_name, stored_media
from .media_video import probe_video
from .video_llm_option_names import refuse_unknown

# Keys of the dicts that an `Audio` column of `datasets` holds.
SOUND_KEYS = ("array", "sampling_rate", "bytes", "path")
# Length of the silence for a video whose duration is not known (a list of frames).
UNKNOWN_SECONDS = 1.0


def flatten_sounds(sounds: Any) -> list[Any]:
    """A flat list of audios from one audio, or from lists of audios nested to any depth; `None` means no audio.

    An audio is a path, URL of an allowed host, bytes, file object, waveform `(samples,)` or `(channels, samples)`, or
    an entry of an `Audio` column of `datasets`: a decoder, or a dict with `array` and `sampling_rate`, `bytes` or
    `path`.

    Raises:
        UnsupportedMedia: a pair of a sampling rate and samples, which must be passed as a dict.
    """
    if is_column(sounds):
        sounds = list(without_decoding(sounds))
    if sounds is None:
        return []
    if isinstance(sounds, tuple) and len(sounds) == 2 and sum(map(_is_number, sounds)) == 1:
        raise UnsupportedMedia(
            "Cannot read a sound from a pair of rate and samples: pass {'array': samples, 'sampling_rate': rate}."
        )
    if isinstance(sounds, list | tuple) and sounds and all(map(_is_number, sounds)):
        return [np.asarray(sounds)]
    if isinstance(sounds, list | tuple):
        return [sound for item in sounds for sound in flatten_sounds(item)]
    return [sounds]


def as_waveform(
    sound: Any,
    sampling_rate: int,
    extractor: BeatsFeatureExtractor,
    start: float | None = None,
    end: float | None = None,
    **reading: Any,
) -> np.ndarray:
    """One audio as floats `(samples,)` at the extractor's rate.

    Args:
        sound: one audio in any form of `flatten_sounds`.
        sampling_rate: sampling rate of `sound` in Hz, if `sound` is an array without a rate.
        extractor: the feature extractor; its `channel` says how several channels become one.
        start, end: seconds since the beginning of the audio.
        reading: further arguments of `load_audio`.

    Raises:
        TypeError: a dict has keys that `datasets` does not use. (`start` and `end` are arguments, not keys.)
        UnsupportedMedia: `sound` is not audio, or an array of a type that `BeatsFeatureExtractor` refuses.
        ValueError: the array is empty or has NaN or infinity, or `sampling_rate` is out of range or was passed for a
            file, which has its own.
        MediaError: the file cannot be read, or is over a limit.
    """
    if isinstance(sound, dict):
        keys = {name: value for name, value in sound.items() if value is not None}
        refuse_unknown(keys, SOUND_KEYS, "A dict of one sound", elsewhere=("audio_options",))
    sound = stored_media(sound)
    if hasattr(sound, "get_all_samples"):  # a torchcodec decoder that does not know its file
        try:
            samples = sound.get_all_samples()
        except RuntimeError:
            raise CorruptMedia("<decoder>: the sound cannot be decoded; pass the name of its file.") from None
        sound = {"array": samples.data.cpu().numpy(), "sampling_rate": samples.sample_rate}
    if isinstance(sound, dict):
        if sound.get("sampling_rate") is not None and sound.get("array") is None:
            refuse_rate_of_file(sound.get("path") or sound.get("bytes"))
        if sound.get("array") is not None:
            if sound.get("sampling_rate") is None:
                raise UnsupportedMedia("Cannot read a sound from a dict with 'array' alone: add its 'sampling_rate'.")
            sound, sampling_rate = np.asarray(sound["array"]), sound["sampling_rate"]
        elif sound.get("bytes") is not None:
            sound = sound["bytes"]
        elif sound.get("path") is not None:
            sound = sound["path"]
        else:
            raise UnsupportedMedia(
                f"Cannot read a sound from a dict with {sorted(sound)}: it needs 'array' and 'sampling_rate', 'bytes' "
                "or 'path'."
            )
    rate = extractor.sampling_rate
    if isinstance(sound, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(sound, "read"):
        return read_sound(sound, sampling_rate=rate, start=start, end=end, channel=extractor.channel, **reading)
    if not hasattr(sound, "__array__"):
        raise UnsupportedMedia(
            f"Cannot read a sound from {type(sound).__name__}: pass a path, bytes, a file or a waveform."
        )
    given_rate = check_sampling_rate(sampling_rate)
    check_interval(start, end, of="sound")
    wave = extractor.to_mono(sound)
    first, last = (None if time is None else round(min(time * given_rate, len(wave))) for time in (start, end))
    # Even the shortest interval returns one sample.
    wave = wave[first : None if last is None else max(last, (first or 0) + 1)]
    if not len(wave):
        raise NoAudioStream(f"<samples>: there is no sound after start={start} s; choose an earlier start.")
    limits = reading.get("limits") or MediaLimits()
    num_samples = -(-len(wave) * rate // given_rate)
    limits.check_audio("<samples>", len(wave) / given_rate)
    limits.check_samples("<samples>", num_samples)
    return wave if given_rate == rate else resample(wave, num_samples)


def refuse_rate_of_file(sound: Any) -> None:
    """Always raises `ValueError`: `sampling_rate` was passed with a file, which stores its own rate."""
    raise ValueError(
        f"{source_name(sound)}: sampling_rate is that of bare samples, and a file stores its own rate: leave it out."
    )


def sound_of_video(
    video: Any,
    sampling_rate: int,
    missing_audio: Literal["silence", "skip", "error"],
    channel: Literal["mean", "first"] = "mean",
    **reading: Any,
) -> np.ndarray | None:
    """The audio track of a video as a waveform `(samples,)`; `missing_audio` decides about a video without audio.

    Args:
        video: see `load_video`; a list of frames has no audio.
        sampling_rate: sampling rate of the result, in Hz.
        missing_audio: for a video without audio: `"silence"` returns zeros for the length of the clip (one second if
            that is not known), `"skip"` returns `None`, `"error"` raises.
        channel: how several channels become one.
        reading: further arguments of `load_audio`, such as `start` and `end`.

    Raises:
        NoAudioStream: the video has no audio, and `missing_audio="error"`.
        MediaError: the file cannot be read.
    """
    try:
        if is_frames(video):
            raise NoAudioStream("<frames>: pictures carry no sound; pass the file that holds it.")
        return read_sound(video, sampling_rate=sampling_rate, channel=channel, **reading)
    except NoAudioStream as error:
        if missing_audio == "error":
            raise NoAudioStream(
                f'{error} Or use missing_audio="silence" or missing_audio="skip", to go on without sound.'
            ) from error
        if missing_audio == "skip":
            return None
    seconds = UNKNOWN_SECONDS if is_frames(video) else _clip_seconds(video, **reading)
    return np.zeros(max(1, round(seconds * sampling_rate)), dtype=np.float32)


def _clip_seconds(video: Any, start: float | None = None, end: float | None = None, **reading: Any) -> float:
    """Length in seconds of the part of the video between `start` and `end`."""
    metadata = probe_video(video, **reading)
    times = getattr(metadata, "frame_times", None)
    ends = (metadata.duration or UNKNOWN_SECONDS) + (0.0 if times is None else float(times[0]))
    return max(0.0, min(ends, end or ends) - (start or 0.0))


def in_16_bits(wave: np.ndarray) -> np.ndarray:
    """A waveform rounded to 16-bit steps, because the original VideoLLaMA2 reads the audio of videos in 16 bits.

    Nobody can hear the difference, but it changes the features: where a mel bin is nearly empty, the logarithm of its
    energy depends strongly on the rounding.
    """
    return (np.round(wave * 2**15) / 2**15).astype(np.float32)


def read_once(source: Any, limits: MediaLimits, allowed_hosts: Sequence[str]) -> Any:
    """The source in a form that can be read twice (frames, then audio): downloads and pipes are read into bytes."""
    is_one_way = hasattr(source, "read") and not is_seekable(source)
    if not (is_web_address(source) or is_one_way):
        return source
    with (
        open_media(source, limits, allowed_hosts, Deadline(limits.timeout)) as handle,
        handle.reading() as stream,
    ):
        return stream.read()


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


__all__ = [
    "as_waveform",
    "check_sampling_rate",
    "flatten_sounds",
    "in_16_bits",
    "read_once",
    "refuse_rate_of_file",
    "sound_of_video",
]
