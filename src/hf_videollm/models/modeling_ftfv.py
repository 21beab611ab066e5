"""FTFV (Chen et al., 2024: fewer tokens and fewer videos). Paper section 3: keep the K best tokens of every frame.

    frames (T,3,H,W) -> vision tower                                  -> (T, M, D)
                     -> + temporal code of the frame (videos only)
                     -> cross-attention with N learned queries, Eq. 1 -> (T, N, C) and the attention weights
                     -> the K queries with the highest peaks, Eq. 2   -> (T * K, language width)

The cross-attention is that of Qwen-VL. In Qwen-VL's checkpoints (`transformer.visual.`) the weights have other names:
`attn_pool.X` there is `connector.X` here, `ln_post` and `proj` are `connector.ln_post` and `connector.proj`. The
sampler has no parameters, so every call can choose its own K.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple
from transformers.utils.generic import maybe_autocast

from .configuration_ftfv import FtfvConfig
from .modeling_qwen_vl_vision import QwenVLVisionModel, resize_positions
from .modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel
from .video_llm_chunks import frames_in_budget, join_parts
from .video_llm_vision_tower import NORM_OF_POOLED_OUTPUT, freeze_unused_layers

# How many attention weights are in memory at a time: 256 MiB in float32, which is 8 frames of the paper's size.
MAX_WEIGHTS_AT_A_TIME = 2**26
QWEN_VL_WIDTH = 4096


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Fixed positional code of the cells of a square grid, as in Qwen-VL.

    The first half of the channels is the code of the column, the second half that of the row. Each half holds first
    the sines and then the cosines of the number times 10000^(-i / (width / 4)).

    Args:
        side: number of rows, and of columns.
        width: a multiple of 4.

    Returns:
        `(side * side, width)` float32, row-major.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    code = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns = code[None].expand(side, side, -1)
    rows = code[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


def attention_peaks(weights: torch.Tensor, reduction: str) -> torch.Tensor:
    """The value r of Eq. 2: the highest attention weight of each query.

    Args:
        weights: `(frames, heads, queries, patches)`, softmax weights in float32.
        reduction: how the weights of the heads become one weight: their `"mean"`, as torch's attention returns it for
            Eq. 1, or their `"max"`.

    Returns:
        `(frames, queries)`.
    """
    return weights.mean(1).amax(-1) if reduction == "mean" else weights.amax((1, 3))


def choose_queries(peaks: torch.Tensor, num_kept: int, order: str) -> torch.Tensor:
    """The indices idx of Eq. 2: the queries with the highest peaks in each frame. Of equal peaks, the first is chosen.

    Args:
        peaks: `(frames, queries)`.
        num_kept: K.
        order: `"score"`: highest peak first. `"query"`: in the order of the queries.

    Returns:
        `(frames, K)` int64.
    """
    # With `topk`, the choice between two equal peaks would depend on the device.
    chosen = peaks.sort(dim=-1, descending=True, stable=True).indices[:, :num_kept]
    return chosen if order == "score" else chosen.sort(dim=-1).values


class FtfvCrossAttention(GradientCheckpointingLayer):
    """Attention of the queries to the patches of each frame. The parameters are those of `nn.MultiheadAttention`.

    Eq. 2 needs the attention weights. No fused kernel returns them, so attention is computed step by step.
    """

    def __init__(self, config: FtfvConfig) -> None:
        super().__init__()
        width = config.adapter_width
        self.config = config
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        num_kept: int | None = None,
    ) -> torch.Tensor:
        """
        Args:
            query: `(queries, width)`, the same for all frames.
            key, value: `(frames, patches, width)`.
            num_kept: number of queries of each frame to keep, those with the highest peaks (Eq. 2); `None` keeps all
                of them, in their order.

        Returns:
            `(frames, kept queries, width)`.
        """
        weights_q, weights_k, weights_v = self.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)
        heads = self._split(F.linear(query, weights_q, bias_q).unsqueeze(0))
        keys, values = self._split(F.linear(key, weights_k, bias_k)), self._split(F.linear(value, weights_v, bias_v))
        num_weights = self.config.adapter_num_heads * query.shape[0] * key.shape[1]
        chunk_size = max(1, MAX_WEIGHTS_AT_A_TIME // num_weights)
        attended = [
            self._attend(heads, key_chunk, value_chunk, num_kept)
            for key_chunk, value_chunk in zip(keys.split(chunk_size), values.split(chunk_size), strict=True)
        ]
        # `out_proj` maps each token separately, so it runs only on the tokens that were kept.
        return self.out_proj(torch.cat(attended))

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_kept: int | None
    ) -> torch.Tensor:
        weights = _softmax_weights(query, key)
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(-2)
        if num_kept is None:
            return attended
        peaks = attention_peaks(weights.detach(), self.config.attention_score_reduction)
        chosen = choose_queries(peaks, num_kept, self.config.sampler_order)
        return attended.gather(1, chosen.unsqueeze(-1).expand(-1, -1, attended.shape[-1]))

    def attention_weights(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """How much each query attends to each patch of each frame, to look at it. `forward` does not need this method.

        Args:
            query: `(queries, width)`.
            key: `(frames, patches, width)`.

        Returns:
            `(frames, heads, queries, patches)` float32.
        """
        weights_q, weights_k, _ = self.in_proj_weight.chunk(3)
        bias_q, bias_k, _ = self.in_proj_bias.chunk(3)
        heads = self._split(F.linear(query, weights_q, bias_q).unsqueeze(0))
        return _softmax_weights(heads, self._split(F.linear(key, weights_k, bias_k)))

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` to `(batch, heads, length, width / heads)`."""
        return projected.unflatten(-1, (self.config.adapter_num_heads, -1)).transpose(1, 2)


def _softmax_weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Attention weights of queries `(1, heads, queries, width)` to keys `(frames, heads, patches, width)`."""
    # Weights are computed in float32, also under autocast: in bfloat16, 256 peaks would have only about 145 different
    # values.
    with maybe_autocast(device_type=query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.softmax(-1)


class FtfvConnector(nn.Module):
    """Temporal code, cross-attention and weighted token sampler. Images have no temporal code."""

    def __init__(self, config: FtfvConfig) -> None:
        super().__init__()
        self.config = config
        num_layers = 1 if isinstance(config.vision_feature_layer, int) else len(config.vision_feature_layer)
        in_width = config.vision_config.hidden_size * num_layers
        width = config.adapter_width
        self.query = nn.Parameter(torch.empty(config.num_queries, width))
        # This table is part of Qwen-VL's checkpoints. It is never trained.
        self.pos_embed = nn.Parameter(torch.empty(config.num_queries, width), requires_grad=False)
        self.kv_proj = nn.Linear(in_width, width, bias=False)
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(width, eps=1e-6)
        self.attn = FtfvCrossAttention(config)
        self.ln_post = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Parameter(torch.empty(width, config.text_config.hidden_size))
        self.temporal_embedding = nn.Parameter(torch.empty(config.num_frames, 1, in_width))

    def forward(
        self,
        frame_features: torch.Tensor,
        num_frames: list[int],
        num_tokens_per_frame: int | None = None,
        is_video: bool = True,
    ) -> list[torch.Tensor]:
        """Visual tokens of each clip.

        Args:
            frame_features: `(sum(num_frames), patches, vision_width)`, patches in row-major order of a square.
            num_frames: frame count of each clip.
            num_tokens_per_frame: K; if `None`, the K of the configuration.
            is_video: clips are videos, with temporal code and sampling. Images have no temporal code, and are sampled
                only if the configuration says `sample_images`.

        Returns:
            One `(frames * tokens, text_width)` tensor per clip, in the order of the frames.

        Raises:
            ValueError: K is out of range, or the patches of a frame do not make a square.
        """
        num_kept = self.config.kept_tokens(num_tokens_per_frame)
        kept = num_kept if is_video or self.config.sample_images else None
        codes = torch.cat([self.temporal_code(count) for count in num_frames]) if is_video else None
        values_per_frame = 6 * frame_features.shape[1] * self.config.adapter_width
        limit = frames_in_budget(values_per_frame * frame_features.element_size(), 8)
        chunks = frame_features.split(limit)
        codes_of_chunks = [None] * len(chunks) if codes is None else codes.split(limit)
        tokens = (self.tokens_of_frames(*parts, kept) for parts in zip(chunks, codes_of_chunks, strict=True))
        return [clip.flatten(0, 1) for clip in join_parts(tokens, len(frame_features)).split(num_frames)]

    def tokens_of_frames(
        self, frame_features: torch.Tensor, codes: torch.Tensor | None, num_kept: int | None
    ) -> torch.Tensor:
        """Visual tokens of some frames, `(frames, tokens, text_width)`.

        Args:
            frame_features: `(frames, patches, vision_width)`.
            codes: the temporal code of each frame, `(frames, 1, vision_width)`; `None` for images.
            num_kept: K; `None` keeps the tokens of all queries.
        """
        if codes is not None:
            frame_features = frame_features + codes.to(frame_features.dtype)
        pos_embed = self.pos_embed.detach()
        query = self.ln_q(self.query) + pos_embed
        patches = self.ln_kv(self.kv_proj(frame_features))
        key = patches + resize_positions(pos_embed, patches.shape[1])
        return self.ln_post(self.attn(query, key, patches, num_kept)) @ self.proj

    def freeze_unused_parameters(self) -> None:
        """Freeze the positional table, which is never trained; see `VideoLlmModel.freeze_unused_parameters`."""
        self.pos_embed.requires_grad_(False)

    def temporal_code(self, num_frames: int) -> torch.Tensor:
        """The code E (section 3.2) for a clip of `num_frames` frames: `(num_frames, 1, vision_width)`.

        If clips are longer or shorter than those of the training, E is interpolated over time. The first and the last
        frame always get the first and the last code.
        """
        if num_frames == len(self.temporal_embedding):
            return self.temporal_embedding
        code = self.temporal_embedding.float().permute(1, 2, 0)
        resized = F.interpolate(code, size=num_frames, mode="linear", align_corners=True)
        return resized.permute(2, 0, 1).to(self.temporal_embedding.dtype)


class FtfvModel(VideoLlmModel):
    """FTFV without a head: features for retrieval, serving engines and tests."""

    config_class = FtfvConfig
    connector_class = FtfvConnector
    media_options = ("num_tokens_per_frame",)
    placeholder_hint: ClassVar[str] = (
        "Make the prompt with the processor of this checkpoint, and give both the same num_tokens_per_frame."
    )
    # Libraries must not split the connector between devices, because its forward uses parameters that are in no layer.
    _no_split_modules = ("FtfvConnector",)

    def __init__(self, config: FtfvConfig) -> None:
        # `from_pretrained` writes extra arguments into the configuration without a check, so K is checked here.
        config.kept_tokens()
        if config.vision_config.model_type == QwenVLVisionModel.config_class.model_type:
            # As remote code, the files of configuration and model are loaded separately, and each load makes its own
            # configuration class. So the class of this configuration is registered here.
            AutoModel.register(type(config.vision_config), QwenVLVisionModel, exist_ok=True)
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FtfvConnector):
            init.trunc_normal_(module.query, std=0.02)
            init.copy_(module.pos_embed, sine_positions(math.isqrt(len(module.query)), module.query.shape[-1]))
            init.normal_(module.proj, std=len(module.proj) ** -0.5)
            init.normal_(module.temporal_embedding, std=0.02)
            init.normal_(module.kv_proj.weight, std=module.kv_proj.in_features**-0.5)
        elif isinstance(module, FtfvCrossAttention):
            # Qwen-VL draws these weights with 0.02 at a width of 4,096. In a smaller adapter, products of queries and
            # keys would be so small that all attention weights were equal, and the gradients of queries and codes 0.
            std = 0.02 * (QWEN_VL_WIDTH / module.out_proj.in_features) ** 0.5
            init.trunc_normal_(module.in_proj_weight, std=std)
            init.zeros_(module.in_proj_bias)
            init.normal_(module.out_proj.weight, std=std)

    def output_weights(self) -> dict[str, list[nn.Parameter]]:
        connector: Any = self.connector
        return {"connector": [connector.ln_post.weight, connector.proj]}

    def skip_unused_vision_layers(self) -> None:
        """As in the base class, but the norm after the last layer is not frozen if the features pass through it."""
        layer = self.config.vision_feature_layer
        is_normed = layer == -1 and self.config.vision_config.model_type not in NORM_OF_POOLED_OUTPUT
        freeze_unused_layers(self.vision_tower, layer, uses_closing_norm=is_normed)
        self.make_tower_stoppable()

    def used_hidden_states(self) -> Sequence[int]:
        """As in the base class, but layer -1 is not a hidden state; see `choose_layers`."""
        return [] if self.config.vision_feature_layer == -1 else super().used_hidden_states()

    def choose_layers(self, outputs: Any) -> torch.Tensor:
        """As in the base class, but layer -1 is `last_hidden_state`, to which some towers have applied a norm."""
        return outputs.last_hidden_state if self.config.vision_feature_layer == -1 else super().choose_layers(outputs)

    def covers_visual_parts(self, present: Collection[str]) -> bool:
        """Whether a batch uses all parts. Only videos do, because images have no temporal code."""
        return "video" in present

    def encode_blank_frames(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """As in the base class, but the blank frame is encoded as a video, because images have no temporal code."""
        return list(self.get_video_features(frames.unsqueeze(0), return_dict=True).pooler_output)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, num_tokens_per_frame: int | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of images, all N of each image, without temporal code.

        Args:
            pixel_values: `(num_images, 3, height, width)`, images of all rows in row order.
            num_tokens_per_frame: K, which is used for images only if the configuration has `sample_images`.

        Returns:
            `pooler_output` is a list with one `(num_tokens, text_width)` tensor per image.
        """
        options = {**kwargs, "num_tokens_per_frame": num_tokens_per_frame, "connector_options": {"is_video": False}}
        return self.get_frame_features(pixel_values, [1] * len(pixel_values), **options)

    # `generate` passes an option to this method only if the signature names it.
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        num_video_frames: torch.Tensor | None = None,
        num_tokens_per_frame: int | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """As in the base class.

        Args:
            num_tokens_per_frame: K for all videos of this call; if `None`, the K of the configuration.
        """
        options = {**kwargs, "num_tokens_per_frame": num_tokens_per_frame}
        return super().get_video_features(pixel_values_videos, num_video_frames, **options)


class FtfvForConditionalGeneration(VideoLlmForConditionalGeneration):
    """FTFV that answers questions on videos and images.

    `num_tokens_per_frame=K`, in a call of the model, of `generate` or of `get_video_features`, is the number of tokens
    of each frame. The processor needs the same number.
    """

    config_class = FtfvConfig
    model_class = FtfvModel

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        num_tokens_per_frame: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. `num_tokens_per_frame` is named because `generate` refuses options that are not."""
        return super().prepare_inputs_for_generation(
            input_ids, inputs_embeds, prompt_embeds, num_tokens_per_frame=num_tokens_per_frame, **kwargs
        )


__all__ = ["FtfvConnector", "FtfvForConditionalGeneration", "FtfvModel"]
