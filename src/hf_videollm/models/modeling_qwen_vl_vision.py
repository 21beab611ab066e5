"""The vision tower of Qwen-VL (Bai et al., 2023): OpenCLIP's ViT-bigG, 448 pixels, without class token.

    frames (B,3,H,W) -> patches of 14 x 14 -> + learned positions, resized -> layer norm -> 48 pre-norm blocks (B,M,D)

There is no norm after the last block. Names in the public checkpoint (`transformer.visual.`) and names here:

    conv1.weight                             patch_embedding.weight
    positional_embedding                     position_embedding
    ln_pre.*                                 pre_layernorm.*
    transformer.resblocks.N.ln_1.*           layers.N.layer_norm1.*        (ln_2: layer_norm2)
    transformer.resblocks.N.attn.in_proj.*   layers.N.self_attn.{q,k,v}_proj.*
    transformer.resblocks.N.attn.out_proj.*  layers.N.self_attn.out_proj.*
    transformer.resblocks.N.mlp.c_fc.*       layers.N.mlp.fc1.*            (c_proj: fc2)

The rows of in_proj in the public checkpoint are ordered by head: for each head, they hold its query, then its key, then
its value. Here queries, keys and values have a matrix each, as in other towers of transformers, so that LoRA,
quantization and tensor parallelism work.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

from .configuration_qwen_vl_vision import QwenVLVisionConfig
from .video_llm_checkpoint import CheckpointMixin
from .video_llm_eager_attention import eager_attention


def resize_positions(positions: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Resize a square table of positions to another number of positions, as Qwen-VL does.

    Args:
        positions: `(rows * rows, width)`, row-major.
        num_positions: number of positions of the result; a square number.

    Returns:
        `(num_positions, width)` in the dtype of `positions`; bicubic (align_corners=False), computed in float32.

    Raises:
        ValueError: `num_positions` is not a square number.
    """
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ValueError(
            f"{num_positions} patches do not make a square, but positions are known on square grids only: give square "
            "frames, and check vision_feature_select_strategy (a class token is no patch)."
        )
    rows = math.isqrt(len(positions))
    if rows == side:
        return positions
    grid = positions.float().unflatten(0, (rows, rows)).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return resized.squeeze(0).flatten(1).transpose(0, 1).to(positions.dtype)


class QwenVLVisionAttention(nn.Module):
    """Self-attention over the patches of a frame."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False  # transformers' attention functions read this attribute
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, patches, width)` to the same; with `output_attentions` also `(batch, heads, patches, patches)`."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = (eager_attention if output_attentions else attention)(
            self,
            query,
            key,
            value,
            None,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        return self.out_proj(attended.flatten(-2)), weights if output_attentions else None


class QwenVLVisionMLP(nn.Module):
    """Two linear layers, with the exact GELU between them."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, patches, width)` to the same."""
        return self.fc2(self.act(self.fc1(hidden_states)))


class QwenVLVisionLayer(GradientCheckpointingLayer):
    """Attention, then MLP. Each reads normalised states, and its output is added to the states."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = QwenVLVisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = QwenVLVisionMLP(config)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Arguments and results as in `QwenVLVisionAttention`."""
        attended, weights = self.self_attn(self.layer_norm1(hidden_states), output_attentions)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states)), weights


class QwenVLVisionModel(CheckpointMixin, PreTrainedModel):
    """Frames -> features of their patches."""

    config: QwenVLVisionConfig
    config_class = QwenVLVisionConfig
    base_model_prefix = "qwen_vl_vision"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ("QwenVLVisionLayer",)

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Parameter(torch.empty(config.position_grid_size**2, config.hidden_size))
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(QwenVLVisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.patch_embedding = value  # type: ignore[assignment]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QwenVLVisionModel):
            init.normal_(module.position_embedding, std=self.config.hidden_size**-0.5)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """
        Args:
            pixel_values: `(batch, 3, side, side)`, normalised; `side` is a multiple of the patch size, and need not be
                `config.image_size`.
            output_hidden_states: also return the input of the first layer and the output of each layer.
            output_attentions: also return the attention weights (computed step by step, which takes more memory).

        Returns:
            `last_hidden_state` is `(batch, patches, width)`, patches in row-major order.

        Raises:
            ValueError: the frames are not square, or their side is not a multiple of the patch size.
        """
        self._check_frames(pixel_values)
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        positions = resize_positions(self.position_embedding, patches.shape[1])
        hidden_states = self.pre_layernorm(patches + positions)
        config = self.config
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wants_weights = config.output_attentions if output_attentions is None else output_attentions
        all_states, all_weights = [hidden_states], []
        for layer in self.layers:
            hidden_states, weights = layer(hidden_states, wants_weights)
            if wants_states:
                all_states.append(hidden_states)
            all_weights.append(weights)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_states) if wants_states else None,
            attentions=tuple(all_weights) if wants_weights else None,
        )

    def _check_frames(self, pixel_values: torch.Tensor) -> None:
        shape, patch = tuple(pixel_values.shape), self.config.patch_size
        if len(shape) != 4 or shape[-1] != shape[-2] or shape[-1] % patch or shape[-1] < patch:
            raise ValueError(
                f"Frames of shape {shape}: Qwen-VL's tower takes (frames, {self.config.num_channels}, side, side) with "
                f"a side that is a multiple of {patch}; resize them to {self.config.image_size} x "
                f"{self.config.image_size} (size of the image and video processor)."
            )


__all__ = ["QwenVLVisionModel", "resize_positions"]
