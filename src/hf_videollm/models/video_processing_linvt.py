"""Frames for LinVT. This processor chooses them; the image processor of the image-LLM makes pixel values from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs
from transformers.video_utils import VideoMetadata

from .media_reading import keep_choice
from .media_shots import find_shots_by_content, frames_of_shots
from .media_source import VideoSource, source_name
from .media_video_inputs import flatten_metadata, flatten_videos
from .video_processing_video_llm import VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs

SAMPLINGS = ("uniform", "shots")


@dataclass(frozen=True)
class FramesInTime:
    """The chosen frames of a video.

    Args:
        frames: `(num_frames, channels, height, width)` uint8.
        times: for each frame, the seconds since the start of the clip; `None` if they are not known.
        metadata: metadata of the whole video.
    """

    frames: torch.Tensor
    times: list[float] | None
    metadata: VideoMetadata


class LinVTVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of LinVT's video processor, besides those of all designs.

    sampling (`str`): `"uniform"`, or `"shots"`: the video is cut into shots, and longer shots get more frames.
    find_shots (`Callable`): is called with the video, and returns its shots as pairs of frame numbers: the first
        frame, and the one after the last. PySceneDetect by default.
    frame_times (`list`): one entry per video that was passed as arrays or pictures: the times of its frames in seconds,
        or `None` if they are not known. The times of files are read from the files.
    """

    sampling: str | None
    # A function. The annotation is `Any`, because transformers cannot check an option against `Callable`.
    find_shots: Any
    frame_times: list[Any] | tuple[Any, ...] | None


# Options that `LinVTVideoProcessor` takes. The image processor takes all other options of videos, for their frames.
VIDEO_OPTIONS = set(LinVTVideoProcessorKwargs.__annotations__) - set(ImagesKwargs.__annotations__)
# Options that `LinVTProcessor` uses itself.
OF_THE_PROCESSOR = ("return_metadata", "pixel_dtype")
# Options of a call that apply to images only. They are not passed on when the image processor gets frames of videos.
NO_FRAME_OPTIONS = {"return_tensors", "device", "data_format", "input_data_format", "sanitize_control_tokens"}


@dataclass(frozen=True)
class VideoOptions:
    """The options of one call of `LinVTProcessor` that concern videos.

    Args:
        reading: options of the video processor.
        frames: options of the image processor, for the frames of videos.
    """

    reading: dict[str, Any]
    frames: dict[str, Any]

    @classmethod
    def take_from(cls, kwargs: dict[str, Any], image_processor: Any) -> "VideoOptions":
        """Remove the options of videos from the options of a call. Options that also apply to images stay in `kwargs`.

        Raises:
            ValueError: an option was passed twice.
        """
        nested = dict(kwargs.pop("videos_kwargs", None) or {})
        if twice := sorted(set(nested) & set(kwargs)):
            raise ValueError(f"{', '.join(twice)} was passed twice, by itself and in videos_kwargs: leave one out.")
        reading = {name: kwargs.pop(name) for name in VIDEO_OPTIONS & set(kwargs)}
        reading.update({name: nested.pop(name) for name in VIDEO_OPTIONS & set(nested)})
        valid = set(ImagesKwargs.__annotations__)
        valid |= set(getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {}))
        return cls(reading, {**{name: kwargs[name] for name in valid & set(kwargs)}, **nested})

    def of_reading(self) -> dict[str, Any]:
        """The options to pass to `LinVTVideoProcessor.read_frames`."""
        options = {name: value for name, value in self.reading.items() if name not in OF_THE_PROCESSOR}
        return {**options, "input_data_format": self.frames.get("input_data_format")}

    def of_frames(self) -> dict[str, Any]:
        """The options to pass to the image processor for frames of videos.

        Raises:
            ValueError: `data_format` asks for another order of dimensions than channels, height, width.
        """
        if (data_format := self.frames.get("data_format")) not in (None, "channels_first", ChannelDimension.FIRST):
            raise ValueError(f"data_format={data_format!r} is not possible for frames: leave it out.")
        return {name: value for name, value in self.frames.items() if name not in NO_FRAME_OPTIONS}


class LinVTVideoProcessor(VideoLlmVideoProcessor):
    """Decodes videos and samples frames. `LinVTProcessor` passes the pixels on to the image processor.

    If it is called directly, it returns the frames as uint8. `do_resize=True` with a `size` makes frames smaller before
    the image processor gets them. That saves memory if the image processor keeps the size of its images.
    """

    valid_kwargs = LinVTVideoProcessorKwargs
    CLIP_OPTIONS: ClassVar[tuple[str, ...]] = (*VideoLlmVideoProcessor.CLIP_OPTIONS, "sampling")
    do_resize = False
    do_center_crop = False
    do_rescale = False
    do_normalize = False
    sampling = "uniform"

    def read_frames(
        self,
        videos: Any,
        video_metadata: Any = None,
        frame_times: Sequence[Any] | None = None,
        video_options: Any = None,
        **kwargs: Any,
    ) -> list[FramesInTime]:
        """The chosen frames of each video, with their times and the metadata of the video.

        Args:
            videos: one video or a (nested) list of them; see `media_video.load_video` for what a video may be.
            video_metadata: metadata of videos that were passed as frames, one entry per video.
            frame_times: see `LinVTVideoProcessorKwargs`.
            video_options: see `VideoLlmVideoProcessorKwargs`.
            kwargs: options of this processor.

        Raises:
            MediaError: a video cannot be read; the message names it.
            ValueError: options that are unknown, or contradict each other.
        """
        sources = flatten_videos(videos)
        passed_metadata = flatten_metadata(video_metadata, len(sources))
        passed_times = [None] * len(sources) if frame_times is None else list(frame_times)
        if len(passed_times) != len(sources):
            raise ValueError(
                f"frame_times has {len(passed_times)} entries for {len(sources)} videos: pass one per video."
            )
        kwargs.update(do_rescale=False, do_normalize=False, return_metadata=True)
        options = self.options_of_each(video_options, len(sources), kwargs)
        # One by one, because videos may have different sizes.
        return [self._read_video(*parts) for parts in zip(sources, passed_metadata, passed_times, options, strict=True)]

    def _read_video(self, source: Any, passed_metadata: Any, times: Any, options: dict[str, Any]) -> FramesInTime:
        """The chosen frames of one video. The arguments are the entries of `read_frames`' arguments for this video."""
        clip = self.preprocess([source], video_metadata=[passed_metadata], **options)
        frames, metadata = clip["pixel_values_videos"][0], clip["video_metadata"][0]
        if frames.is_floating_point():
            raise ValueError(
                f"{source_name(source)}: the frames hold floating-point numbers; pass uint8, as the image processor "
                "expects."
            )
        if times is None:
            # If the caller has already sampled the frames, only the caller's metadata tells their numbers in the video.
            is_chosen = options.get("do_sample_frames") is False
            is_chosen = is_chosen and getattr(passed_metadata, "frames_indices", None) is not None
            times = seconds_of(passed_metadata if is_chosen else metadata, options.get("start") or 0.0)
        if times is not None and len(times) != len(frames):
            raise ValueError(
                f"{source_name(source)}: {len(times)} frame_times for {len(frames)} frames: pass one per frame. If the "
                "frames are already sampled, pass do_sample_frames=False, too."
            )
        return FramesInTime(frames, None if times is None else [float(time) for time in times], metadata)

    def decode(
        self, source: VideoSource, metadata: VideoMetadata | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """As in the base class."""
        # `_sampler` passes the video on to `find_shots`.
        return super().decode(source, metadata, video=source, **kwargs)

    def _sampler(self, metadata: VideoMetadata | None, video: Any = None, **kwargs: Any) -> partial | None:
        sampling = self._option("sampling", kwargs)
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, not {sampling!r}.")
        uniform = super()._sampler(metadata, **kwargs)
        if sampling == "uniform" or uniform is None:
            return uniform
        if surplus := [name for name in ("fps", "start", "end") if kwargs.get(name) is not None]:
            raise ValueError(
                f'sampling="shots" divides num_frames among the shots of a whole video: leave out {", ".join(surplus)}.'
            )
        find_shots = kwargs.get("find_shots") or find_shots_by_content

        def sample(metadata: VideoMetadata, num_frames: int) -> np.ndarray:
            return frames_of_shots(list(find_shots(video)), num_frames, metadata.total_num_frames)

        sampler = partial(sample, num_frames=uniform.keywords["num_frames"])
        if find_shots is find_shots_by_content:
            # The whole video is decoded to find its shots, so caches keep what was chosen.
            keep_choice(sampler, {"sampling": sampling, "num_frames": sampler.keywords["num_frames"]})
        return sampler


def seconds_of(metadata: Any, start: float = 0.0) -> list[float] | None:
    """Seconds from the start of the clip to each chosen frame; `None` without a frame rate."""
    if not metadata.fps:
        return None
    return [time - start for time in metadata.timestamps]


__all__ = ["FramesInTime", "LinVTVideoProcessor", "LinVTVideoProcessorKwargs", "VideoOptions", "seconds_of"]
