"""Video processor of the toy design."""

from .video_processing_video_llm import VideoLlmVideoProcessor


class MeanVideoProcessor(VideoLlmVideoProcessor):
    """Eight frames of a video."""

    num_frames = 8


__all__ = ["MeanVideoProcessor"]
