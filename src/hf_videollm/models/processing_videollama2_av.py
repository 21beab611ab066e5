"""Processor of VideoLLaMA2-AV: what VideoLLaMA2's does, and the sound of videos and sounds of their own."""

import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from .chat_template_videollama2 import default_chat_template
from .configuration_beats import num_audio_tokens
from .errors import MediaLimits, check_interval, warn_caller
from .feature_extraction_beats import BeatsAudioKwargs
from .media_addresses import host_names
from .media_audio_inputs import (
    as_waveform,
    check_sampling_rate,
    flatten_sounds,
    in_16_bits,
    read_once,
    refuse_rate_of_file,
    sound_of_video,
)
from .media_audio_windows import take_clips
from .media_source import source_name
from .processing_video_llm import placeholder_id
from .processing_videollama2 import VideoLlama2Processor, VideoLlama2ProcessorKwargs, processor_options
from .transformers_compat import add_defaults
from .video_llm_checked_processor import in_rows
from .video_llm_messages import read_chats, source_of
from .video_llm_option_names import refuse_unknown

MISSING_AUDIO = ("silence", "skip", "error")
AUDIO_SAMPLING = ("clips", "contiguous")


class VideoLlama2AVAudioKwargs(BeatsAudioKwargs, total=False):  # type: ignore[call-arg]
    """Options of sound, besides those of the feature extractor.

    use_audio_in_video (`bool`): hear the sound of videos.
    missing_audio (`str`): what a video without sound gets: `"silence"`, `"skip"` (no audio tokens) or `"error"`.
    audio_sampling (`str`): `"clips"` (eight clips of two seconds, as in the original) or `"contiguous"`.
    audio_clip_divisor (`int`): 8 spreads the clips as in the original, 7 lets the last one end with the sound.
    max_audio_seconds (`float`): refuse to decode more sound than this from one file.
    audio_options (`list[dict]`): `start`, `end` and `sampling_rate` of each sound of its own, which go before those of
        the call; `None` where the call's hold.
    video_audio (`list`): the sounds of the videos, one entry for each, instead of those in their files: waveforms at
        the feature extractor's rate, files, or `None` for no sound.
    """

    use_audio_in_video: bool | None
    missing_audio: str | None
    audio_sampling: str | None
    audio_clip_divisor: int | None
    max_audio_seconds: float | int | None
    audio_options: list[Any] | tuple[Any, ...] | None
    video_audio: Any


@add_defaults
class VideoLlama2AVProcessorKwargs(VideoLlama2ProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of VideoLLaMA2-AV's processor."""

    # Some releases know options by their modality alone.
    audio_kwargs: VideoLlama2AVAudioKwargs


class VideoLlama2AVProcessor(VideoLlama2Processor):
    """Makes model inputs for VideoLLaMA2-AV.

    A `<video>` becomes the visual tokens of the video and, if its sound is used, its audio tokens behind them (before
    them with `audio_first`). An `<audio>` is a sound of its own.
    """

    valid_processor_kwargs = VideoLlama2AVProcessorKwargs
    SOUND_OPTIONS: ClassVar[tuple[str, ...]] = ("start", "end", "sampling_rate")
    default_chat_template = default_chat_template(("image", "video", "audio"))
    # What a pipeline call may pass to this processor, besides the options of videos.
    AUDIO_OPTIONS: ClassVar[tuple[str, ...]] = (
        "use_audio_in_video",
        "missing_audio",
        "audio_sampling",
        "audio_clip_divisor",
        "max_audio_seconds",
        "audio_options",
        "video_audio",
        # Those of the feature extractor.
        "sampling_rate",
        "audio_window",
        "pad_with_silence",
        "seed",
    )

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See the base."""
        return av_processor_options(config)

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        feature_extractor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        audio_token: str = "<audio>",
        use_audio_in_video: bool = True,
        missing_audio: Literal["silence", "skip", "error"] = "silence",
        audio_sampling: Literal["clips", "contiguous"] = "clips",
        audio_clip_divisor: int = 8,
        audio_first: bool = False,
        audio_patch_size: int = 16,
        image_token: str = "<image>",
        video_token: str = "<video>",
        patch_grid: tuple[int, int] | list[int] = (24, 24),
        connector_downsample: Literal["conv", "pool", "mean"] = "conv",
        connector_kernel_size: tuple[int, int, int] | list[int] = (2, 2, 2),
        connector_padding: int = 0,
        image_num_frames: int = 16,
    ) -> None:
        """Args:
        audio_token: text of the placeholder of sounds, one token of the tokenizer.
        use_audio_in_video: hear the sound of videos.
        missing_audio: what a video without sound gets: silence (as in the original), no audio tokens, or an error.
        audio_sampling: which part of a video's sound is heard: eight clips of two seconds spread over it, or one
            window from its beginning (where it is longer than the feature extractor's `max_seconds`). Sounds of their
            own are always one window.
        audio_clip_divisor: the clips start at i * (duration - 2 s) / divisor; 8, or 7 to reach the end.
        audio_first: audio tokens of a video before its visual tokens.
        audio_patch_size: side of the audio encoder's patches, in frames and in mel bins.

        The other arguments are those of `VideoLlama2Processor`.

        Raises:
            ValueError: a value that means nothing; the possible ones are named.
        """
        _check_options(missing_audio, audio_sampling, audio_clip_divisor, None)
        if audio_patch_size < 1:
            raise ValueError(f"audio_patch_size={audio_patch_size}: give the side of the encoder's patches, as 16.")
        self.audio_token = audio_token
        self.audio_token_id = placeholder_id(tokenizer, audio_token)
        self.use_audio_in_video = use_audio_in_video
        self.missing_audio = missing_audio
        self.audio_sampling = audio_sampling
        self.audio_clip_divisor = audio_clip_divisor
        self.audio_first = audio_first
        self.audio_patch_size = audio_patch_size
        super().__init__(
            image_processor,
            tokenizer,
            video_processor,
            chat_template,
            image_token,
            video_token,
            patch_grid,
            connector_downsample,
            connector_kernel_size,
            connector_padding,
            image_num_frames,
            feature_extractor=feature_extractor,
        )

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Model inputs of one prompt or a batch of them.

        Args:
            images: images of all prompts in their order.
            text: a prompt or a list of prompts, with `<image>`, `<video>` and `<audio>` where the media belong.
            videos: videos of all prompts in their order; their sound comes from their files, or from `video_audio`.
            audio: sounds of the `<audio>` placeholders of all prompts in their order: files, bytes, waveforms
                `(samples,)` or `(channels, samples)`, or dicts with `array` and `sampling_rate`.
            kwargs: see `VideoLlama2AVAudioKwargs`; `sampling_rate` is that of bare waveforms in `audio`, the
                feature extractor's by default. `start` and `end` cut picture and sound alike.

        Returns:
            With sound, `input_features` `(num_sounds, max_frames, 128)` and `input_features_mask`, in prompt order.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are media, or an option has a value
                that means nothing.
            NoAudioStream: a video has no sound, and `missing_audio="error"`.
            MediaError: a file cannot be read.
        """
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    @property
    def placeholders(self) -> dict[str, str]:
        return {**super().placeholders, "audio": self.audio_token}

    def num_audio_tokens(self, num_frames: int) -> int:
        """Placeholders of one sound of `num_frames` filter-bank frames (10 ms each)."""
        return num_audio_tokens(num_frames, self.audio_patch_size, self.feature_extractor.num_mel_bins)

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs: Any) -> str:
        return self.audio_token * self.num_audio_tokens(int(audio_inputs["input_features_mask"][audio_idx].sum()))

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Flatten the media and read their sounds.

        Returns:
            images, text, videos, and one entry for every `<video>` and `<audio>` in prompt order: a waveform, or
            `None` where nothing is to be heard. `None` for all when there is no sound at all.
        """
        images, text, videos, _ = super().prepare_inputs_layout(images, text, videos, None, **kwargs)
        wishes = self._wishes(kwargs)
        sounds = self._read_sounds(audio, text, wishes)
        if videos is not None and wishes["use_audio_in_video"] and wishes["video_audio"] is None:
            videos = [read_once(video, wishes["limits"], wishes["allowed_hosts"]) for video in videos]
        tracks = self._read_tracks(videos or [], wishes)
        ordered = [*tracks, *sounds] if text is None else self._in_prompt_order(text, tracks, sounds)
        heard = any(sound is not None for sound in ordered)
        return images, text, videos, ordered if heard else None

    def _wishes(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one call, the processor's own where the call says nothing.

        Raises:
            ValueError: a value that means nothing; the possible ones are listed.
        """
        nested = {**(kwargs.get("videos_kwargs") or {}), **(kwargs.get("audio_kwargs") or {})}
        if kwargs.get("raw_speech", nested.get("raw_speech")) is not None:
            raise ValueError("raw_speech means nothing here: sounds come in audio= or in a message.")
        backend = kwargs.get("load_audio_backend", nested.get("load_audio_backend"))
        if backend not in (None, "auto"):
            warn_caller(f"load_audio_backend={backend!r} is not used: PyAV reads sounds.")
        names = (*self.AUDIO_OPTIONS, "start", "end", "on_decode_error", "allowed_hosts", "timeout", "video_options")
        wishes = {name: kwargs.get(name, nested.get(name)) for name in names}
        for name in ("use_audio_in_video", "missing_audio", "audio_sampling", "audio_clip_divisor"):
            wishes[name] = getattr(self, name) if wishes[name] is None else wishes[name]
        seconds = wishes["max_audio_seconds"]
        _check_options(wishes["missing_audio"], wishes["audio_sampling"], wishes["audio_clip_divisor"], seconds)
        for name in ("pad_with_silence", "sampling_rate"):
            wishes[name] = getattr(self.feature_extractor, name) if wishes[name] is None else wishes[name]
        wishes["sampling_rate"] = check_sampling_rate(wishes["sampling_rate"])
        budgets = {"max_audio_seconds": seconds, "timeout": wishes["timeout"]}
        wishes["limits"] = MediaLimits(**{name: value for name, value in budgets.items() if value is not None})
        wishes["allowed_hosts"] = tuple(host_names(wishes["allowed_hosts"]))
        wishes["audio_window"] = wishes["audio_window"] or self.feature_extractor.audio_window
        return wishes

    def _reading(self, wishes: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: wishes[name] for name in ("limits", "allowed_hosts")}
        return {**options, "on_decode_error": wishes["on_decode_error"] or self.video_processor.on_decode_error}

    def _read_sounds(self, audio: Any, text: Any, wishes: Mapping[str, Any]) -> list[np.ndarray]:
        """Sounds of their own, each with its own options before those of the call."""
        num_rows = None if text is None else 1 if isinstance(text, str) else len(text)
        sounds = flatten_sounds(in_rows(audio, num_rows, _is_one_sound, "audio"))
        entries = wishes["audio_options"]
        entries = [None] * len(sounds) if entries is None else list(entries)
        if len(entries) != len(sounds):
            raise ValueError(f"audio_options has {len(entries)} entries for {len(sounds)} sounds: pass one per sound.")
        for index, own in enumerate(entries):
            refuse_unknown(own or {}, self.SOUND_OPTIONS, f"audio_options[{index}]")
        return [self._read_sound(sound, wishes, own or {}) for sound, own in zip(sounds, entries, strict=True)]

    def _read_sound(self, sound: Any, wishes: Mapping[str, Any], own: Mapping[str, Any]) -> np.ndarray:
        """A sound of its own, by its own options before those of the call; always one window."""
        if own.get("sampling_rate") is not None and not hasattr(sound, "__array__"):
            refuse_rate_of_file(sound)
        wishes = {**wishes, **own}
        cut = self._cut(wishes, whole=wishes["audio_window"] != "start")
        wave = as_waveform(sound, wishes["sampling_rate"], self.feature_extractor, **cut, **self._reading(wishes))
        return self._checked(wave, sound, wishes)

    def _read_tracks(self, videos: Sequence[Any], wishes: Mapping[str, Any]) -> list[np.ndarray | None]:
        """Sound of each video, already cut to what is heard of it."""
        replaced = wishes["video_audio"]
        if not wishes["use_audio_in_video"]:
            if replaced is not None:
                raise ValueError("video_audio is never heard with use_audio_in_video=False: leave one of them out.")
            return [None] * len(videos)
        if replaced is not None and len(replaced) != len(videos):
            raise ValueError(f"video_audio has {len(replaced)} entries for {len(videos)} videos: pass one per video.")
        in_clips = wishes["audio_sampling"] == "clips"
        rate = self.feature_extractor.sampling_rate
        whole = in_clips or wishes["audio_window"] != "start"
        clips = self.video_processor.options_of_each(wishes["video_options"], len(videos), wishes)
        tracks: list[np.ndarray | None] = []
        for source, clip in zip(videos if replaced is None else replaced, clips, strict=True):
            reading = {**self._reading(wishes), **self._cut(clip, whole)}
            if replaced is not None and (isinstance(source, dict) or hasattr(source, "__array__")):
                track: np.ndarray | None = as_waveform(source, rate, self.feature_extractor, **reading)
            else:
                options = {**reading, "channel": self.feature_extractor.channel}
                track = sound_of_video([] if source is None else source, rate, wishes["missing_audio"], **options)
            if track is not None:
                track = take_clips(track, rate, divisor=wishes["audio_clip_divisor"]) if in_clips else track
                track = self._checked(in_16_bits(track), source, {**wishes, "start": clip["start"]})
            tracks.append(track)
        return tracks

    def _cut(self, wishes: Mapping[str, Any], whole: bool) -> dict[str, float | None]:
        """Which part of a file to decode: where only the start is heard, no more than that of a long sound."""
        start, end = wishes["start"], wishes["end"]
        check_interval(start, end)
        return {"start": start, "end": end if whole else _earlier(end, start, self.feature_extractor.max_seconds)}

    def _checked(self, wave: np.ndarray, source: Any, wishes: Mapping[str, Any]) -> np.ndarray:
        """Here, where the name of the file is known, instead of in the feature extractor."""
        if not wishes["pad_with_silence"] and self.feature_extractor.num_frames(len(wave)) < self.audio_patch_size:
            begin = f" from start={wishes['start']:g} s on" if wishes["start"] else ""
            raise ValueError(
                f"{source_name(source)}: {len(wave) / self.feature_extractor.sampling_rate:.3f} s of sound{begin} are "
                f"shorter than one patch of the audio encoder; take {'an earlier start' if begin else 'more of it'}, "
                "or pad_with_silence=True."
            )
        return wave

    def _in_prompt_order(
        self, text: Sequence[str], tracks: Sequence[np.ndarray | None], sounds: Sequence[np.ndarray]
    ) -> list[np.ndarray | None]:
        num_places = sum(row.count(self.audio_token) for row in text)
        if num_places != len(sounds):
            raise ValueError(
                f"The number of {self.audio_token} tokens in the prompts should be the same as the number of sounds "
                f"passed: found {num_places} {self.audio_token} and {len(sounds)} sounds. Write {self.audio_token} "
                f"once for each sound; the sound of a video needs none besides its {self.video_token}."
            )
        # A wrong number of videos is found, and explained, later.
        of_videos, of_their_own = iter(tracks), iter(sounds)
        return [
            next(of_videos, None) if token == self.video_token else next(of_their_own)
            for row in text
            for token in self._sounding_tokens(row)
        ]

    def _sounding_tokens(self, row: str) -> list[str]:
        return re.findall(f"{re.escape(self.video_token)}|{re.escape(self.audio_token)}", row)

    def _process_audio(self, audio: Sequence[np.ndarray | None], **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        # What is the extractor's own; all waveforms have its rate by now.
        own = set(BeatsAudioKwargs.__annotations__) - {"load_audio_backend", "raw_speech"}
        kwargs = {name: value for name, value in kwargs.items() if name in own}
        kwargs["sampling_rate"] = self.feature_extractor.sampling_rate
        heard = [sound for sound in audio if sound is not None]
        processed = self.feature_extractor(heard, **kwargs)
        places = iter(self.replace_audio_token(processed, index) for index in range(len(heard)))
        return processed, ["" if sound is None else next(places) for sound in audio]

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """As in transformers; the audio tokens of a video stand in its own place, so that no place of theirs is
        needed in the prompt.

        Args:
            audio_replacements: one for every `<video>` and `<audio>`, in prompt order; none when nothing is heard.
        """
        if not audio_replacements:
            return super().get_text_with_replacements(text, list(images_replacements), list(videos_replacements))
        of_videos: list[str] = []
        of_their_own: list[str] = []
        tokens = [token for row in text for token in self._sounding_tokens(row)]
        for token, audio in zip(tokens, audio_replacements, strict=True):
            if token == self.audio_token:
                of_their_own.append(audio)
            else:
                video = videos_replacements[len(of_videos)]
                of_videos.append(audio + video if self.audio_first else video + audio)
        return super().get_text_with_replacements(text, list(images_replacements), of_videos, of_their_own)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *args: Any,
        tokenize: bool = False,
        load_audio_from_video: bool | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; sounds are read by the rules of videos (limits, allowed hosts, formats of FFmpeg).

        Args:
            load_audio_from_video: transformers' name of `use_audio_in_video`.

        A sound of its own may have `start`, `end` and (bare waveforms) `sampling_rate` beside its name; those of a
        video cut its sound too. An empty `{"type": "audio"}` behind a video, which transformers asks for with
        `load_audio_from_video`, says nothing here: the sound of a video needs no place of its own.
        """
        rules = self.block_rules(chat_template)
        rendering, options = self.sort_options(kwargs, processor_kwargs, rules)
        if load_audio_from_video is not None:
            nested = options.get("audio_kwargs") or {}
            said = options.get("use_audio_in_video", nested.get("use_audio_in_video"))
            if said not in (None, load_audio_from_video):
                raise ValueError("load_audio_from_video and use_audio_in_video are one option: leave one of them out.")
            if said is None:
                options["use_audio_in_video"] = load_audio_from_video
        chats, is_batched = read_chats(conversation, rules)
        sounds: list[np.ndarray] = []
        if tokenize:
            wishes = self._wishes(options)

            def read(sound: Any, own: Mapping[str, Any]) -> np.ndarray:
                sounds.append(self._read_sound(sound, wishes, own))
                return sounds[-1]

            chats = [[_with_sounds(message, read) for message in chat] for chat in chats]
            options = _at_rate(self.feature_extractor.sampling_rate, options)
        else:
            chats = [[_with_sounds(message, None) for message in chat] for chat in chats]
        if sounds:
            if wishes["audio_options"] is not None:
                raise TypeError("audio_options belong to sounds outside of messages: write them into the blocks.")
            # What was read has been cut, and has the extractor's rate.
            done = {"start": None, "end": None, "sampling_rate": self.feature_extractor.sampling_rate}
            options["audio_options"] = [done] * len(sounds)
        return super().apply_chat_template(
            chats if is_batched else chats[0],
            chat_template,
            *args,
            tokenize=tokenize,
            processor_kwargs=options,
            **rendering,
        )

    def _get_num_multimodal_tokens(
        self,
        image_sizes: list | None = None,
        video_sizes: list | None = None,
        audio_lengths: list[int] | None = None,
        **kwargs: Any,
    ) -> MultiModalData:
        """Placeholder counts for serving engines; `audio_lengths` are numbers of samples."""
        data = super()._get_num_multimodal_tokens(image_sizes, video_sizes, **kwargs)
        if audio_lengths is not None:
            extractor = self.feature_extractor
            most = int(extractor.max_seconds * extractor.sampling_rate)
            heard = [most if extractor.pad_with_silence else min(length, most) for length in audio_lengths]
            frames = [extractor.num_frames(length) for length in heard]
            data.num_audio_tokens = [self.num_audio_tokens(count) for count in frames]
        return data


def av_processor_options(config: Any) -> dict[str, Any]:
    """Arguments of `VideoLlama2AVProcessor` that must fit the model.

    Args:
        config: a `VideoLlama2AVConfig`.
    """
    return {**processor_options(config), "audio_patch_size": config.audio_config.patch_size}


def _check_options(missing_audio: Any, audio_sampling: Any, audio_clip_divisor: Any, max_audio_seconds: Any) -> None:
    for name, value, values in (
        ("missing_audio", missing_audio, MISSING_AUDIO),
        ("audio_sampling", audio_sampling, AUDIO_SAMPLING),
    ):
        if value not in values:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(values)}.")
    if not isinstance(audio_clip_divisor, int) or audio_clip_divisor < 1:
        raise ValueError(f"audio_clip_divisor={audio_clip_divisor!r}: give 8, as the original, or 7 to reach the end.")
    if max_audio_seconds is not None and not (isinstance(max_audio_seconds, int | float) and max_audio_seconds > 0):
        raise ValueError(f"max_audio_seconds={max_audio_seconds!r}: give seconds, more than zero.")


def _is_one_sound(sounds: Any) -> bool:
    return not isinstance(sounds, list | tuple) or (bool(sounds) and all(isinstance(part, Real) for part in sounds))


def _earlier(end: float | None, start: float | None, seconds: float) -> float:
    """The end of a clip that need not be longer than `seconds`."""
    latest = (start or 0.0) + seconds
    return latest if end is None else min(end, latest)


def _at_rate(sampling_rate: int, processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options with this rate where they named one."""
    changed = dict(processor_kwargs)
    if "sampling_rate" in changed:
        changed["sampling_rate"] = sampling_rate
    if "sampling_rate" in (changed.get("audio_kwargs") or {}):
        changed["audio_kwargs"] = {**changed["audio_kwargs"], "sampling_rate": sampling_rate}
    return changed


def _with_sounds(
    message: Mapping[str, Any], read: Callable[[Any, Mapping[str, Any]], np.ndarray] | None
) -> dict[str, Any]:
    """A copy of a message whose sounds are waveforms; without `read` they stay as they are."""
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
                own = {name: block[name] for name in VideoLlama2AVProcessor.SOUND_OPTIONS if name in block}
                block = {"type": "audio", "audio": read(source, own)}
        blocks.append(block)
    return {**message, "content": blocks}


__all__ = ["VideoLlama2AVAudioKwargs", "VideoLlama2AVProcessor", "VideoLlama2AVProcessorKwargs", "av_processor_options"]
