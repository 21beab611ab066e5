"""Configuration of the toy design: each frame becomes one token, the mean of its patches."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_video_llm import VideoLlmConfig


@strict
class MeanConfig(VideoLlmConfig):
    """A vision tower, the mean over the patches of each frame, and a language model."""

    model_type = "mean"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_mean.MeanConfig",
        "AutoModel": "modeling_mean.MeanModel",
        "AutoModelForImageTextToText": "modeling_mean.MeanForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_mean.MeanForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_mean.MeanForConditionalGeneration",
        "AutoProcessor": "processing_mean.MeanProcessor",
        "AutoVideoProcessor": "video_processing_mean.MeanVideoProcessor",
    }
    num_frames: int = 8

    def num_video_tokens(self, num_frames: int) -> int:
        """One of each frame."""
        return num_frames


__all__ = ["MeanConfig"]
