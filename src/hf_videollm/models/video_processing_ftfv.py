"""Frames for FTFV: Qwen-VL's preprocessing of images, applied to every frame."""

from typing import Any, ClassVar

import torch
from transformers.feature_extraction_utils import BatchFeature

from .video_processing_video_llm import VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs
from .video_processing_videollama2 import RESIZE_BACKENDS, resize_with_pil


class FtfvVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of FTFV's video processor, besides those of all designs.

    resize_backend (`str`): `"pil"` gives the same pixels as Qwen-VL's code. `"torchvision"` is several times faster,
        but a few pixels differ by 1 or 2 (of 255).
    num_tokens_per_frame (`int`): K, the number of placeholders of each frame. It does not change pixels; the processor
        reads it from these options.
    """

    resize_backend: str | None
    num_tokens_per_frame: int | None


class FtfvVideoProcessor(VideoLlmVideoProcessor):
    """Samples 8 frames evenly (paper, section 3.2) and resizes each to a square.

    Nothing is cropped, so the aspect ratio changes.
    """

    valid_kwargs = FtfvVideoProcessorKwargs
    num_frames = 8
    size: ClassVar[dict[str, int]] = {"height": 448, "width": 448}
    do_center_crop = False
    resize_backend = "pil"

    def resize_videos(
        self, videos: list[torch.Tensor], size: Any, resample: Any, resize_backend: str | None = None, **kwargs: Any
    ) -> list[torch.Tensor]:
        """Resize with PIL, as Qwen-VL does, or with torchvision.

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

    def _preprocess(
        self, videos: list[torch.Tensor], *args: Any, resize_backend: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        if resize_backend not in RESIZE_BACKENDS:
            raise ValueError(f"resize_backend must be one of {', '.join(RESIZE_BACKENDS)}, not {resize_backend!r}.")
        return super()._preprocess(videos, *args, resize_backend=resize_backend, **kwargs)


__all__ = ["FtfvVideoProcessor", "FtfvVideoProcessorKwargs"]
