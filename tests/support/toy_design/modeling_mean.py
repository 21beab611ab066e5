"""Model of the toy design."""

import torch
from torch import nn

from .configuration_mean import MeanConfig
from .modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel


class MeanConnector(nn.Module):
    """The mean of the patches of each frame, in the space of the language model."""

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)

    def forward(self, frame_features: torch.Tensor, num_frames: list[int]) -> list[torch.Tensor]:
        """`(total_frames, patches, vision_width)` -> `(frames, text_width)` of each clip."""
        return list(self.projection(frame_features.mean(1)).split(num_frames))


class MeanModel(VideoLlmModel):
    """Without a head."""

    config_class = MeanConfig
    connector_class = MeanConnector


class MeanForConditionalGeneration(VideoLlmForConditionalGeneration):
    """With a head."""

    config_class = MeanConfig
    model_class = MeanModel


__all__ = ["MeanForConditionalGeneration", "MeanModel"]
