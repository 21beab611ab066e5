"""Frames for LinVT: chosen here, and turned into pixel values by the image processor of the image-LLM."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .media_shots import find_shots_by_content, frames_of_shots
from .media_source import VideoSource, source_name
from .media_video_inputs import flatten_metadata, flatten_videos
from .video_processing_video_llm import VideoLlmVideoProcessor, VideoLlmVideoProcessorKwargs

SAMPLINGS = ("uniform", "shots")


@dataclass(frozen=True)
class FramesInTime:
    """What was read of a video.

    Args:
        frames: `(num_frames, channels, height, width)` uint8.
        times: seconds of each frame since the start of the clip, or `None`.
        metadata: of the whole video.
    """

    frames: torch.Tensor
    times: list[float] | None
    metadata: VideoMetadata


class LinVTVideoProcessorKwargs(VideoLlmVideoProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Options of LinVT's video processor, besides those of all designs.

    sampling (`str`): `"uniform"`, or `"shots"`: the video is cut into shots, and each gets frames by its length.
    find_shots (`Callable`): from a video, as it was passed, to its shots, pairs of frame numbers (first, behind the
        last); PySceneDetect by default.
    frame_times (`list`): seconds of the frames of each video, `None` where they are not known: for frames without a
        file. Files tell the times themselves.
    """

    sampling: str | None
    # A function; transformers does not check that of an annotation.
    find_shots: Any
    frame_times: list[Any] | tuple[Any, ...] | None


class LinVTVideoProcessor(VideoLlmVideoProcessor):
    """Decodes and samples, and leaves the pixels as they are: `LinVTProcessor` hands them to the image processor.

    Called by itself it gives the frames, uint8. With `do_resize=True` and a `size` frames are made smaller before the
    image processor sees them, which saves memory where that keeps the size of what it gets.
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
        """Frames of each video, their times, and what is known of it.

        Args:
            videos: one video or a (nested) list of them; see `media_video.load_video` for what a video may be.
            video_metadata: what is known of frames without a file, one entry per video.
            frame_times: see `LinVTVideoProcessorKwargs`.
            video_options: see `VideoLlmVideoProcessorKwargs`.
            kwargs: options of this processor.

        Raises:
            MediaError: a video cannot be read; the message names it.
            ValueError: options that mean nothing, or contradict each other.
        """
        sources = flatten_videos(videos)
        known = flatten_metadata(video_metadata, len(sources))
        given = [None] * len(sources) if frame_times is None else list(frame_times)
        if len(given) != len(sources):
            raise ValueError(f"frame_times has {len(given)} entries for {len(sources)} videos: pass one per video.")
        kwargs.update(do_rescale=False, do_normalize=False, return_metadata=True)
        wishes = self.options_of_each(video_options, len(sources), kwargs)
        clips = []
        for source, facts, times, options in zip(sources, known, given, wishes, strict=True):
            # One by one, since videos may have different sizes.
            clip = self.preprocess([source], video_metadata=[facts], **options)
            frames, found = clip["pixel_values_videos"][0], clip["video_metadata"][0]
            if frames.is_floating_point():
                raise ValueError(
                    f"{source_name(source)}: frames of floating point; pass uint8, which the image processor expects."
                )
            if times is None:
                # Of frames that were chosen before, only the user knows which they are.
                is_chosen = (
                    options.get("do_sample_frames") is False and getattr(facts, "frames_indices", None) is not None
                )
                times = seconds_of(facts if is_chosen else found, options.get("start") or 0.0)
            if times is not None and len(times) != len(frames):
                raise ValueError(
                    f"{source_name(source)}: {len(times)} frame_times for {len(frames)} frames: pass one per frame, "
                    "and do_sample_frames=False with frames that are chosen already."
                )
            clips.append(FramesInTime(frames, None if times is None else [float(time) for time in times], found))
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


def seconds_of(metadata: Any, start: float = 0.0) -> list[float] | None:
    """Seconds from the start of the clip to each chosen frame; `None` without a frame rate."""
    if not metadata.fps:
        return None
    return [time - start for time in metadata.timestamps]


__all__ = ["FramesInTime", "LinVTVideoProcessor", "LinVTVideoProcessorKwargs", "seconds_of"]
