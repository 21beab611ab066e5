"""BEATs (Chen et al., 2023: audio pre-training with acoustic tokenizers): a transformer that encodes audio.

The input is a fbank (log mel spectrogram), which is divided into patches:

    fbank (B, T, 128) -> 16 x 16 patches, ordered by time -> layer norm -> linear to the hidden size
    -> plus a convolution over the patches (position embedding) -> layer norm
    -> transformer layers that share one table of relative positions -> (B, T // 16 * 8, hidden size)

Most weights have the names of the official checkpoint. These differ (official name, name here):

    encoder.pos_conv.0.weight_g                               encoder.pos_conv.gain
    encoder.pos_conv.0.weight_v                               encoder.pos_conv.direction
    encoder.pos_conv.0.bias                                   encoder.pos_conv.bias
    encoder.layers.N.self_attn.relative_attention_bias.weight encoder.relative_attention_bias.weight
    predictor.*                                               dropped (classifier of AudioSet; VideoLLaMA2 has no use
                                                              for it)

All layers share one `relative_attention_bias`; official files contain it once, or as an equal copy for each layer.
`weight_g` and `weight_v` have new names because transformers renames weights of these names when it loads a checkpoint.
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
from transformers.utils import can_return_tuple, logging

from .configuration_beats import BeatsConfig
from .media_blank import reach
from .video_llm_checkpoint import CheckpointMixin
from .video_llm_eager_attention import eager_attention

logger = logging.get_logger(__name__)


def relative_position_buckets(relative_position: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """The row (bucket) of the position table for each relative position.

    Each half of the table is for one direction. In each half, the first rows are for one short distance each, and the
    following rows are for ranges of distances, whose sizes grow logarithmically.

    Args:
        relative_position: position of the key minus position of the query, any shape, int64.
        num_buckets: number of rows; the upper half is for keys that come after the query.
        max_distance: all distances of at least this share the last row of their half.

    Returns:
        int64, in the shape of `relative_position`.
    """
    half = num_buckets // 2
    exact = half // 2
    distance = relative_position.abs()
    steps = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + steps.to(torch.long)).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + (relative_position > 0) * half


def token_mask_from_frames(frame_mask: torch.Tensor, patch_size: int, patches_in_frequency: int) -> torch.Tensor:
    """The mask of tokens that belongs to a mask of frames, by the rule of the official code.

    Every 16 frames give 8 tokens, one for each of the 8 patches in frequency. The rule assigns two of these frames to
    each token: token i counts as audio if frame 2i or frame 2i + 1 is audio. So if the last of the 16 frames are
    padding, the tokens for high frequencies are masked, although all 8 tokens cover the same time. Frames after the
    last whole patch are ignored. (For fbanks of 24 to 31 frames, the official code does not ignore them and assigns
    three frames to each token. VideoLLaMA2 always has 2998 frames.)

    Args:
        frame_mask: (batch, frames), bool; true for audio, false for padding.
        patch_size: number of frames in a patch.
        patches_in_frequency: number of tokens for the frames of one patch.

    Returns:
        (batch, frames // patch_size * patches_in_frequency), bool; true for audio.
    """
    batch, frames = frame_mask.shape
    whole = frame_mask[:, : frames // patch_size * patch_size]
    return whole.repeat_interleave(patches_in_frequency, dim=1).view(batch, -1, patch_size).any(dim=-1)


class BeatsPositionalConvEmbedding(nn.Module):
    """Grouped convolution over the tokens, with weight normalisation.

    `gain` holds, for each position of the kernel, the norm of the weights at this position.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.groups = config.conv_pos_groups
        self.gain = nn.Parameter(torch.ones(1, 1, config.conv_pos_kernel))
        self.direction = nn.Parameter(
            torch.empty(config.hidden_size, config.hidden_size // self.groups, config.conv_pos_kernel)
        )
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The position embedding of each token; input and output are (batch, tokens, hidden_size)."""
        direction = self.direction.float()
        # torch's own weight norm is not used, because it does not add the 1e-6, which matters for small weights.
        inverse_length = torch.rsqrt(direction.square().sum(dim=(0, 1), keepdim=True) + 1e-6)
        weight = self.gain.float() * direction * inverse_length
        kernel = weight.shape[-1]
        # On CPUs with AMX, torch 2.14's bfloat16 convolution returns wrong numbers for some group sizes. So this
        # convolution, a small part of the encoder, is computed in float32 on CPUs.
        needs_float32 = hidden_states.dtype == torch.bfloat16 and hidden_states.device.type == "cpu"
        dtype = torch.float32 if needs_float32 else hidden_states.dtype
        convolved = F.conv1d(
            hidden_states.transpose(1, 2).to(dtype),
            weight.to(dtype),
            self.bias.to(dtype),
            padding=kernel // 2,
            groups=self.groups,
        ).transpose(1, 2)
        # With an even kernel size, the convolution returns one position too many; it is dropped.
        return F.gelu(convolved[:, : hidden_states.shape[1]]).to(hidden_states.dtype)


class BeatsGateProjection(nn.Module):
    """A linear layer that computes eight numbers from each query. `BeatsAttention.position_gate` makes a gate of them.

    It is not an `nn.Linear`, so that quantizers leave it alone: with inputs of four dimensions, the int8 layers of
    bitsandbytes would take the second dimension for the features.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, head_dim))
        self.bias = nn.Parameter(torch.empty(8))

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """From `(batch, heads, tokens, head_dim)` to `(batch, heads, tokens, 8)`."""
        return F.linear(query, self.weight, self.bias)


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that is multiplied by a gate, one number for each query and head."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False  # transformers' attention functions read this
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = branch_linear(config.hidden_size, config.hidden_size, config)
        self.out_proj = branch_linear(config.hidden_size, config.hidden_size, config)
        self.grep_linear = BeatsGateProjection(self.head_dim)
        self.grep_a = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))

    def position_gate(self, query: torch.Tensor) -> torch.Tensor:
        """The gate of each query, (batch, heads, tokens, 1).

        Args:
            query: (batch, heads, tokens, head_dim), after `q_proj`, before scaling.
        """
        first, second = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return first * (second * self.grep_a - 1.0) + 2.0

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        token_mask: torch.Tensor | None,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention with gated position bias.

        Args:
            hidden_states: (batch, tokens, hidden_size).
            position_bias: (heads, tokens, tokens), not yet multiplied by the gate.
            token_mask: (batch, tokens), bool; true for audio, false for padding.
            output_attentions: whether to return the attention weights.

        Returns:
            The result (batch, tokens, hidden_size), and the weights (batch, heads, tokens, tokens) or `None`.
        """
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self.position_gate(query) * position_bias
        if token_mask is not None:
            # In place, because this is the largest tensor of a layer. With -inf instead of the lowest number, a row of
            # padding only would become NaN.
            bias.masked_fill_(~token_mask[:, None, None, :], torch.finfo(bias.dtype).min)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = (eager_attention if output_attentions else attention)(
            self,
            query,
            key,
            value,
            bias,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        return self.out_proj(attended.flatten(-2)), weights if output_attentions else None


class BeatsEncoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each followed by a layer norm; the residual is scaled up as in DeepNet."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.residual_weight = (2 * config.num_hidden_layers) ** 0.25 if config.deep_norm else 1.0
        self.activation = ACT2FN[config.hidden_act]
        self.self_attn = BeatsAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = branch_linear(config.hidden_size, config.intermediate_size, config)
        self.fc2 = branch_linear(config.intermediate_size, config.hidden_size, config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        token_mask: torch.Tensor | None,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Arguments and results as in `BeatsAttention`."""
        config = self.config
        attended, weights = self.self_attn(hidden_states, position_bias, token_mask, output_attentions)
        attended = F.dropout(attended, config.hidden_dropout, self.training)
        hidden_states = self.self_attn_layer_norm(self.residual_weight * hidden_states + attended)
        inner = F.dropout(self.activation(self.fc1(hidden_states)), config.activation_dropout, self.training)
        outer = F.dropout(self.fc2(inner), config.hidden_dropout, self.training)
        return self.final_layer_norm(self.residual_weight * hidden_states + outer), weights


class BeatsEncoder(nn.Module):
    """Position embedding and layers; all layers share one table of relative positions."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv = BeatsPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList(BeatsEncoderLayer(config) for _ in range(config.num_hidden_layers))

    def position_bias(self, tokens: int, device: torch.device) -> torch.Tensor:
        """The table's value for each pair of a query and a key, (heads, query tokens, key tokens)."""
        distances = torch.arange(1 - tokens, tokens, device=device)
        buckets = relative_position_buckets(distances, self.config.num_buckets, self.config.max_distance)
        by_distance = self.relative_attention_bias(buckets).T
        # `by_distance` covers the distances from 1 - tokens to tokens - 1. The row of query i is the part of
        # `by_distance` that begins at index tokens - 1 - i. `unfold` makes all these parts; `flip` puts query 0 first.
        return by_distance.unfold(1, tokens, 1).flip(1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> BaseModelOutput:
        """Adds position embeddings and runs all layers.

        Args:
            hidden_states: (batch, tokens, hidden_size).
            token_mask: (batch, tokens), bool; true for audio, false for padding.
            output_hidden_states: whether to return the input of the first layer and the output of each layer.
            output_attentions: whether to return the attention weights of each layer.
        """
        dropout = self.config.hidden_dropout
        if token_mask is not None:
            # The convolution mixes neighbouring tokens, so the padding must be 0.
            hidden_states = hidden_states.masked_fill(~token_mask[..., None], 0.0)
        hidden_states = self.layer_norm(hidden_states + self.pos_conv(hidden_states))
        hidden_states = F.dropout(hidden_states, dropout, self.training)
        bias = self.position_bias(hidden_states.shape[1], hidden_states.device)
        all_states, all_weights = [hidden_states], []
        for layer in self.layers:
            if self.training and torch.rand(()).item() < self.config.layerdrop:
                weights = None
                # The skipped layer gets a gradient of 0 (`reach`), because in distributed training other processes may
                # wait for its gradient.
                if torch.is_grad_enabled():
                    first_mask = None if token_mask is None else token_mask[:1]
                    hidden_states = reach(hidden_states, layer(hidden_states[:1], bias, first_mask, False)[:1])
            else:
                hidden_states, weights = layer(hidden_states, bias, token_mask, output_attentions)
            all_states.append(hidden_states)
            all_weights.append(weights)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_states) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
        )


class BeatsModel(CheckpointMixin, PreTrainedModel):
    """Encodes the fbank of an audio as vectors; with the default patches, 8 vectors for each 0.16 s."""

    config: BeatsConfig
    config_class = BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("BeatsEncoderLayer",)

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            1, config.patch_embedding_dim, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.layer_norm = nn.LayerNorm(config.patch_embedding_dim, eps=config.layer_norm_eps)
        self.post_extract_proj = nn.Linear(config.patch_embedding_dim, config.hidden_size)
        self.encoder = BeatsEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.patch_embedding = value  # type: ignore[assignment]

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """As in transformers, but uses SDPA if flash or flex attention is requested (for a model that contains BEATs).

        Flash and flex attention do not support the learned bias that BEATs adds for each pair of positions.
        """
        if requested_attention is not None and any(kind in requested_attention for kind in ("flash", "flex")):
            logger.warning_once(f"BEATs has no {requested_attention}; its layers use sdpa instead.")
            requested_attention = "sdpa"
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BeatsPositionalConvEmbedding):
            std = math.sqrt(4 / (module.gain.numel() * self.config.hidden_size))
            init.normal_(module.direction, mean=0.0, std=std)
            # `gain` becomes the norm of `direction`, so the weights of the convolution equal `direction` at first.
            init.copy_(module.gain, module.direction.square().sum(dim=(0, 1), keepdim=True).sqrt())
            init.zeros_(module.bias)
        elif isinstance(module, BeatsGateProjection):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, BeatsAttention):
            init.ones_(module.grep_a)
        elif hasattr(module, "deep_norm_gain"):
            init.xavier_normal_(module.weight, gain=module.deep_norm_gain)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        *,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encodes a batch of audios.

        Args:
            input_features: (batch, frames, num_mel_bins), the fbank from `BeatsFeatureExtractor`, not normalised (this
                method normalises it).
            attention_mask: (batch, frames), 1 for audio and 0 for padding; `None` without padding. The output also has
                tokens for padding, whose values must be ignored; `token_mask_from_frames` says which tokens these are.
            output_hidden_states: also return the input of the first layer and the output of each layer.
            output_attentions: also return the attention weights; this needs more memory.
            input_features_mask: the feature extractor's name for `attention_mask`; pass only one of them.

        Raises:
            ValueError: the shapes of features and mask do not fit, the fbank is shorter than a patch, or both masks
                were passed.

        Returns:
            `last_hidden_state` is (batch, frames // patch_size * num_mel_bins // patch_size, hidden_size). The tokens
            are ordered by time and, within a time patch, from low to high frequencies.
        """
        config = self.config
        if attention_mask is not None and input_features_mask is not None:
            raise ValueError("attention_mask and input_features_mask are two names of one thing: pass one of them.")
        attention_mask = input_features_mask if attention_mask is None else attention_mask
        self._check_inputs(input_features, attention_mask)
        # The fbank is normalised in float32, because in bfloat16 each step would round it again.
        features = (input_features.float() - config.fbank_mean) / (2 * config.fbank_std)
        patches = self.patch_embedding(features.to(self.patch_embedding.weight.dtype).unsqueeze(1))
        tokens = self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))
        tokens = F.dropout(tokens, config.hidden_dropout, self.training)
        token_mask = None
        if attention_mask is not None:
            frame_mask = attention_mask.to(tokens.device, torch.bool)
            token_mask = token_mask_from_frames(frame_mask, config.patch_size, config.num_mel_bins // config.patch_size)
        return self.encoder(
            tokens,
            token_mask,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            config.output_attentions if output_attentions is None else output_attentions,
        )

    def _check_inputs(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        config = self.config
        shape = tuple(input_features.shape)
        if len(shape) != 3 or shape[-1] != config.num_mel_bins:
            raise ValueError(
                f"input_features of shape {shape}: BEATs takes (batch, frames, {config.num_mel_bins}); prepare "
                f"the audio with BeatsFeatureExtractor(num_mel_bins={config.num_mel_bins})."
            )
        if shape[1] < config.patch_size:
            raise ValueError(
                f"input_features of {shape[1]} frames: a fbank shorter than one patch of {config.patch_size} frames "
                "cannot be encoded; pad the audio with silence."
            )
        if attention_mask is not None and tuple(attention_mask.shape) != shape[:2]:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)} does not fit input_features of shape {shape}: "
                f"give one number for each frame, {shape[:2]}."
            )


def branch_linear(in_features: int, out_features: int, config: BeatsConfig) -> nn.Linear:
    """A linear layer in a residual branch. The more layers the model has, the smaller its initial weights are.

    Source: DeepNet (Wang et al., 2022).
    """
    layer = nn.Linear(in_features, out_features)
    gain = (8 * config.num_hidden_layers) ** -0.25 if config.deep_norm else 1.0
    layer.deep_norm_gain = gain  # type: ignore[assignment]
    return layer


__all__ = ["BeatsModel"]
