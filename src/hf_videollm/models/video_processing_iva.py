"""Frames for IVA: one for each second of a video, resized while the video is decoded."""

from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import SizeDict
from transformers.video_utils import VideoMetadata

from .media_video import FrameFn
from .video_processing_video_llm import (
    VideoLlmVideoProcessor,
    VideoLlmVideoProcessorKwargs,
    check_one_size,
    check_sampling,
)

# Frames that are cropped and normalised at a time, which limits the memory besides the pixel values themselves.
FRAMES_AT_A_TIME = 16


class IvaVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of IVA's video processor: those of all designs, of which one has another meaning.

    max_frames (`int`): most frames of a video that is sampled by `fps`; from a longer video, as many are taken at even
        distances. A `num_frames` above it is refused.
    """


class IvaVideoProcessor(VideoLlmVideoProcessor):
    """Takes one frame a second (paper, section 4) and CLIP's pixels of 336 x 336.

    `num_frames`, of the processor or of a call, overrides `fps`. Frames whose rate is unknown (lists, folders) count as
    sampled already, and all of them are used.

    An hour of video is 3,600 frames: 1.2 GB as bytes and 4.9 GB as float32 pixel values at 336 x 336. Frames are
    resized as they are decoded, and cropped and normalised a few at a time, so that memory holds no more than these.
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
            num_frames: frames to take instead of so many a second; the processor's own number when both are `None`.
            fps: frames to take per second of the clip; the processor's own when `None`.
            start: beginning of the clip in seconds.
            end: end of the clip in seconds.
            max_frames: most frames to take by `fps`, spread evenly.

        Raises:
            ValueError: as in the base, or `max_frames` is no number of frames.
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
        """As in the base, and at most `max_frames`."""
        return super().bound_frames(wanted if max_frames is None else min(wanted, max_frames))

    def frame_fn(self, **kwargs: Any) -> FrameFn | None:
        """A function that resizes a frame as it is decoded; the later steps then need not resize it."""
        size = kwargs.get("size") or self.size
        if not isinstance(size, SizeDict):
            size = SizeDict(**get_size_dict(size, default_to_square=self.default_to_square))
        # With a limit for the longer side too, frames would be resized twice, and their size rounded twice.
        if not self._option("do_resize", kwargs) or not ((size.height and size.width) or size.shortest_edge):
            return None
        if size.longest_edge:
            return None
        resample = self._option("resample", kwargs)

        def resize(picture: np.ndarray) -> np.ndarray:
            frame = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)
            return self.resize(frame, size=size, resample=resample).permute(1, 2, 0).numpy()

        return resize

    def _sampler(self, metadata: VideoMetadata | None, **kwargs: Any) -> Any:
        sampler = super()._sampler(metadata, **kwargs)
        if sampler is not None:
            sampler.keywords["max_frames"] = self._option("max_frames", kwargs)
        return sampler

    def _preprocess(self, videos: list[torch.Tensor], *args: Any, return_tensors: Any = None, **kwargs: Any) -> Any:
        counts = torch.tensor([len(video) for video in videos])
        sizes: set[tuple[int, ...]] = set()
        pixel_values = torch.empty(0)
        for row, video in enumerate(videos):
            for start in range(0, len(video), FRAMES_AT_A_TIME):
                frames = [video[start : start + FRAMES_AT_A_TIME]]
                part = super()._preprocess(frames, *args, **kwargs)["pixel_values_videos"][0]
                if not sizes:
                    pixel_values = part.new_zeros(len(videos), int(counts.max()), *part.shape[1:])
                sizes.add(tuple(part.shape[1:]))
                check_one_size(sizes)
                pixel_values[row, start : start + len(part)] = part
        return BatchFeature(
            {"pixel_values_videos": pixel_values, "num_video_frames": counts}, tensor_type=return_tensors
        )


__all__ = ["IvaVideoProcessor", "IvaVideoProcessorKwargs"]
