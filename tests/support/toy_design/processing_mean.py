"""Processor of the toy design: one placeholder for each frame."""

from .chat_template_vicuna import CHAT_TEMPLATE
from .processing_video_llm import VideoLlmProcessor


class MeanProcessor(VideoLlmProcessor):
    """Makes model inputs."""

    default_chat_template = CHAT_TEMPLATE

    def num_video_tokens(self, num_frames: int) -> int:
        """One of each frame."""
        return num_frames

    def num_image_tokens(self) -> int:
        """That of a single frame."""
        return 1


__all__ = ["MeanProcessor"]
