"""Spatio-temporal significance scores of LinVT (paper section 3.2.1, SVR).

    tokens (B,T,N,D) -> L times [attention within each frame, then across frames at each position] -> scores (B,T,N)

Residuals, norms before the attention and one at the end are not in the paper; without them all tokens become alike
after two layers. The trunk's states end here: tokens that are kept are kept as they came.
"""

from typing import Literal

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .configuration_linvt import LinVTModuleConfig
from .linvt_attention import LinVTAttention


class LinVTScorerLayer(GradientCheckpointingLayer):
    """Attention within frames and across frames, one of them at each call."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.norm_spatial = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.spatial_attn = LinVTAttention(hidden_size, config.num_attention_heads)
        self.norm_temporal = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = LinVTAttention(hidden_size, config.num_attention_heads)

    # One axis at a time, so that a chunk is what gradient checkpointing computes again, and not the whole video.
    def forward(
        self, states: torch.Tensor, axis: Literal["spatial", "temporal"], mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            states: `(sequences, length, hidden_size)`: frames of N positions, or positions in T frames.
            axis: which of the two.
            mask: `(sequences, length)` bool, states that may be looked at.

        Returns:
            As `states`.
        """
        norm, attention = (
            (self.norm_spatial, self.spatial_attn) if axis == "spatial" else (self.norm_temporal, self.temporal_attn)
        )
        normed = norm(states)
        return states + attention(normed, normed, normed, mask)


class LinVTScoreHead(nn.Module):
    """One number per token, in float32 whatever the model is in: bfloat16 would make most scores of a video equal.

    It is no `nn.Linear`, so that quantization and LoRA leave the single row alone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, hidden_size))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Scores of about unit spread for normalised states."""
        init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        init.zeros_(self.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., hidden_size)` to `(...)` float32."""
        with maybe_autocast(device_type=states.device.type, enabled=False):
            return states.float() @ self.weight[0].float() + self.bias.float()


class LinVTScorer(nn.Module):
    """How much every token of a video matters."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(LinVTScorerLayer(hidden_size, config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.score = LinVTScoreHead(hidden_size)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            states: `(batch, T, N, hidden_size)`, tokens and their time code; finite in padded frames as well.
            frame_mask: `(batch, T)` bool, frames that are none of the padding.

        Returns:
            `(batch, T, N)` float32, minus infinity in padded frames.
        """
        batch_size, num_frames, num_positions = states.shape[:3]
        states = states.to(self.norm.weight.dtype)
        is_checkpointed = self.training and any(layer.gradient_checkpointing for layer in self.layers)
        if is_checkpointed and torch.is_grad_enabled() and not states.requires_grad:
            # Reentrant checkpointing gives no gradients to a layer whose inputs need none.
            states = states.detach().requires_grad_()
        position_mask = None if frame_mask is None else frame_mask.repeat_interleave(num_positions, dim=0)
        for layer in self.layers:
            frames = self._in_chunks(layer, states.flatten(0, 1), "spatial", None)
            positions = frames.unflatten(0, (batch_size, num_frames)).transpose(1, 2).flatten(0, 1)
            positions = self._in_chunks(layer, positions, "temporal", position_mask)
            states = positions.unflatten(0, (batch_size, num_positions)).transpose(1, 2)
        scores = self.score(self.norm(states))
        return scores if frame_mask is None else scores.masked_fill(~frame_mask.unsqueeze(-1), float("-inf"))

    def _in_chunks(
        self,
        layer: nn.Module,
        sequences: torch.Tensor,
        axis: Literal["spatial", "temporal"],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sequences do not see each other, so they can go a few at a time."""
        limit = self.config.scorer_chunk_tokens
        size = len(sequences) if limit is None else max(1, limit // sequences.shape[1])
        if size >= len(sequences):
            return layer(sequences, axis, mask)
        chunks = sequences.split(size)
        masks = [None] * len(chunks) if mask is None else mask.split(size)
        return torch.cat([layer(chunk, axis, part) for chunk, part in zip(chunks, masks, strict=True)])


__all__ = ["LinVTScoreHead", "LinVTScorer", "LinVTScorerLayer"]
