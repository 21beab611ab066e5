"""From video files, arrays or frames to pixel values; what the video processors of all designs share."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BaseVideoProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    infer_channel_dimension_format,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_utils import VideoMetadata

from .video_io import MediaLimits, VideoSource, load_video

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class VideoLlmVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """Options of the video processors.

    start (`float`): beginning of the clip in seconds.
    end (`float`): end of the clip in seconds.
    video_backend (`str`): decoder, one of `video_io.available_backends()` or `"auto"`.
    allowed_hosts (`list[str]`): hosts that http(s) videos may come from; none by default.
    on_decode_error (`str`): `"raise"`, or `"truncate"` to use the frames before the damage.
    max_frames (`int`): refuse to return more frames than this.
    """

    start: float | int | None
    end: float | int | None
    video_backend: str | None
    allowed_hosts: list[str] | tuple[str, ...] | None
    on_decode_error: str | None
    max_frames: int | None


class FrameClock:
    """From seconds to frame numbers: by the frame rate, or by the frames' own times where the rate varies."""

    def __init__(self, metadata: VideoMetadata) -> None:
        self.rate = float(metadata.fps)
        self.total = int(metadata.total_num_frames)
        self.duration = metadata.duration
        times = getattr(metadata, "frame_times", None)
        steps = np.arange(self.total) / self.rate
        self.times = steps if times is None else np.asarray(times)
        # Timestamps are rounded to ticks, hence the quarter of a frame.
        self.is_constant = bool(np.allclose(self.times - self.times[0], steps, rtol=0, atol=0.25 / self.rate))

    def frame_at(self, seconds: float) -> int:
        """Number of the nearest frame; beyond the end for a constant rate, the last one otherwise."""
        if self.is_constant:
            return round(seconds * self.rate)
        return round(float(np.interp(seconds, self.times, np.arange(self.total))))

    def frame_shown_at(self, seconds: float) -> int:
        """Number of the frame on screen."""
        return max(0, int(np.searchsorted(self.times, seconds, side="right")) - 1)

    def seconds(self, frame: int) -> float:
        """Time of a frame; of the end of the video for `frame` = number of frames."""
        if frame < self.total:
            return float(self.times[frame])
        return float(self.times[0]) + (self.duration or self.total / self.rate)


class VideoLlmVideoProcessor(BaseVideoProcessor):
    """Decodes with our own reader, samples frames, resizes, crops to the tower's size and pads the time axis."""

    valid_kwargs = VideoLlmVideoProcessorKwargs
    model_input_names: ClassVar[list[str]] = ["pixel_values_videos", "num_video_frames"]
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
            num_frames: frames to take; the processor's own number when `None`.
            fps: frames to take per second of the clip; beats the processor's own `num_frames`.
            start: beginning of the clip in seconds.
            end: end of the clip in seconds.

        Raises:
            ValueError: no frames, both `num_frames` and `fps` differ from the defaults, or the frame rate is unknown
                where seconds are asked for.
        """
        total = int(metadata.total_num_frames)
        if total < 1:
            raise ValueError("The video has no frames to sample from.")
        if fps is None and start is None and end is None:
            return self.sample_range(0, total - 1, num_frames or self.num_frames)
        if not metadata.fps:
            raise ValueError("fps, start and end need the video's frame rate: pass video_metadata with fps.")
        clock = FrameClock(metadata)
        first = 0 if start is None else min(max(0, clock.frame_at(start)), total - 1)
        last = total - 1 if end is None else min(clock.frame_at(end), total - 1)
        if last < first or (start is not None and start >= clock.seconds(total)):
            raise ValueError(
                f"The clip from {start or 0:g} s to {'the end' if end is None else f'{end:g} s'} holds no frame; "
                f"the video has {clock.seconds(total):.2f} s."
            )
        if fps is None:
            return self.sample_range(first, last, num_frames or self.num_frames)
        wanted = max(1, round((clock.seconds(last + 1) - clock.seconds(first)) * fps))
        if clock.is_constant:
            return self.sample_range(first, last, wanted)
        edges = np.linspace(clock.seconds(first), clock.seconds(last + 1), wanted + 1)
        return np.array([clock.frame_shown_at(time) for time in (edges[:-1] + edges[1:]) / 2], dtype=np.int64)

    def sample_range(self, first: int, last: int, num_frames: int) -> np.ndarray:
        """Rule of the design: `num_frames` indices from `first` to `last`, both inclusive. Centres of equal parts."""
        edges = np.linspace(first, last + 1, num_frames + 1)
        return np.floor((edges[:-1] + edges[1:]) / 2).astype(np.int64)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Decode, sample, resize, crop and normalise.

        Args:
            videos: one video or a (nested) list of them; see `video_io.load_video` for what a video may be.

        Returns:
            `pixel_values_videos` `(num_videos, max_frames, 3, height, width)` float32, `num_video_frames`
            `(num_videos,)` int64 and, with `return_metadata=True`, `video_metadata`.

        Raises:
            MediaError: a video cannot be read; the message names it.
            ValueError: `num_frames` and `fps` were both asked for, or the videos come out in different sizes.
        """
        if kwargs.get("fps") is not None and kwargs.get("num_frames") is not None:
            raise ValueError("`num_frames` and `fps` exclude each other: pass one of them.")
        sources = flatten_videos(videos)
        metadata = flatten_metadata(kwargs.pop("video_metadata", None), len(sources))
        decoded = [self.decode(source, known, **kwargs) for source, known in zip(sources, metadata, strict=True)]
        kwargs.update(do_sample_frames=False, input_data_format="channels_first")
        return super().preprocess(
            [frames for frames, _ in decoded], video_metadata=[known for _, known in decoded], **kwargs
        )

    def decode(
        self, source: VideoSource, metadata: VideoMetadata | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """Frames `(num_frames, channels, height, width)` of one video; all of them with `do_sample_frames=False`.

        Args:
            source: anything `video_io.load_video` reads, or an array of frames.
            metadata: what is known of an array of frames (frame rate); files tell it themselves.
        """

        def option(name: str) -> Any:
            value = kwargs.get(name)
            return getattr(self, name, None) if value is None else value

        num_frames = kwargs.get("num_frames") if kwargs.get("fps") is not None else option("num_frames")
        sampler = None
        if option("do_sample_frames"):
            sampler = partial(
                self.sample_frames,
                num_frames=num_frames,
                fps=kwargs.get("fps"),
                start=kwargs.get("start"),
                end=kwargs.get("end"),
            )
        elif kwargs.get("start") is not None or kwargs.get("end") is not None:
            # num_frames and fps say how to sample, so they lapse as everywhere in transformers; a clip would be lost.
            raise ValueError("start and end choose frames: leave out do_sample_frames=False.")
        if (array := as_frame_array(source)) is not None:
            return _sample_array(array, metadata, sampler, kwargs.get("input_data_format"))
        limits = MediaLimits() if option("max_frames") is None else MediaLimits(max_frames=option("max_frames"))
        frames, metadata = load_video(
            source,
            sample_indices_fn=sampler,
            backend=option("video_backend"),
            limits=limits,
            # By the call alone: a downloaded processor_config.json must not open the network.
            allowed_hosts=tuple(kwargs.get("allowed_hosts") or ()),
            on_decode_error=option("on_decode_error"),
        )
        return torch.from_numpy(frames).permute(0, 3, 1, 2), metadata

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
        **kwargs: Any,
    ) -> BatchFeature:
        if do_resize:
            videos = self.resize_videos(videos, size=size, resample=resample, **kwargs)
        if do_center_crop:
            videos = [self.center_crop(video, crop_size) for video in videos]
        videos = [
            self.rescale_and_normalize(video, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            for video in videos
        ]
        sizes = sorted({tuple(video.shape[1:]) for video in videos})
        if len(sizes) > 1:
            raise ValueError(
                f"The videos of a batch must come out in one size, but these have (channels, height, width) {sizes}: "
                "leave do_resize and do_center_crop on, or process the videos one by one."
            )
        counts = torch.tensor([len(video) for video in videos])
        pixel_values = pad_sequence(videos, batch_first=True)
        return BatchFeature(
            {"pixel_values_videos": pixel_values, "num_video_frames": counts}, tensor_type=return_tensors
        )


def flatten_videos(videos: Any) -> list[VideoSource]:
    """A flat list of videos from one video or from lists of them, nested to any depth.

    A video is a path, URL, bytes, file object, array `(T, H, W, C)` or `(T, C, H, W)`, or a list of frames (PIL images,
    three-dimensional arrays, or names of image files).

    Raises:
        ValueError: something in the list is none of these.
    """
    if _is_single_video(videos):
        return [os.fspath(videos) if isinstance(videos, os.PathLike) else videos]
    if getattr(videos, "ndim", None) == 5 or isinstance(videos, list | tuple):
        return [video for item in videos for video in flatten_videos(item)]
    if getattr(videos, "ndim", None) == 3 or isinstance(videos, Image.Image):
        return [[videos]]
    raise ValueError(f"Cannot read a video from {type(videos).__name__}: pass a path, bytes, a file or frames.")


def flatten_metadata(metadata: Any, num_videos: int) -> list[VideoMetadata | None]:
    """One `VideoMetadata` (or `None`) per video from the forms transformers accepts: one, a list, nested lists, dicts.

    Raises:
        ValueError: the number of entries is not the number of videos.
    """
    if metadata is None:
        return [None] * num_videos

    def flatten(item: Any) -> list[VideoMetadata | None]:
        if isinstance(item, list | tuple):
            return [entry for part in item for entry in flatten(part)]
        return [item if item is None or isinstance(item, VideoMetadata) else VideoMetadata(**item)]

    entries = flatten(metadata)
    if len(entries) != num_videos:
        raise ValueError(f"Got {len(entries)} entries of video_metadata for {num_videos} videos: pass one per video.")
    return entries


def as_frame_array(source: Any) -> Any | None:
    """The four-dimensional array of an array, tensor or list of equally sized array frames; `None` for the rest."""
    if getattr(source, "ndim", None) == 4:
        return source
    if isinstance(source, list | tuple) and source and all(getattr(frame, "ndim", None) == 3 for frame in source):
        shapes = {tuple(frame.shape) for frame in source}
        if len(shapes) > 1:
            raise ValueError(f"The frames of a video must have one size, but these have {sorted(shapes)}.")
        return torch.stack([torch.as_tensor(frame) for frame in source])
    return None


def _is_single_video(videos: Any) -> bool:
    if isinstance(videos, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(videos, "read"):
        return True
    if getattr(videos, "ndim", None) == 4:
        return True
    return isinstance(videos, list | tuple) and bool(videos) and all(map(_is_frame, videos))


def _is_frame(item: Any) -> bool:
    # A GIF is a video of its own, so it does not count as the name of a frame.
    if isinstance(item, str | os.PathLike):
        return os.fspath(item).lower().endswith(IMAGE_SUFFIXES)
    return isinstance(item, Image.Image) or getattr(item, "ndim", None) == 3


def _sample_array(
    array: Any, metadata: VideoMetadata | None, sampler: Callable[..., np.ndarray] | None, input_data_format: Any
) -> tuple[torch.Tensor, VideoMetadata]:
    video = torch.as_tensor(array)
    layout = input_data_format or infer_channel_dimension_format(video)
    if layout == ChannelDimension.LAST:
        video = video.permute(0, 3, 1, 2)
    known = metadata or VideoMetadata(total_num_frames=len(video))
    known = replace(known, height=video.shape[-2], width=video.shape[-1])
    if sampler is None:
        return video, replace(known, frames_indices=list(range(len(video))))
    indices = sampler(metadata=replace(known, total_num_frames=len(video)))
    return video[indices], replace(known, frames_indices=[int(index) for index in indices])


__all__ = ["FrameClock", "VideoLlmVideoProcessor", "VideoLlmVideoProcessorKwargs", "flatten_metadata", "flatten_videos"]
