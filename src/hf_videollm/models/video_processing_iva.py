"""Frames for IVA: one for each second of a video, resized while the video is decoded."""

from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .video_processing_video_llm import (
    VideoLlmVideoProcessor,
    VideoLlmVideoProcessorKwargs,
    check_sampling,
)


class IvaVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of IVA's video processor. They are those of all designs, but `max_frames` has another meaning.

    max_frames (`int`): the largest number of frames to sample by `fps`. If `fps` asks for more, this many frames are
        sampled evenly, where other designs refuse the video. A `num_frames` above `max_frames` is refused.
    """


class IvaVideoProcessor(VideoLlmVideoProcessor):
    """Samples one frame per second (paper, section 4) and makes 336 x 336 pixel values as for CLIP.

    `num_frames`, as an attribute of the processor or an option of a call, overrides `fps`. If the frame rate is unknown
    (lists or folders of frames), all frames are used.

    One hour of video has 3,600 frames: 1.2 GB as uint8 and 4.9 GB as float32 pixel values.
    """

    valid_kwargs = IvaVideoProcessorKwargs
    fps = 1.0
    num_frames: int | None = None  # type: ignore[assignment]
    max_frames: int | None = None

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_frames: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Indices of the frames to use.

        Args:
            metadata: frame count and rate of the whole file.
            num_frames: number of frames to take. If both `num_frames` and `fps` are `None`, the attribute `num_frames`
                is used.
            fps: frames to take per second of the clip; `None` uses the attribute `fps`.
            start: beginning of the clip in seconds.
            end: end of the clip in seconds.
            max_frames: largest number of frames to take by `fps`. If `fps` asks for more, this many frames are taken
                evenly.

        Raises:
            ValueError: as in the base class, or `max_frames` is less than 1.
        """
        check_sampling(num_frames, fps, start, end)
        max_frames = self.max_frames if max_frames is None else max_frames
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames={max_frames}: at least one frame must be allowed.")
        if num_frames is None and fps is None:
            num_frames = self.num_frames
        if num_frames is not None:
            return super().sample_frames(metadata, num_frames=num_frames, start=start, end=end)
        total = int(metadata.total_num_frames)
        if fps is None and start is None and end is None and not metadata.fps and total > 0:
            return self.sample_range(0, total - 1, min(total, max_frames or total))
        fps = self.fps if fps is None else fps
        return super().sample_frames(metadata, fps=fps, start=start, end=end, max_frames=max_frames)

    def bound_frames(self, wanted: int, max_frames: int | None = None, **kwargs: Any) -> int:
        """As in the base class, but the result is at most `max_frames`."""
        return super().bound_frames(wanted if max_frames is None else min(wanted, max_frames))

    def _sampler(self, metadata: VideoMetadata | None, **kwargs: Any) -> Any:
        sampler = super()._sampler(metadata, **kwargs)
        if sampler is not None:
            sampler.keywords["max_frames"] = self._option("max_frames", kwargs)
        return sampler


__all__ = ["IvaVideoProcessor", "IvaVideoProcessorKwargs"]
