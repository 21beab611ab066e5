"""Processor of VideoLLaMA2-AV: adds the audio of videos, and audio without a video, to VideoLLaMA2's processor."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from .chat_template_videollama2 import default_chat_template
from .configuration_beats import num_audio_tokens
from .errors import MediaLimits, warn_caller
from .feature_extraction_beats import BeatsAudioKwargs
from .media_addresses import host_names
from .media_audio_inputs import check_sampling_rate, read_once
from .processing_video_llm import placeholder_id
from .processing_videollama2 import VideoLlama2Processor, VideoLlama2ProcessorKwargs, processor_options
from .transformers_compat import add_defaults
from .video_llm_checked_processor import ChatCall
from .videollama2_sounds import SOUND_OPTIONS, SoundReader, at_rate, check_sound_options, with_sounds


class VideoLlama2AVAudioKwargs(BeatsAudioKwargs, total=False):  # type: ignore[call-arg]
    """Options of audio, besides those of the feature extractor.

    use_audio_in_video (`bool`): whether prompts also hold the audio of their videos.
    missing_audio (`str`): for a video without audio: `"silence"` adds silence, `"skip"` adds no audio tokens, `"error"`
        raises `NoAudioStream`.
    audio_sampling (`str`): `"clips"` (eight clips of two seconds, as in the original) or `"contiguous"`.
    audio_clip_divisor (`int`): 8 spreads the clips as in the original; with 7, the last clip ends at the audio's end.
    max_audio_seconds (`float`): refuse to decode more seconds of audio than this from one file.
    audio_options (`list[dict]`): `start`, `end` and `sampling_rate` of each entry of `audio`, which replace those of
        the call; `None` for an entry without options.
    video_audio (`list`): audio that replaces the audio in the files of the videos, one entry per video: a waveform at
        the feature extractor's rate, a file, or `None` for a video without audio.
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

    # Some releases of transformers accept an option only if it is declared for a modality.
    audio_kwargs: VideoLlama2AVAudioKwargs


class VideoLlama2AVProcessor(VideoLlama2Processor):
    """Makes model inputs for VideoLLaMA2-AV.

    A `<video>` becomes the visual tokens of the video and, if its audio is used, its audio tokens after them (before
    them with `audio_first`). An `<audio>` becomes the tokens of an audio that belongs to no video.

    In messages, an audio block may hold `start`, `end` and (for bare waveforms) `sampling_rate`. `start` and `end` of a
    video also cut its audio. transformers' name for `use_audio_in_video` is `load_audio_from_video`. With it, other
    processors of transformers need an empty `{"type": "audio"}` after the video; here such a block is ignored, because
    the audio of a video needs none.
    """

    valid_processor_kwargs = VideoLlama2AVProcessorKwargs
    SOUND_OPTIONS: ClassVar[tuple[str, ...]] = SOUND_OPTIONS
    default_chat_template = default_chat_template(("image", "video", "audio"))
    PLACEHOLDERS: ClassVar[Mapping[str, str]] = {**VideoLlama2Processor.PLACEHOLDERS, "audio": "<audio>"}
    AUDIO_OPTIONS: ClassVar[tuple[str, ...]] = (
        "use_audio_in_video",
        "missing_audio",
        "audio_sampling",
        "audio_clip_divisor",
        "max_audio_seconds",
        "audio_options",
        "video_audio",
        # The following names are options of the feature extractor.
        "sampling_rate",
        "audio_window",
        "pad_with_silence",
        "seed",
    )

    def pairing(self) -> dict[str, Any]:
        """As in `ProcessorContract`, and the sizes that decide the number of audio tokens."""
        bins = self.feature_extractor.num_mel_bins
        return {**super().pairing(), "num_mel_bins": bins, "audio_patch_size": self.audio_patch_size}

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See `av_processor_options`."""
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
        audio_token: text of the placeholder of audio, one token of the tokenizer.
        use_audio_in_video: whether prompts also hold the audio of their videos.
        missing_audio: what happens for a video without audio: silence is added (as in the original), no audio tokens
            are added, or an error is raised.
        audio_sampling: which part of a video's audio the model hears: `"clips"`, eight clips of two seconds spread
            over it, or `"contiguous"`, one window. From audio without a video, the model always hears one window. A
            window is at most as long as the feature extractor's `max_seconds`.
        audio_clip_divisor: clip i starts at i * (duration - 2 s) / divisor. With 8, as in the original, the last clip
            ends before the audio does; with 7, it ends with the audio.
        audio_first: write the audio tokens of a video before its visual tokens.
        audio_patch_size: side of the audio encoder's patches, in frames and in mel bins.

        The other arguments are those of `VideoLlama2Processor`.

        Raises:
            ValueError: a value is not allowed. The message lists the allowed ones.
        """
        check_sound_options(missing_audio, audio_sampling, audio_clip_divisor)
        if audio_patch_size < 1:
            raise ValueError(
                f"audio_patch_size={audio_patch_size}: give the side of a patch of the encoder, such as 16."
            )
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
            videos: videos of all prompts in their order; their audio comes from their files, or from `video_audio`.
            audio: the audio for the `<audio>` placeholders of all prompts in their order: files, bytes, waveforms
                `(samples,)` or `(channels, samples)`, or dicts with `array` and `sampling_rate`.
            kwargs: see `VideoLlama2AVAudioKwargs`; `sampling_rate` is that of bare waveforms in `audio`, the
                feature extractor's by default. `start` and `end` cut the frames and the audio of a video.

        Returns:
            If there is audio, also `input_features` `(num_audios, max_frames, 128)` and `input_features_mask`, in
            prompt order.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are media, or an option has an invalid
                value.
            NoAudioStream: a video has no sound, and `missing_audio="error"`.
            MediaError: a file cannot be read.
        """
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    @property
    def placeholders(self) -> dict[str, str]:
        return {**super().placeholders, "audio": self.audio_token}

    def num_audio_tokens(self, num_frames: int) -> int:
        """Number of placeholders of one audio with `num_frames` filter-bank frames (10 ms each)."""
        return num_audio_tokens(num_frames, self.audio_patch_size, self.feature_extractor.num_mel_bins)

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs: Any) -> str:
        return self.audio_token * self.num_audio_tokens(int(audio_inputs["input_features_mask"][audio_idx].sum()))

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Flatten the media and read their audio.

        Returns:
            images, text, videos, and one entry for every `<video>` and `<audio>` in prompt order: a waveform, or
            `None` for a video without audio tokens. If there is no audio at all, `None` replaces this list.
        """
        images, text, videos, _ = super().prepare_inputs_layout(images, text, videos, None, **kwargs)
        options = self._sound_options(kwargs)
        reader = self._sound_reader(options)
        sounds = reader.read_sounds(audio, text)
        if videos is not None and options["use_audio_in_video"] and options["video_audio"] is None:
            videos = [read_once(video, options["limits"], options["allowed_hosts"]) for video in videos]
        tracks = reader.read_tracks(videos or [])
        ordered = [*tracks, *sounds] if text is None else self._in_prompt_order(text, tracks, sounds)
        has_audio = any(waveform is not None for waveform in ordered)
        return images, text, videos, ordered if has_audio else None

    def _sound_options(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The options that `SoundReader` needs: those of the call, filled up with the defaults of the processor.

        Raises:
            ValueError: a value is not allowed. The message lists the allowed ones.
        """
        nested = {**(kwargs.get("videos_kwargs") or {}), **(kwargs.get("audio_kwargs") or {})}
        if kwargs.get("raw_speech", nested.get("raw_speech")) is not None:
            raise ValueError("raw_speech is not an option here: pass sounds as audio=, or in a message.")
        backend = kwargs.get("load_audio_backend", nested.get("load_audio_backend"))
        if backend not in (None, "auto"):
            warn_caller(f"load_audio_backend={backend!r} is not used: PyAV reads all sounds.")
        names = (*self.AUDIO_OPTIONS, "start", "end", "on_decode_error", "allowed_hosts", "timeout", "video_options")
        options = {name: kwargs.get(name, nested.get(name)) for name in names}
        for name in ("use_audio_in_video", "missing_audio", "audio_sampling", "audio_clip_divisor"):
            options[name] = getattr(self, name) if options[name] is None else options[name]
        seconds = options["max_audio_seconds"]
        check_sound_options(options["missing_audio"], options["audio_sampling"], options["audio_clip_divisor"], seconds)
        for name in ("pad_with_silence", "sampling_rate"):
            options[name] = getattr(self.feature_extractor, name) if options[name] is None else options[name]
        options["sampling_rate"] = check_sampling_rate(options["sampling_rate"])
        budgets = {"max_audio_seconds": seconds, "timeout": options["timeout"]}
        options["limits"] = MediaLimits(**{name: value for name, value in budgets.items() if value is not None})
        options["allowed_hosts"] = tuple(host_names(options["allowed_hosts"]))
        options["audio_window"] = options["audio_window"] or self.feature_extractor.audio_window
        return options

    def _sound_reader(self, options: Mapping[str, Any]) -> SoundReader:
        return SoundReader(options, self.feature_extractor, self.video_processor, self.audio_patch_size)

    def _in_prompt_order(
        self, text: Sequence[str], tracks: Sequence[np.ndarray | None], sounds: Sequence[np.ndarray]
    ) -> list[np.ndarray | None]:
        num_tokens = sum(row.count(self.audio_token) for row in text)
        if num_tokens != len(sounds):
            raise ValueError(
                f"The number of {self.audio_token} tokens in the prompts should be the same as the number of sounds "
                f"passed: found {num_tokens} {self.audio_token} and {len(sounds)} sounds. Write {self.audio_token} "
                f"once for each sound; the sound of a video needs none besides its {self.video_token}."
            )
        # The number of videos may be wrong here, because the base class checks it later.
        of_videos, of_their_own = iter(tracks), iter(sounds)
        return [
            next(of_videos, None) if token == self.video_token else next(of_their_own)
            for row in text
            for token in self._sounding_tokens(row)
        ]

    def _sounding_tokens(self, row: str) -> list[str]:
        return re.findall(f"{re.escape(self.video_token)}|{re.escape(self.audio_token)}", row)

    def _process_audio(self, audio: Sequence[np.ndarray | None], **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        # At this point all waveforms have the feature extractor's sampling rate.
        own = set(BeatsAudioKwargs.__annotations__) - {"load_audio_backend", "raw_speech"}
        kwargs = {name: value for name, value in kwargs.items() if name in own}
        kwargs["sampling_rate"] = self.feature_extractor.sampling_rate
        waveforms = [waveform for waveform in audio if waveform is not None]
        processed = self.feature_extractor(waveforms, **kwargs)
        placeholders = iter(self.replace_audio_token(processed, index) for index in range(len(waveforms)))
        return processed, ["" if waveform is None else next(placeholders) for waveform in audio]

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """As in transformers. Audio tokens and visual tokens of a video together replace its `<video>`, so the prompt
        needs no `<audio>` for the video.

        Args:
            audio_replacements: one for every `<video>` and `<audio>`, in prompt order; empty if there is no audio.
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

    def prepare_chats(self, call: ChatCall) -> None:
        """As in the base class. The audio in messages is read here, by the same rules as videos.

        These rules are limits, allowed hosts and formats.

        Raises:
            ValueError: `load_audio_from_video` and `use_audio_in_video` contradict each other.
            TypeError: `audio_options` were passed, although the messages hold audio.
        """
        _unite_names(call.rendering, call.options)
        sounds: list[np.ndarray] = []
        if not call.tokenize:
            call.chats = [[with_sounds(message, None) for message in chat] for chat in call.chats]
        else:
            reader = self._sound_reader(self._sound_options(call.options))

            def read(sound: Any, own: Mapping[str, Any]) -> np.ndarray:
                sounds.append(reader.read_sound(sound, own))
                return sounds[-1]

            call.chats = [[with_sounds(message, read) for message in chat] for chat in call.chats]
            call.options = at_rate(self.feature_extractor.sampling_rate, call.options)
        if sounds:
            if reader.options["audio_options"] is not None:
                raise TypeError(
                    "audio_options are for sounds that are passed as audio=: write the options of a sound in a message "
                    "into its block."
                )
            # These waveforms were cut already, and have the feature extractor's sampling rate.
            done = {"start": None, "end": None, "sampling_rate": self.feature_extractor.sampling_rate}
            call.options["audio_options"] = [done] * len(sounds)
        super().prepare_chats(call)

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
            limit = int(extractor.max_seconds * extractor.sampling_rate)
            num_samples = [limit if extractor.pad_with_silence else min(length, limit) for length in audio_lengths]
            frames = [extractor.num_frames(length) for length in num_samples]
            data.num_audio_tokens = [self.num_audio_tokens(count) for count in frames]
        return data


def _unite_names(rendering: dict[str, Any], options: dict[str, Any]) -> None:
    """Move transformers' `load_audio_from_video` to the option `use_audio_in_video`, which means the same."""
    load_audio = rendering.pop("load_audio_from_video", None)
    if load_audio is None:
        return
    use_audio = options.get("use_audio_in_video", (options.get("audio_kwargs") or {}).get("use_audio_in_video"))
    if use_audio not in (None, load_audio):
        raise ValueError("load_audio_from_video and use_audio_in_video are one option: leave one of them out.")
    if use_audio is None:
        options["use_audio_in_video"] = load_audio


def av_processor_options(config: Any) -> dict[str, Any]:
    """Arguments of `VideoLlama2AVProcessor` that must fit the model.

    Args:
        config: a `VideoLlama2AVConfig`.
    """
    return {**processor_options(config), "audio_patch_size": config.audio_config.patch_size}


__all__ = ["VideoLlama2AVAudioKwargs", "VideoLlama2AVProcessor", "VideoLlama2AVProcessorKwargs", "av_processor_options"]
