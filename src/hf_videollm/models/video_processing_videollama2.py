"""Frames for VideoLLaMA2: the original code's rules for sampling frames and for making pixel values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.video_utils import VideoMetadata

from .errors import MediaLimits
from .media_video import FrameFn
from .video_llm_pil_resize import PilResizeKwargs, PilResizeVideoProcessor
from .video_processing_video_llm import FrameClock, check_frame_budget, check_sampling

PADDING_MODES = ("none", "pad")


class VideoLlama2VideoProcessorKwargs(PilResizeKwargs, total=False):  # type: ignore[call-arg]
    """Options of VideoLLaMA2's video processor, besides those of all designs.

    padding_mode (`str`): `"none"`, or `"pad"` to make frames square by a border in the mean colour before they are
        resized, as the official training does.
    """

    padding_mode: str | None


class VideoLlama2VideoProcessor(PilResizeVideoProcessor):
    """Samples frames as the original code does: evenly, or every n-th frame with `fps`.

    The defaults are those of VideoLLaMA2-7B-16F (CLIP at 336 pixels). For SigLIP, pass `size={"height": 384, "width":
    384}`, `do_center_crop=False` and SigLIP's mean and standard deviation.

    Three cases differ on purpose, because the original code drops frames or adds black ones. A list or array with more
    frames than `num_frames` is sampled evenly (the original code keeps the first 32). One with fewer frames repeats
    some (the original code adds black frames with height and width exchanged). Sampling a long video by `fps` gives all
    frames (the original code keeps the first 32).
    """

    valid_kwargs = VideoLlama2VideoProcessorKwargs
    num_frames = 16
    padding_mode = "none"

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

        `start` and `end` are rounded as in the original code: the clip begins one frame before `start`, ends one frame
        before `end`, and has at least one frame. With `fps`, every n-th frame is taken, n = frame rate / fps, rounded
        down. All frames are taken if the frame rate is below `fps` (the original code then divides by zero). A video
        with a varying frame rate is sampled by its timestamps, which the original code does not read.

        For arguments and errors see `VideoLlmVideoProcessor.sample_frames`.
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
                f"start={start:g} s is after the end of the video at {clock.begin + total / rate:.2f} s; choose an "
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
        """Number of the frame on screen at a time.

        If the first frame is at 0 seconds and the frame rate is constant, the number is computed exactly as in the
        original code, which computes it in this way for all videos.
        """
        return clock.frame_shown_at(seconds) if clock.begin or not clock.is_constant else int(seconds * clock.rate)

    def sample_range(self, first: int, last: int, num_frames: int) -> np.ndarray:
        """Split [first, last] into `num_frames` equal parts, and take the middle of each, rounded (halves up)."""
        segment = float(last - first) / num_frames
        parts = np.arange(num_frames)
        middles = (segment * parts + segment * (parts + 1)) / 2
        return first + np.round(middles + 1e-6).astype(np.int64)

    def frame_fn(self, **kwargs: Any) -> FrameFn | None:
        """As in the base class; `None` if a border would be added again to frames that are resized to no square."""
        size = kwargs.get("size") or self.size
        is_padded = self._option("padding_mode", kwargs) == "pad"
        return None if is_padded and size.get("height") != size.get("width") else super().frame_fn(**kwargs)

    def resize_frame(self, frame: torch.Tensor, size: Any, resample: Any, options: Mapping[str, Any]) -> torch.Tensor:
        """As in the base class; the border comes before the resize."""
        if self._option("padding_mode", options) == "pad":
            frame = pad_to_square(frame, self._option("image_mean", options))
        return super().resize_frame(frame, size, resample, options)

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        *args: Any,
        padding_mode: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, not {padding_mode!r}.")
        if padding_mode == "pad" and kwargs["do_resize"]:
            videos = [pad_to_square(video, kwargs["image_mean"]) for video in videos]
        return super()._preprocess(videos, *args, **kwargs)


def pad_to_square(video: torch.Tensor, mean: float | list[float] | tuple[float, ...]) -> torch.Tensor:
    """Add a border in the mean colour to frames, so that they become squares with the frame in the middle.

    Args:
        video: `(num_frames, 3, height, width)`, uint8 or floating-point numbers between 0 and 1.
        mean: the mean colour, between 0 and 1 for each channel. For uint8 frames it is multiplied by 255 and rounded
            down.
    """
    height, width = video.shape[-2:]
    if height == width:
        return video
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    colours = [mean] * video.shape[1] if isinstance(mean, int | float) else mean
    # Values of floating-point frames are between 0 and 1 (`VideoLlmVideoProcessor.decode` ensures it).
    levels = [colour if video.is_floating_point() else int(colour * 255) for colour in colours]
    square = torch.tensor(levels, dtype=video.dtype, device=video.device).view(1, -1, 1, 1)
    square = square.repeat(len(video), 1, side, side)
    square[:, :, top : top + height, left : left + width] = video
    return square


__all__ = ["VideoLlama2VideoProcessor", "VideoLlama2VideoProcessorKwargs"]
