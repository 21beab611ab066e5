"""The base class of all video processors: it turns video files, arrays or lists of frames into pixel values."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers import BaseVideoProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import VideosKwargs
from transformers.video_utils import VideoMetadata

from .errors import check_interval, check_num_frames
from .media_addresses import host_names
from .media_reading import read_video
from .media_source import source_name
from .media_video import FrameFn, MediaError, MediaLimits, MediaTooLarge, VideoSource
from .media_video_inputs import as_frame_array, fill_metadata, flatten_metadata, flatten_videos, frames_of_array
from .video_llm_frame_clock import FrameClock
from .video_llm_frame_form import frame_form
from .video_llm_option_names import plain_type_errors, refuse_unknown

# Options of transformers that can only have these values here. Other values are refused, because they would be ignored.
NEVER_OTHERWISE: dict[str, tuple[Any, ...]] = {
    "data_format": ("channels_first", ChannelDimension.FIRST),
    "do_pad": (True,),
}

# Number of frames that are cropped and normalised at a time. It limits the memory for intermediate results.
FRAMES_AT_A_TIME = 16
PIXEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Maps an option that says how a step is done to the option that says whether it is done.
NEEDS_STEP = {
    "size": "do_resize",
    "resample": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}


class VideoLlmVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """Options of the video processors.

    start (`float`): beginning of the clip, in seconds since the start of the file, as in `load_video`.
    end (`float`): end of the clip, likewise.
    video_backend (`str`): decoder, one of `media_video.available_backends()` or `"auto"`.
    allowed_hosts (`list[str]`): hosts that http(s) videos may be downloaded from; none by default. A single host may be
        passed as a string.
    on_decode_error (`str`): `"raise"`, or `"truncate"` to use the frames before the damaged part of the file.
    max_frames (`int`): refuse to return more frames than this.
    timeout (`float`): seconds that reading one file may take, including its download.
    pixel_dtype (`str` or `torch.dtype`): type of the pixel values, `"float32"`, `"float16"` or `"bfloat16"`; float32 by
        default. With the type of the model, the frames of a long video need half of the memory. The values are those
        of float32, rounded.
    video_options (`list[dict]`): one dict per video with options for this video only (those in `CLIP_OPTIONS`). They
        override the options of the call. `None` or an empty dict means that a video has none.
    """

    start: float | int | None
    end: float | int | None
    video_backend: str | None
    allowed_hosts: str | list[str] | tuple[str, ...] | None
    on_decode_error: str | None
    max_frames: int | None
    timeout: float | int | None
    # A name or a `torch.dtype`. transformers cannot check an option against `torch.dtype`.
    pixel_dtype: Any
    video_options: list[Any] | tuple[Any, ...] | None


def as_pixel_dtype(value: Any) -> torch.dtype | None:
    """The type that the option `pixel_dtype` names; `None` for the default.

    Raises:
        ValueError: it is no type of floating-point numbers.
    """
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if value is not None and dtype not in PIXEL_DTYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in PIXEL_DTYPES)
        raise ValueError(f"pixel_dtype must be one of {known}, not {value!r}.")
    return dtype


def check_sampling(
    num_frames: int | None = None, fps: float | None = None, start: float | None = None, end: float | None = None
) -> None:
    """Refuse impossible values of sampling options before a file is opened.

    Raises:
        ValueError: a number is out of its range, or `end` is not after `start`; the message names the option.
    """
    check_num_frames(num_frames)
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps}: give frames per second, more than zero.")
    check_interval(start, end)


def check_frame_budget(num_frames: int, limits: MediaLimits) -> None:
    """Refuse more frames than the limit allows, before memory is allocated for them.

    Raises:
        MediaTooLarge: there are too many frames; the message names their number and the limit.
    """
    if num_frames > limits.max_frames:
        raise MediaTooLarge(
            f"{num_frames:,} frames were asked for and the limit is {limits.max_frames:,}: lower `num_frames` "
            "or `fps`, or raise max_frames."
        )


def check_one_size(sizes: set[tuple[int, ...]]) -> None:
    """Refuse a batch whose processed videos have different sizes (channels, height, width).

    Raises:
        ValueError: the sizes differ; the message names them.
    """
    if len(sizes) > 1:
        raise ValueError(
            f"The videos of a batch must come out in one size, but these have (channels, height, width) {sorted(sizes)}"
            ": leave do_resize and do_center_crop on, or process the videos one by one."
        )


def _merged(call: Mapping[str, Any], own: Mapping[str, Any], most_frames: int) -> dict[str, Any]:
    """Merge the options of a call with those of one video. The options of the video override those of the call.

    Args:
        call: the options of the call.
        own: the options of the video.
        most_frames: the largest `max_frames` that the call allows.

    Raises:
        ValueError: both `num_frames` and `fps` are set, or a video has options for sampling frames although the call
            says `do_sample_frames=False`.
    """
    merged = {**call, **own}
    if own and call.get("do_sample_frames") is False:
        raise ValueError(
            f"A video has options that choose frames ({', '.join(sorted(own))}): leave out do_sample_frames=False."
        )
    for name, other in (("num_frames", "fps"), ("fps", "num_frames")):
        if name in own:
            merged["do_sample_frames"] = True
            if other not in own:
                merged.pop(other, None)
    if merged.get("fps") is not None and merged.get("num_frames") is not None:
        raise ValueError("`num_frames` and `fps` exclude each other: pass one of them.")
    if "max_frames" in own:
        # The message with this option may come from an untrusted user, so it can only lower the limit of the call.
        merged["max_frames"] = min(own["max_frames"], most_frames)
    return merged


class VideoLlmVideoProcessor(BaseVideoProcessor):
    """Decodes videos, samples frames, resizes and crops them to the size of the tower, and pads the time axis.

    Decoding is done by `media_video.load_video` and not by transformers.
    """

    valid_kwargs = VideoLlmVideoProcessorKwargs
    model_input_names: ClassVar[list[str]] = ["pixel_values_videos", "num_video_frames"]
    # Options that may be set for a single video: in `video_options`, or in the video's block of a message.
    CLIP_OPTIONS: ClassVar[tuple[str, ...]] = ("start", "end", "num_frames", "fps", "max_frames")
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size: ClassVar[dict[str, int]] = {"shortest_edge": 336}
    crop_size: ClassVar[dict[str, int]] = {"height": 336, "width": 336}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 16
    video_backend = "auto"
    on_decode_error = "raise"

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Indices of the frames to use; a clip that is too short repeats frames.

        Args:
            metadata: frame count and rate of the whole file.
            num_frames: number of frames to take; `None` uses the attribute `num_frames`.
            fps: frames to take per second of the clip; overrides the attribute `num_frames`.
            start: beginning of the clip, in seconds since the start of the file, as in `load_video`.
            end: end of the clip, likewise.

        Raises:
            ValueError: a value is impossible (`check_sampling`), the video has no frames, or its frame rate is unknown
                but `fps`, `start` or `end` needs it.
        """
        check_sampling(num_frames, fps, start, end)
        total = int(metadata.total_num_frames)
        if total < 1:
            raise ValueError("the video has no frames to sample from.")
        if fps is None and start is None and end is None:
            return self.sample_range(0, total - 1, num_frames or self.num_frames)
        if not metadata.fps:
            raise ValueError("fps, start and end need the video's frame rate: pass video_metadata with fps.")
        clock = FrameClock(metadata)
        if start is not None and start >= clock.seconds(total):
            raise ValueError(
                f"start={start:g} s is after the end of the video at {clock.seconds(total):.2f} s; choose an "
                "earlier start."
            )
        first = 0 if start is None else min(self.frame_at(clock, start), total - 1)
        last = total - 1 if end is None else max(first, min(self.frame_at(clock, end), total - 1))
        if fps is None:
            return self.sample_range(first, last, num_frames or self.num_frames)
        wanted = self.bound_frames(max(1, round((clock.seconds(last + 1) - clock.seconds(first)) * fps)), **kwargs)
        if clock.is_constant:
            return self.sample_range(first, last, wanted)
        edges = np.linspace(clock.seconds(first), clock.seconds(last + 1), wanted + 1)
        return np.array([clock.frame_shown_at(time) for time in (edges[:-1] + edges[1:]) / 2], dtype=np.int64)

    def frame_at(self, clock: FrameClock, seconds: float) -> int:
        """Number of the frame to use for a time: the frame on screen. A design with another rule overrides this."""
        return clock.frame_shown_at(seconds)

    def bound_frames(self, wanted: int, **kwargs: Any) -> int:
        """Number of frames to take if sampling by `fps` gives `wanted` frames. A design may override it to take fewer.

        Raises:
            MediaTooLarge: `wanted` is above the limit of `MediaLimits`.
        """
        check_frame_budget(wanted, MediaLimits())
        return wanted

    def sample_range(self, first: int, last: int, num_frames: int) -> np.ndarray:
        """Choose `num_frames` indices from `first` to `last`, both inclusive: the centres of equal parts.

        A design with another rule overrides this.
        """
        edges = np.linspace(first, last + 1, num_frames + 1)
        return np.floor((edges[:-1] + edges[1:]) / 2).astype(np.int64)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Decode, sample, resize, crop and normalise.

        Args:
            videos: one video or a (nested) list of them; see `media_video.load_video` for what a video may be.

        Returns:
            `pixel_values_videos` `(num_videos, max_frames, 3, height, width)` float32, `num_video_frames`
            `(num_videos,)` int64 and, with `return_metadata=True`, `video_metadata`.

        Raises:
            MediaError: a video cannot be read; the message names it.
            ValueError: both `num_frames` and `fps` are set, or the processed videos have different sizes.
        """
        self._check_call(kwargs)
        sources = flatten_videos(videos)
        if not sources:
            raise ValueError("There is no video in the list: pass at least one.")
        metadata = flatten_metadata(kwargs.pop("video_metadata", None), len(sources))
        options = self.options_of_each(kwargs.pop("video_options", None), len(sources), kwargs)
        decoded = [
            self.decode(source, known, **video_options)
            for source, known, video_options in zip(sources, metadata, options, strict=True)
        ]
        kwargs.update(do_sample_frames=False, input_data_format="channels_first")
        # `decode` has already used these options, with other values for some videos.
        kwargs = {name: value for name, value in kwargs.items() if name not in self.CLIP_OPTIONS}
        with plain_type_errors():
            return super().preprocess(
                [frames for frames, _ in decoded], video_metadata=[known for _, known in decoded], **kwargs
            )

    def _check_call(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse unknown options, and options that would have no effect.

        Raises:
            TypeError: an option is unknown, or has a wrong type.
            ValueError: an option would have no effect.
        """
        refuse_unknown(kwargs, {*self.valid_kwargs.__annotations__, "return_tensors"}, type(self).__name__)
        with plain_type_errors():
            # `video_metadata` is not checked here: this package accepts more types for it than transformers does.
            validate_typed_dict(self.valid_kwargs, {name: kwargs[name] for name in kwargs if name != "video_metadata"})
        for name, step in NEEDS_STEP.items():
            if kwargs.get(name) is not None and not self._option(step, kwargs):
                raise ValueError(f"{name} does nothing without {step}=True: pass that too, or leave it out.")
        for name, values in NEVER_OTHERWISE.items():
            if kwargs.get(name) is not None and kwargs[name] not in values:
                raise ValueError(f"{name}={kwargs[name]!r} is not supported, only {values[0]!r}: leave it out.")

    def options_of_each(self, video_options: Any, num_videos: int, call: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The options of each video: those of the call, overridden by those of the video.

        Args:
            video_options: see `VideoLlmVideoProcessorKwargs`.
            num_videos: number of videos.
            call: options of the call.

        Raises:
            TypeError: a video has an option that cannot be set for a single video.
            ValueError: the numbers of entries and videos differ, or options contradict each other.
        """
        entries = [None] * num_videos if video_options is None else list(video_options)
        if len(entries) != num_videos:
            raise ValueError(f"video_options has {len(entries)} entries for {num_videos} videos: pass one per video.")
        options = []
        most_frames = self._option("max_frames", call) or MediaLimits().max_frames
        for index, entry in enumerate(entries):
            if entry is not None and not isinstance(entry, Mapping):
                raise TypeError(f"video_options[{index}] is a {type(entry).__name__}: give a dict, or None.")
            own = {name: value for name, value in (entry or {}).items() if value is not None}
            refuse_unknown(own, self.CLIP_OPTIONS, f"video_options[{index}]")
            with plain_type_errors():
                validate_typed_dict(self.valid_kwargs, own)
            options.append(_merged(call, own, most_frames))
        return options

    def decode(
        self, source: VideoSource, metadata: VideoMetadata | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """Frames `(num_frames, channels, height, width)` of one video; all of them with `do_sample_frames=False`.

        Args:
            source: anything `media_video.load_video` reads, or an array of frames.
            metadata: metadata of a video that is passed as frames, such as its frame rate. Files hold their own.
        """
        sampler = self._sampler(metadata, **kwargs)
        budgets = {"max_frames": self._option("max_frames", kwargs), "timeout": kwargs.get("timeout")}
        limits = MediaLimits(**{name: value for name, value in budgets.items() if value is not None})
        if sampler is not None and (num_frames := sampler.keywords["num_frames"]) is not None:
            check_frame_budget(num_frames, limits)
        try:
            if (array := as_frame_array(source)) is not None:
                normalized = self._option("do_normalize", kwargs) and not self._option("do_rescale", kwargs)
                frames, metadata = frames_of_array(
                    array, metadata, sampler, kwargs.get("input_data_format"), bool(normalized)
                )
                check_frame_budget(len(frames), limits)
                if frames.is_floating_point() and self._option("do_rescale", kwargs):
                    raise ValueError(
                        "floating-point frames would be divided by 255: pass uint8, or do_rescale=False if their "
                        "values are between 0 and 1."
                    )
                return frames, metadata
            loaded, metadata = read_video(
                source,
                partial(frame_form, self, kwargs),
                sample_indices_fn=sampler,
                backend=self._option("video_backend", kwargs),
                limits=limits,
                # Only the call may allow hosts: a downloaded processor_config.json must not allow network access.
                allowed_hosts=tuple(host_names(kwargs.get("allowed_hosts"))),
                on_decode_error=self._option("on_decode_error", kwargs),
                frame_fn=self.frame_fn(**kwargs),
            )
        except MediaError:
            raise
        except ValueError as error:
            raise ValueError(f"{source_name(source)}: {error}") from error
        return torch.from_numpy(loaded).permute(0, 3, 1, 2), metadata

    def frame_fn(self, **kwargs: Any) -> FrameFn | None:
        """A function that is applied to each frame, uint8 (H, W, 3), as soon as it is decoded; `None` for no function.

        It resizes the frame, so that only small frames are in memory. The later steps then find the right size. Without
        a resize there is no function, and if `size` has a limit for the longer side: frames would be resized a second
        time later, and rounding their size twice can give another size than rounding it once.

        Args:
            kwargs: options of the call.
        """
        size = kwargs.get("size") or self.size
        if not isinstance(size, SizeDict):
            size = SizeDict(**get_size_dict(size, default_to_square=self.default_to_square))
        if not self._option("do_resize", kwargs) or not ((size.height and size.width) or size.shortest_edge):
            return None
        if size.longest_edge:
            return None
        resample = self._option("resample", kwargs)

        def resize(picture: np.ndarray) -> np.ndarray:
            frame = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0)
            resized: np.ndarray = self.resize_frame(frame, size, resample, kwargs)[0].permute(1, 2, 0).numpy()
            return resized

        return resize

    def resize_frame(self, frame: torch.Tensor, size: Any, resample: Any, options: Mapping[str, Any]) -> torch.Tensor:
        """Resize one decoded frame, `(1, 3, height, width)` uint8, exactly as `resize_videos` would with all frames.

        Args:
            frame: the frame.
            size: a `SizeDict`.
            resample: the filter.
            options: options of the call.
        """
        return self.resize(frame, size=size, resample=resample)

    def _option(self, name: str, kwargs: Mapping[str, Any]) -> Any:
        value = kwargs.get(name)
        return getattr(self, name, None) if value is None else value

    def _sampler(self, metadata: VideoMetadata | None, **kwargs: Any) -> partial | None:
        """The function that chooses the frames of one video; `None` to take all frames."""
        sampling = {name: kwargs.get(name) for name in ("num_frames", "fps", "start", "end")}
        if not self._option("do_sample_frames", kwargs):
            if sampling["start"] is not None or sampling["end"] is not None:
                # Without sampling, num_frames and fps are ignored, as in transformers. If start and end were ignored,
                # the caller would get the whole video instead of a part.
                raise ValueError("start and end choose frames: leave them out, or do_sample_frames=False.")
            return None
        check_sampling(**sampling)
        if sampling["fps"] is None:
            sampling["num_frames"] = self._option("num_frames", kwargs)

        def sample(metadata: VideoMetadata, known: VideoMetadata | None, **options: Any) -> np.ndarray:
            return self.sample_frames(fill_metadata(metadata, known), **options)

        return partial(sample, known=metadata, **sampling)

    def resize_videos(self, videos: list[torch.Tensor], size: Any, resample: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Resize each video `(num_frames, channels, height, width)`; designs with their own rule override this."""
        return [self.resize(video, size=size, resample=resample) for video in videos]

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: Any,
        resample: Any,
        do_center_crop: bool,
        crop_size: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        return_tensors: Any = None,
        pixel_dtype: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_dtype = as_pixel_dtype(pixel_dtype)
        if do_resize:
            videos = self.resize_videos(videos, size=size, resample=resample, **kwargs)
        counts = torch.tensor([len(video) for video in videos])
        sizes: set[tuple[int, ...]] = set()
        pixel_values = torch.empty(0)
        # A few frames at a time, so that no second copy of all pixel values is in memory.
        for row, video in enumerate(videos):
            for start in range(0, len(video), FRAMES_AT_A_TIME):
                part = video[start : start + FRAMES_AT_A_TIME]
                part = self.center_crop(part, crop_size) if do_center_crop else part
                part = self.rescale_and_normalize(part, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
                if not sizes:
                    dtype = part.dtype if pixel_dtype is None else pixel_dtype
                    pixel_values = part.new_zeros(len(videos), int(counts.max()), *part.shape[1:], dtype=dtype)
                sizes.add(tuple(part.shape[1:]))
                check_one_size(sizes)
                pixel_values[row, start : start + len(part)] = part
        return BatchFeature(
            {"pixel_values_videos": pixel_values, "num_video_frames": counts}, tensor_type=return_tensors
        )


__all__ = [
    "FrameClock",
    "VideoLlmVideoProcessor",
    "VideoLlmVideoProcessorKwargs",
    "as_pixel_dtype",
    "check_frame_budget",
    "check_one_size",
]
