"""The two tokens of each frame (IVA, paper section 3.2): one of the frame by itself, one of all frames up to it."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_iva import IvaConfig


def frame_positions(num_frames: int, width: int) -> torch.Tensor:
    """Sinusoidal code of the frame's number, for videos of any length.

    Returns:
        `(num_frames, width)` float32: all sines, then all cosines, of number times 10000^(-i / (width / 2)).
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(num_frames, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class IvaPatchWeight(nn.Module):
    """The logit of each patch in Eq. 1.

    It is no `nn.Linear`, so that quantization and LoRA leave the single row alone: checkpoints call this module
    `weight`, a name that quantizers and PEFT keep for tensors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(frames, patches, width)` to `(frames, patches, 1)`."""
        return F.linear(patches, self.weight, self.bias)


class IvaPooling(nn.Module):
    """Eq. 1: the patches of a frame, each weighted by what it holds, as one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = IvaPatchWeight(width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(frames, patches, width)` to `(frames, width)`."""
        weights = self.weight(patches).squeeze(-1).softmax(-1, dtype=torch.float32)
        return (weights.to(patches.dtype).unsqueeze(1) @ patches).squeeze(1)


class IvaCausalLayer(GradientCheckpointingLayer):
    """Eq. 2: one layer of the transformer in which a frame sees itself and those before it."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.num_heads = config.causal_num_heads
        self.has_mlp_residual = config.causal_mlp_residual
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.causal_mlp_ratio * width),
            nn.GELU(),
            nn.Linear(config.causal_mlp_ratio * width, width),
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(clips, frames, width)` to the same shape."""
        heads = self.qkv(self.attention_norm(frames)).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3)
        query, key, value = heads.unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        frames = frames + self.out(attended.transpose(1, 2).flatten(-2))
        changed: torch.Tensor = self.mlp(self.mlp_norm(frames))
        return frames + changed if self.has_mlp_residual else changed


class IvaConnector(nn.Module):
    """Global and temporal token of each frame."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        self.config = config
        width, text_width = config.vision_width, config.text_config.hidden_size
        self.pooling = IvaPooling(width)
        self.causal_layers = nn.ModuleList([IvaCausalLayer(config) for _ in range(config.causal_num_layers)])
        self.temporal = nn.Linear(width, text_width)
        self.global_mlp = nn.Sequential(nn.Linear(width, text_width), nn.GELU(), nn.Linear(text_width, text_width))

    def forward(
        self,
        global_features: torch.Tensor,
        pooled_features: torch.Tensor,
        num_frames: list[int],
        with_temporal: bool = True,
    ) -> list[torch.Tensor]:
        """Visual tokens of each clip.

        Args:
            global_features: g, `(sum(num_frames), vision_width)`.
            pooled_features: a of Eq. 1, of the same shape.
            num_frames: frame count of each clip.
            with_temporal: give the temporal tokens too, not the global ones alone.

        Returns:
            One `(2 * frames, text_width)` tensor per clip, in the order that the configuration says; `(frames,
            text_width)` without temporal tokens.
        """
        global_tokens = self.global_mlp(global_features).split(num_frames)
        if not with_temporal:
            return list(global_tokens)
        # Shorter clips are padded at their end, where causal attention of their own frames never looks.
        frames = pad_sequence(list(pooled_features.split(num_frames)), batch_first=True)
        frames = frames + frame_positions(frames.shape[1], frames.shape[2]).to(frames)
        for layer in self.causal_layers:
            frames = layer(frames)
        temporal_tokens = [tokens[:count] for tokens, count in zip(self.temporal(frames), num_frames, strict=True)]
        pairs = zip(global_tokens, temporal_tokens, strict=True)
        if self.config.frame_token_order == "concatenated":
            return [torch.cat(pair) for pair in pairs]
        return [torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs]


__all__ = ["IvaCausalLayer", "IvaConnector", "IvaPatchWeight", "IvaPooling", "frame_positions"]
