"""Reads the audio for one call of VideoLLaMA2-AV's processor, and cuts it to the part that the model hears.

audio without a video -> cut to [start, end) -> one waveform (samples,) at the feature extractor's rate
audio of a video      -> cut to [start, end) -> eight clips of two seconds, spread over it, or one waveform
block of a message    -> a waveform replaces its audio file, which is read with the options in the same block
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from .errors import check_interval
from .media_audio_inputs import as_waveform, flatten_sounds, in_16_bits, refuse_rate_of_file, sound_of_video
from .media_audio_windows import take_clips
from .media_source import source_name
from .video_llm_checked_processor import in_rows
from .video_llm_messages import source_of
from .video_llm_option_names import refuse_unknown

MISSING_AUDIO = ("silence", "skip", "error")
AUDIO_SAMPLING = ("clips", "contiguous")
# Options that each audio without a video may have (in a message, or in `audio_options`).
SOUND_OPTIONS = ("start", "end", "sampling_rate")


class SoundReader:
    """Reads the audio of one call of the processor.

    Args:
        options: the options of the call, with the names in `VideoLlama2AVAudioKwargs`, filled up with the defaults of
            the processor; also `start`, `end`, `on_decode_error`, `allowed_hosts`, `limits`, `video_options`.
        feature_extractor: a `BeatsFeatureExtractor`.
        video_processor: the one that reads the frames of the same videos.
        patch_size: side of the audio encoder's patches, in frames of the spectrogram. Shorter audio is refused.
    """

    def __init__(
        self, options: Mapping[str, Any], feature_extractor: Any, video_processor: Any, patch_size: int
    ) -> None:
        self.options = options
        self.feature_extractor = feature_extractor
        self.video_processor = video_processor
        self.patch_size = patch_size

    def read_sounds(self, audio: Any, text: Any) -> list[np.ndarray]:
        """Read the audio that belongs to no video: waveforms `(samples,)`, in prompt order.

        Args:
            audio: the argument `audio` of the call: one audio, a list, or one list per prompt.
            text: the prompts.

        Raises:
            ValueError: `audio_options` does not fit the audio, or an audio is shorter than a patch.
            MediaError: a file cannot be read.
        """
        num_rows = None if text is None else 1 if isinstance(text, str) else len(text)
        sounds = flatten_sounds(in_rows(audio, num_rows, _is_one_sound, "audio"))
        entries = self.options["audio_options"]
        entries = [None] * len(sounds) if entries is None else list(entries)
        if len(entries) != len(sounds):
            raise ValueError(f"audio_options has {len(entries)} entries for {len(sounds)} sounds: pass one per sound.")
        for index, own in enumerate(entries):
            refuse_unknown(own or {}, SOUND_OPTIONS, f"audio_options[{index}]")
        return [self.read_sound(sound, own or {}) for sound, own in zip(sounds, entries, strict=True)]

    def read_sound(self, sound: Any, own: Mapping[str, Any]) -> np.ndarray:
        """Read one audio that belongs to no video, `(samples,)`. The options in `own` replace those of the call."""
        if own.get("sampling_rate") is not None and not hasattr(sound, "__array__"):
            refuse_rate_of_file(sound)
        options = {**self.options, **own}
        cut = self._cut(options, whole=options["audio_window"] != "start")
        wave = as_waveform(sound, options["sampling_rate"], self.feature_extractor, **cut, **self._reading())
        return self._checked(wave, sound, options["start"])

    def read_tracks(self, videos: Sequence[Any]) -> list[np.ndarray | None]:
        """Read the audio of each video, `(samples,)`, cut to the part that the model hears; `None` if it hears none.

        Raises:
            ValueError: `video_audio` does not fit the videos, or an audio is shorter than a patch.
            NoAudioStream: a video has no audio, and `missing_audio="error"`.
            MediaError: a file cannot be read.
        """
        replaced = self.options["video_audio"]
        if not self.options["use_audio_in_video"]:
            if replaced is not None:
                raise ValueError("video_audio is never heard with use_audio_in_video=False: leave one of them out.")
            return [None] * len(videos)
        if replaced is not None and len(replaced) != len(videos):
            raise ValueError(f"video_audio has {len(replaced)} entries for {len(videos)} videos: pass one per video.")
        clips = self.video_processor.options_of_each(self.options["video_options"], len(videos), self.options)
        sources = videos if replaced is None else replaced
        return [
            self._read_track(source, clip, replaced is not None) for source, clip in zip(sources, clips, strict=True)
        ]

    def _read_track(self, source: Any, clip: Mapping[str, Any], is_replaced: bool) -> np.ndarray | None:
        """Read the audio of one video. `source` is the video or, if `is_replaced`, an audio that replaces its own."""
        in_clips = self.options["audio_sampling"] == "clips"
        rate = self.feature_extractor.sampling_rate
        cut = self._cut(clip, whole=in_clips or self.options["audio_window"] != "start")
        track: np.ndarray | None
        if is_replaced and (isinstance(source, dict) or hasattr(source, "__array__")):
            track = as_waveform(source, rate, self.feature_extractor, **self._reading(), **cut)
        else:
            options = {**self._reading(), **cut, "channel": self.feature_extractor.channel}
            # If there is no source, an empty list of frames is passed, which is a video without audio.
            track = sound_of_video([] if source is None else source, rate, self.options["missing_audio"], **options)
        if track is None:
            return None
        track = take_clips(track, rate, divisor=self.options["audio_clip_divisor"]) if in_clips else track
        return self._checked(in_16_bits(track), source, clip["start"])

    def _reading(self) -> dict[str, Any]:
        """Options for the functions that read files."""
        options = {name: self.options[name] for name in ("limits", "allowed_hosts")}
        return {**options, "on_decode_error": self.options["on_decode_error"] or self.video_processor.on_decode_error}

    def _cut(self, options: Mapping[str, Any], whole: bool) -> dict[str, float | None]:
        """The part of a file to decode: [start, end) if `whole`, otherwise at most its first `max_seconds`."""
        start, end = options["start"], options["end"]
        check_interval(start, end)
        return {"start": start, "end": end if whole else _earlier(end, start, self.feature_extractor.max_seconds)}

    def _checked(self, wave: np.ndarray, source: Any, start: float | None) -> np.ndarray:
        """Return the waveform, or raise an error if it is shorter than a patch.

        The feature extractor also checks this, but its error cannot name the file.
        """
        extractor = self.feature_extractor
        if not self.options["pad_with_silence"] and extractor.num_frames(len(wave)) < self.patch_size:
            begin = f" from start={start:g} s on" if start else ""
            raise ValueError(
                f"{source_name(source)}: {len(wave) / extractor.sampling_rate:.3f} s of sound{begin} are "
                f"shorter than one patch of the audio encoder; take {'an earlier start' if begin else 'more of it'}, "
                "or pad_with_silence=True."
            )
        return wave


def check_sound_options(
    missing_audio: Any, audio_sampling: Any, audio_clip_divisor: Any, max_audio_seconds: Any = None
) -> None:
    """Check the values of these options of the processor.

    Raises:
        ValueError: a value is not allowed. The message lists the allowed ones.
    """
    for name, value, values in (
        ("missing_audio", missing_audio, MISSING_AUDIO),
        ("audio_sampling", audio_sampling, AUDIO_SAMPLING),
    ):
        if value not in values:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(values)}.")
    if not isinstance(audio_clip_divisor, int) or audio_clip_divisor < 1:
        raise ValueError(
            f"audio_clip_divisor={audio_clip_divisor!r}: give 8, as in the original, or 7 to hear the end of the audio."
        )
    if max_audio_seconds is not None and not (isinstance(max_audio_seconds, int | float) and max_audio_seconds > 0):
        raise ValueError(f"max_audio_seconds={max_audio_seconds!r}: give seconds, a number above 0.")


def with_sounds(
    message: Mapping[str, Any], read: Callable[[Any, Mapping[str, Any]], np.ndarray] | None
) -> dict[str, Any]:
    """Copy a message and replace its audio by waveforms.

    Args:
        message: a message whose blocks `read_chats` has checked.
        read: makes a waveform from an audio and the options in its block. If `None`, audio is not read.
    """
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    blocks: list[Any] = []
    for block in content:
        if block["type"] == "audio":
            source = source_of(block)
            if source is None and blocks and blocks[-1]["type"] == "video":
                continue
            if read is not None and source is not None:
                own = {name: block[name] for name in SOUND_OPTIONS if name in block}
                block = {"type": "audio", "audio": read(source, own)}
        blocks.append(block)
    return {**message, "content": blocks}


def at_rate(sampling_rate: int, processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the options, and replace each sampling rate in them by this one."""
    changed = dict(processor_kwargs)
    if "sampling_rate" in changed:
        changed["sampling_rate"] = sampling_rate
    if "sampling_rate" in (changed.get("audio_kwargs") or {}):
        changed["audio_kwargs"] = {**changed["audio_kwargs"], "sampling_rate": sampling_rate}
    return changed


def _is_one_sound(sounds: Any) -> bool:
    return not isinstance(sounds, list | tuple) or (bool(sounds) and all(isinstance(part, Real) for part in sounds))


def _earlier(end: float | None, start: float | None, seconds: float) -> float:
    """The end of a clip: `end`, or an earlier time if the clip would be longer than `seconds`."""
    latest = (start or 0.0) + seconds
    return latest if end is None else min(end, latest)


__all__ = ["SOUND_OPTIONS", "SoundReader", "at_rate", "check_sound_options", "with_sounds"]
