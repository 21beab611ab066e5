"""Frames for FTFV: Qwen-VL's preprocessing of images, applied to every frame."""

from typing import ClassVar

from .video_llm_pil_resize import PilResizeKwargs, PilResizeVideoProcessor


class FtfvVideoProcessorKwargs(PilResizeKwargs, total=False):  # type: ignore[call-arg]
    """Options of FTFV's video processor, besides those of all designs.

    num_tokens_per_frame (`int`): K, the number of placeholders of each frame. It does not change pixels; the processor
        reads it from these options.
    """

    num_tokens_per_frame: int | None


class FtfvVideoProcessor(PilResizeVideoProcessor):
    """Samples 8 frames evenly (paper, section 3.2) and resizes each to a square.

    Nothing is cropped, so the aspect ratio changes.
    """

    valid_kwargs = FtfvVideoProcessorKwargs
    num_frames = 8
    size: ClassVar[dict[str, int]] = {"height": 448, "width": 448}
    do_center_crop = False


__all__ = ["FtfvVideoProcessor", "FtfvVideoProcessorKwargs"]
