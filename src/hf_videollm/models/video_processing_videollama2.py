"""Frames for VideoLLaMA2: the sampling rules and the pixels of the original."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.video_utils import VideoMetadata

from .errors import MediaLimits
from .video_processing_video_llm import (
    FrameClock,
    VideoLlmVideoProcessor,
    VideoLlmVideoProcessorKwargs,
    check_frame_budget,
    check_sampling,
)

PADDING_MODES = ("none", "pad")
RESIZE_BACKENDS = ("pil", "torchvision")


class VideoLlama2VideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of VideoLLaMA2's video processor, besides those of all designs.

    padding_mode (`str`): `"none"`, or `"pad"` to make frames square with the mean colour before they are resized, as
        the official training does.
    resize_backend (`str`): `"pil"` gives the pixels of the original; `"torchvision"` is several times faster, and one
        pixel in two hundred differs by a level or two of 255.
    """

    padding_mode: str | None
    resize_backend: str | None


class VideoLlama2VideoProcessor(VideoLlmVideoProcessor):
    """Samples frames as the original: uniformly, or one in so many with `fps`.

    The defaults are those of VideoLLaMA2-7B-16F (CLIP at 336 pixels). SigLIP takes `size={"height": 384, "width":
    384}`, `do_center_crop=False` and its own mean and deviation.

    Departures, where the original loses or invents pictures: a list or array of more frames than `num_frames` is
    sampled (the original cuts it to 32), one of fewer repeats frames (the original adds black ones of a transposed
    size); one frame per second of a long video gives all of them (the original, the first 32).
    """

    valid_kwargs = VideoLlama2VideoProcessorKwargs
    num_frames = 16
    padding_mode = "none"
    resize_backend = "pil"

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Indices of the frames to use, by the rules of the original.

        `start` and `end` are rounded as there: the clip begins a frame before `start`, ends a frame before `end`, and
        has at least one frame. With `fps` every n-th frame is taken, n = frame rate / fps rounded down; all frames if
        the video has fewer frames per second (the original divides by zero). Videos of varying frame rate are sampled
        by their timestamps, which the original does not know.

        Args, errors: see `VideoLlmVideoProcessor.sample_frames`.
        """
        check_sampling(num_frames, fps, start, end)
        total = int(metadata.total_num_frames)
        is_clip = fps is not None or start is not None or end is not None
        clock = FrameClock(metadata) if is_clip and total > 0 and metadata.fps else None
        if clock is None or not clock.is_constant:
            return super().sample_frames(metadata, num_frames=num_frames, fps=fps, start=start, end=end, **kwargs)
        rate = clock.rate
        if start is not None and (start - clock.begin) * rate >= total:
            raise ValueError(
                f"start={start:g} s lies behind the end of the video at {clock.begin + total / rate:.2f} s; choose an "
                "earlier start."
            )
        first = 0 if start is None else max(self.frame_at(clock, start) - 1, 0)
        last = total - 1 if end is None else max(first, min(self.frame_at(clock, end) - 1, total - 1))
        if fps is None:
            return self.sample_range(first, last, num_frames or self.num_frames)
        step = max(1, int(min(rate // fps, last - first + 1)))
        indices = np.arange(first + step // 2, last + 1, step, dtype=np.int64)
        check_frame_budget(len(indices), MediaLimits())
        return indices

    def frame_at(self, clock: FrameClock, seconds: float) -> int:
        """The frame on screen; to the bit as in the original, which only knows videos that begin with their file."""
        return clock.frame_shown_at(seconds) if clock.begin or not clock.is_constant else int(seconds * clock.rate)

    def sample_range(self, first: int, last: int, num_frames: int) -> np.ndarray:
        """Middles of `num_frames` equal parts of [0, last - first], rounded, ties up."""
        segment = float(last - first) / num_frames
        parts = np.arange(num_frames)
        middles = (segment * parts + segment * (parts + 1)) / 2
        return first + np.round(middles + 1e-6).astype(np.int64)

    def resize_videos(
        self,
        videos: list[torch.Tensor],
        size: Any,
        resample: Any,
        resize_backend: str | None = None,
        **kwargs: Any,
    ) -> list[torch.Tensor]:
        """Resize with PIL, as the original, or with torchvision.

        The latter always takes frames of floating point, and sizes with a longest edge.
        """
        can_use_pil = resize_backend == "pil" and not size.longest_edge
        return [
            resize_with_pil(video, size, resample)
            if can_use_pil and video.dtype == torch.uint8
            else self.resize(video, size=size, resample=resample)
            for video in videos
        ]

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        *args: Any,
        padding_mode: str | None = None,
        resize_backend: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        for name, value, values in (
            ("padding_mode", padding_mode, PADDING_MODES),
            ("resize_backend", resize_backend, RESIZE_BACKENDS),
        ):
            if value not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, not {value!r}.")
        if padding_mode == "pad" and kwargs["do_resize"]:
            videos = [pad_to_square(video, kwargs["image_mean"]) for video in videos]
        return super()._preprocess(videos, *args, resize_backend=resize_backend, **kwargs)


def pad_to_square(video: torch.Tensor, mean: float | list[float] | tuple[float, ...]) -> torch.Tensor:
    """Frames `(num_frames, 3, height, width)` in the middle of squares of the mean colour.

    Args:
        mean: of each colour, between 0 and 1; the colour is its part of 255, rounded down.
    """
    height, width = video.shape[-2:]
    if height == width:
        return video
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    colours = [mean] * video.shape[1] if isinstance(mean, int | float) else mean
    # Frames of floating point lie between 0 and 1 (`VideoLlmVideoProcessor.decode`).
    levels = [colour if video.is_floating_point() else int(colour * 255) for colour in colours]
    square = torch.tensor(levels, dtype=video.dtype, device=video.device).view(1, -1, 1, 1)
    square = square.repeat(len(video), 1, side, side)
    square[:, :, top : top + height, left : left + width] = video
    return square


def resize_with_pil(video: torch.Tensor, size: Any, resample: Any) -> torch.Tensor:
    """Resize `(num_frames, 3, height, width)` uint8 to a `size` with `shortest_edge` or with `height` and `width`."""
    height, width = video.shape[-2:]
    if size.shortest_edge:
        short, long = size.shortest_edge, int(size.shortest_edge * max(height, width) / min(height, width))
        target = (short, long) if height <= width else (long, short)
    else:
        target = (size.height, size.width)
    if target == (height, width):
        return video
    frames = video.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    resized = [np.asarray(Image.fromarray(frame).resize(target[::-1], Image.Resampling(resample))) for frame in frames]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(video.device)


__all__ = ["VideoLlama2VideoProcessor", "VideoLlama2VideoProcessorKwargs"]
