"""Frames for LinVT: chosen here, and turned into pixel values by the image processor of the image-LLM."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .media_source import VideoSource, source_name
from .shot_sampling import find_shots_by_content, frames_of_shots
from .video_inputs import flatten_metadata, flatten_videos
from .video_processing_video_llm import VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs

SAMPLINGS = ("uniform", "shots")


class LinVTVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of LinVT's video processor, besides those of all designs.

    sampling (`str`): `"uniform"`, or `"shots"`: the video is cut into shots, and each gets frames by its length.
    find_shots (`Callable`): from a video, as it was passed, to its shots, pairs of frame numbers (first, behind the
        last); PySceneDetect by default.
    """

    sampling: str | None
    find_shots: Callable[..., Any] | None


class LinVTVideoProcessor(VideoLlmVideoProcessor):
    """Decodes and samples, and leaves the pixels as they are: `LinVTProcessor` hands them to the image processor.

    Called by itself it gives the frames, uint8. With `do_resize=True` and a `size` frames are made smaller before the
    image processor sees them, which saves memory where that keeps the size of what it gets.
    """

    valid_kwargs = LinVTVideoProcessorKwargs
    do_resize = False
    do_center_crop = False
    do_rescale = False
    do_normalize = False
    sampling = "uniform"

    def read_frames(
        self, videos: Any, video_metadata: Any = None, **kwargs: Any
    ) -> list[tuple[torch.Tensor, VideoMetadata]]:
        """Frames `(num_frames, channels, height, width)` of each video, and what is known of it.

        Args:
            videos: one video or a (nested) list of them; see `video_io.load_video` for what a video may be.
            video_metadata: what is known of frames without a file, one entry per video.
            kwargs: options of this processor.

        Raises:
            MediaError: a video cannot be read; the message names it.
            ValueError: options that mean nothing, or contradict each other.
        """
        sources = flatten_videos(videos)
        known = flatten_metadata(video_metadata, len(sources))
        kwargs.update(do_rescale=False, do_normalize=False, return_metadata=True)
        clips = []
        for source, facts in zip(sources, known, strict=True):
            # One by one, since videos may have different sizes.
            clip = self.preprocess([source], video_metadata=[facts], **kwargs)
            frames = clip["pixel_values_videos"][0]
            if frames.is_floating_point():
                raise ValueError(
                    f"{source_name(source)}: frames of floating point; pass uint8, which the image processor expects."
                )
            clips.append((frames, clip["video_metadata"][0]))
        return clips

    def decode(
        self, source: VideoSource, metadata: VideoMetadata | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """As in the base."""
        # Whoever finds shots wants to see the video.
        return super().decode(source, metadata, video=source, **kwargs)

    def _sampler(self, metadata: VideoMetadata | None, video: Any = None, **kwargs: Any) -> partial | None:
        sampling = self._option("sampling", kwargs)
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, not {sampling!r}.")
        uniform = super()._sampler(metadata, **kwargs)
        if sampling == "uniform" or uniform is None:
            return uniform
        if given := [name for name in ("fps", "start", "end") if kwargs.get(name) is not None]:
            raise ValueError(
                f'sampling="shots" divides num_frames among the shots of a whole video: leave out {", ".join(given)}.'
            )
        shots = list((kwargs.get("find_shots") or find_shots_by_content)(video))

        def sample(metadata: VideoMetadata, num_frames: int) -> np.ndarray:
            return frames_of_shots(shots, num_frames, metadata.total_num_frames)

        return partial(sample, num_frames=uniform.keywords["num_frames"])


__all__ = ["LinVTVideoProcessor", "LinVTVideoProcessorKwargs"]
