"""Frames for PLLaVA: the sampling rule of the official evaluation and, as an option, its two steps of resizing."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from .media_pil_resize import resize_frames
from .media_video import FrameFn
from .video_processing_video_llm import FrameClock, VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs

# The original code resizes a video twice. After the first resize, its long side has at most this many pixels, whatever
# the input size of the vision tower is.
MAX_LONG_SIDE = 640


class PllavaVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of PLLaVA's video processor, besides those of all designs.

    resize_mode (`str`): `"plain"` resizes the short side once; `"pllava"` resizes twice as the original code does.
    videos_per_prompt (`list[int]`): for each prompt, the number of its videos. The original code resizes the videos of
        one prompt to a common size.
    """

    resize_mode: str | None
    videos_per_prompt: list[int] | None


class PllavaVideoProcessor(VideoLlmVideoProcessor):
    """Samples 16 frames as the official evaluation does. A clip with fewer frames repeats some of them."""

    valid_kwargs = PllavaVideoProcessorKwargs
    num_frames = 16
    resize_mode = "plain"

    def frame_at(self, clock: FrameClock, seconds: float) -> int:
        """The frame whose start is closest to the time, as in the official evaluation."""
        return clock.frame_at(seconds)

    def sample_range(self, first: int, last: int, num_frames: int) -> np.ndarray:
        """Index of frame i is first + int(seg / 2) + round(seg * i), seg = (last - first) / num_frames.

        This is exactly the rule of the official evaluation, including its peculiarities: halves are rounded to even
        numbers, the last frame of a long clip is never taken, and a short clip repeats frames evenly.
        """
        segment = (last - first) / num_frames
        start = int(first + segment / 2)
        return start + np.round(segment * np.arange(num_frames)).astype(np.int64)

    def frame_fn(self, **kwargs: Any) -> FrameFn | None:
        """As in the base class; `None` if the videos of a prompt are resized together."""
        return super().frame_fn(**kwargs) if self._option("resize_mode", kwargs) == "plain" else None

    def resize_videos(
        self,
        videos: list[torch.Tensor],
        size: Any,
        resample: Any,
        resize_mode: str | None = None,
        videos_per_prompt: list[int] | None = None,
        **kwargs: Any,
    ) -> list[torch.Tensor]:
        """Resize each video once (`"plain"`), or all videos of a prompt together like the original code (`"pllava"`).

        Raises:
            ValueError: `resize_mode` is unknown, or `videos_per_prompt` does not add up to the number of videos.
        """
        if resize_mode == "plain":
            return super().resize_videos(videos, size=size, resample=resample)
        if resize_mode != "pllava":
            raise ValueError(f'resize_mode must be "plain" or "pllava", not {resize_mode!r}.')
        if not size.shortest_edge:
            raise ValueError('resize_mode="pllava" works on the short side: pass size={"shortest_edge": ...}.')
        groups = videos_per_prompt or [len(videos)]
        if sum(groups) != len(videos):
            raise ValueError(f"videos_per_prompt {groups} does not add up to {len(videos)} videos.")
        resized: list[torch.Tensor] = []
        for count in groups:
            resized += resize_together(videos[len(resized) : len(resized) + count], size.shortest_edge)
        return resized


def resize_together(videos: list[torch.Tensor], shortest_edge: int) -> list[torch.Tensor]:
    """Resize the videos of one prompt twice, as the original code does. Each is `(num_frames, 3, height, width)` uint8.

    The first resize gives all videos the same short side; long sides above a common maximum (at most 640) are cut. The
    second resize changes the short side to `shortest_edge`. Both use PIL's bicubic filter, like the original code.
    """
    if not videos:
        return []
    short, long = common_sides([tuple(video.shape[-2:]) for video in videos], shortest_edge)
    cut = [_cut_long_side(resize_short_side(video, short), long) for video in videos]
    return [resize_short_side(video, shortest_edge) for video in cut]


def common_sides(sizes: list[tuple[int, ...]], shortest_edge: int) -> tuple[int, int]:
    """Compute the short and the long side of the first resize from the (height, width) of all videos of a prompt."""
    ratio = min(max(size) / min(size) for size in sizes)
    max_short = max(min(size) for size in sizes)
    max_long = min(MAX_LONG_SIDE, max(max(size) for size in sizes))
    short = max(shortest_edge, min(max_short, int(max_long / ratio)))
    return short, int(short * ratio)


def resize_short_side(video: torch.Tensor, short: int) -> torch.Tensor:
    """Resize the short side to `short`, bicubic, uint8. The aspect ratio is kept; the long side is rounded down."""
    height, width = video.shape[-2:]
    if min(height, width) == short:
        return video
    target = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    return resize_frames(video, target, Image.Resampling.BICUBIC)


def _cut_long_side(video: torch.Tensor, long: int) -> torch.Tensor:
    """Cut the long side to `long`, a quarter of the surplus at the start and the rest at the end, like the original."""
    for axis in (2, 3):
        if (surplus := video.shape[axis] - long) > 0:
            video = video.narrow(axis, (surplus // 2) // 2, long)
    return video


__all__ = ["PllavaVideoProcessor"]
