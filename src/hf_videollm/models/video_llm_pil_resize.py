"""The base of video processors whose original code resizes frames with PIL: VideoLLaMA2 and FTFV."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature

from .media_pil_resize import resize_frames
from .video_processing_video_llm import VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs

RESIZE_BACKENDS = ("pil", "torchvision")


class PilResizeKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of these video processors, besides those of all designs.

    resize_backend (`str`): `"pil"` gives the same pixels as the original code. `"torchvision"` is several times faster,
        but one pixel in two hundred differs by 1 or 2 (of 255).
    """

    resize_backend: str | None


class PilResizeVideoProcessor(VideoLlmVideoProcessor):
    """Resizes frames with PIL, unless `resize_backend="torchvision"`."""

    valid_kwargs = PilResizeKwargs
    resize_backend = "pil"

    def resize_videos(
        self, videos: list[torch.Tensor], size: Any, resample: Any, resize_backend: str | None = None, **kwargs: Any
    ) -> list[torch.Tensor]:
        """Resize with PIL, as the original code does, or with torchvision.

        PIL cannot resize floating-point frames, and a `size` with `longest_edge` is only implemented for torchvision.
        In these cases torchvision is used whatever `resize_backend` says.
        """
        can_use_pil = resize_backend == "pil" and not size.longest_edge
        return [
            resize_with_pil(video, size, resample)
            if can_use_pil and video.dtype == torch.uint8
            else self.resize(video, size=size, resample=resample)
            for video in videos
        ]

    def resize_frame(self, frame: torch.Tensor, size: Any, resample: Any, options: Mapping[str, Any]) -> torch.Tensor:
        """As in the base class."""
        return self.resize_videos([frame], size, resample, self._option("resize_backend", options))[0]

    def _preprocess(
        self, videos: list[torch.Tensor], *args: Any, resize_backend: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        if resize_backend not in RESIZE_BACKENDS:
            raise ValueError(f"resize_backend must be one of {', '.join(RESIZE_BACKENDS)}, not {resize_backend!r}.")
        return super()._preprocess(videos, *args, resize_backend=resize_backend, **kwargs)


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
    return resize_frames(video, target, Image.Resampling(resample))


__all__ = ["RESIZE_BACKENDS", "PilResizeKwargs", "PilResizeVideoProcessor", "resize_with_pil"]
