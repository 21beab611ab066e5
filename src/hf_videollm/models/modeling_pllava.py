"""PLLaVA (Xu et al., 2024). Paper section 3.3: project every patch into the language space, then pool.

    frames (T,3,H,W) -> CLIP, layer -2, class token dropped -> (T, h*w, Dv)
                     -> MLP on all patches                  -> (T, h*w, D)
                     -> AdaptiveAvgPool3d over (T, h, w)    -> (16*12*12, D)

The second layer of the MLP runs after the pooling here, which gives the same and is less work.

Pooling has no parameters; the LLM is adapted by LoRA, whose alpha can be lowered after training (section 3.4).
"""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_pllava import PllavaConfig, pllava_pooled_shape
from .configuration_video_llm import check_patch_grid, patch_grid
from .modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel
from .pllava_lora import AdjustableLoraMixin
from .video_llm_chunks import frames_in_budget


class PllavaConnector(nn.Module):
    """Two-layer projector on all patches, then adaptive average pooling over time and space."""

    def __init__(self, config: PllavaConfig) -> None:
        super().__init__()
        num_layers = 1 if isinstance(config.vision_feature_layer, int) else len(config.vision_feature_layer)
        self.linear_1 = nn.Linear(config.vision_config.hidden_size * num_layers, config.text_config.hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)
        self.pooling_shape = tuple(config.pooling_shape)
        self.patch_grid = patch_grid(config.vision_config)

    def forward(self, frame_features: torch.Tensor, num_frames: list[int]) -> list[torch.Tensor]:
        """Visual tokens of each clip.

        Args:
            frame_features: `(sum(num_frames), patches, vision_width)`, patches in row-major order.
            num_frames: frame count of each clip.

        Returns:
            One `(t * h * w, text_width)` tensor per clip, time-major then row then column.
        """
        num_values = 3 * frame_features.shape[1] * self.linear_1.out_features
        limit = frames_in_budget(num_values * frame_features.element_size(), 16)
        if sum(num_frames) > limit:
            pooled = [self.pool_in_parts(clip, limit) for clip in frame_features.split(num_frames)]
        else:
            activated = self.act(self.linear_1(frame_features))
            if any(self.is_pooled_to_more(count, frame_features.shape[1]) for count in num_frames):
                return [self.pool(clip) for clip in self.linear_2(activated).split(num_frames)]
            pooled = [self.pool(clip) for clip in activated.split(num_frames)]
        # Means and a linear layer can change places: both orders give the same vectors, up to rounding. So the layer
        # runs on the means, which are fewer than the patches (2,304 instead of 9,216 for 16 frames of 24 x 24 patches).
        tokens: torch.Tensor = self.linear_2(torch.cat(pooled))
        return list(tokens.split([len(clip) for clip in pooled]))

    def is_pooled_to_more(self, num_frames: int, num_patches: int) -> bool:
        """Whether a clip is so short, or its frames so small, that pooling makes more tokens than it has patches."""
        return math.prod(pllava_pooled_shape(num_frames, self.pooling_shape)) > num_frames * num_patches

    def pool(self, clip: torch.Tensor) -> torch.Tensor:
        """Pool one clip `(T, patches, D)` to `(t * h * w, D)`. T and the grid need not be multiples of t, h and w."""
        time, patches, width = clip.shape
        volume = clip.permute(2, 0, 1).reshape(1, width, time, *check_patch_grid(self.patch_grid, patches))
        pooled = F.adaptive_avg_pool3d(volume, pllava_pooled_shape(time, self.pooling_shape))
        return pooled.flatten(2).squeeze(0).transpose(0, 1)

    def pool_in_parts(self, clip: torch.Tensor, limit: int) -> torch.Tensor:
        """As `linear_1`, the activation and `pool`, but `limit` frames at a time, for clips of any length.

        The cells of adaptive pooling are products of intervals of time, rows and columns, so space is pooled first.
        Each frame is then added to the means of the intervals of time that it belongs to.

        Args:
            clip: features of the frames, `(T, patches, vision_width)`.
            limit: frames at a time.
        """
        time, height, width = pllava_pooled_shape(len(clip), self.pooling_shape)
        grid = check_patch_grid(self.patch_grid, clip.shape[1])
        pooled = torch.zeros((), device=clip.device)
        for frames, weights in zip(
            clip.split(limit), time_weights(len(clip), time, clip.device).split(limit, dim=1), strict=True
        ):
            states = self.act(self.linear_1(frames)).unflatten(1, grid).permute(0, 3, 1, 2)
            rows = F.adaptive_avg_pool2d(states, (height, width)).permute(0, 2, 3, 1).flatten(1)
            # The sum is in float32, because half precision would round the small shares of many frames away.
            pooled = pooled + weights @ rows.float()
        return pooled.to(clip.dtype).view(-1, self.linear_1.out_features)


def time_weights(num_frames: int, num_means: int, device: torch.device) -> torch.Tensor:
    """The weight of each frame in each mean of adaptive average pooling: `(num_means, num_frames)` float32."""
    means, frames = torch.arange(num_means, device=device).unsqueeze(1), torch.arange(num_frames, device=device)
    starts, ends = means * num_frames // num_means, ((means + 1) * num_frames + num_means - 1) // num_means
    return ((frames >= starts) & (frames < ends)).float() / (ends - starts)


class PllavaModel(AdjustableLoraMixin, VideoLlmModel):
    """PLLaVA without a head: features for retrieval, serving engines and tests."""

    config_class = PllavaConfig
    connector_class = PllavaConnector

    def output_weights(self) -> dict[str, list[nn.Parameter]]:
        connector: Any = self.connector
        return {"connector": [connector.linear_1.weight, connector.linear_2.weight]}

    def get_placeholder_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        modality: str,
        present: Collection[str] | None = None,
    ) -> torch.Tensor:
        """As in the base class, but in a batch without images, `<image>` is also a placeholder of videos.

        This is needed because the original code writes `<image>` for a video.
        """
        mask = super().get_placeholder_mask(input_ids, inputs_embeds, modality, present)
        if modality == "video" and present is not None and "image" not in present:
            mask = mask | super().get_placeholder_mask(input_ids, inputs_embeds, "image", present)
        return mask


class PllavaForConditionalGeneration(AdjustableLoraMixin, VideoLlmForConditionalGeneration):
    """PLLaVA with a language-model head: answers questions on videos and images."""

    config_class = PllavaConfig
    model_class = PllavaModel


__all__ = ["PllavaConnector", "PllavaForConditionalGeneration", "PllavaModel"]
