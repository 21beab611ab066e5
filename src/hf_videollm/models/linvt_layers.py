"""The layers of LinVT in the order of the paper: score, select, pool, attend, aggregate.

    score      tokens (B,T,N,D) -> L times [attention within each frame, then across frames at each position]
               -> scores (B,T,N)                                                     section 3.2.1, SVR
    select     scores -> numbers of the k best tokens, in the order of time          section 3.2.1, SVR
    pool       k tokens -> at each scale, the means over windows of neighbours       section 3.2.1, MTP
    attend     queries -> L times [attention to queries, means of the scale, text]   section 3.2.2, TTA
    aggregate  queries, means -> one weight per query and mean                       section 3.2.2, TTA

The hidden states of the scorer and of the queries decide which tokens are kept and which weights they get. These states
are not part of the output: `LinVTModule` computes the output from the weights and the original tokens only.
"""

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .configuration_linvt import LinVTModuleConfig, num_windows

# Added to the variance of scores, so that equal scores are not divided by 0.
SCORE_EPS = 1e-6


class LinVTAttention(nn.Module):
    """Multi-head attention with biases; torch's fused kernel computes its softmax in float32."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            query: `(batch, length, hidden_size)`.
            key, value: `(batch, key_length, hidden_size)`.
            key_mask: `(batch, key_length)` bool, false for keys that are ignored, true somewhere in each row; `None`
                if no key is ignored.

        Returns:
            `(batch, length, hidden_size)`.
        """
        queries, keys, values = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = None if key_mask is None else key_mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.o_proj(attended.transpose(1, 2).flatten(-2))


class LinVTScorerLayer(GradientCheckpointingLayer):
    """Score: one call computes either attention within frames or attention across frames.

    The paper has neither residual connections nor norms. Without them all tokens become alike after two layers.
    """

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.norm_spatial = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.spatial_attn = LinVTAttention(hidden_size, config.num_attention_heads)
        self.norm_temporal = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = LinVTAttention(hidden_size, config.num_attention_heads)

    # Each call handles one axis, so that gradient checkpointing recomputes one chunk at a time, not the whole video.
    def forward(
        self, states: torch.Tensor, axis: Literal["spatial", "temporal"], mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            states: `(sequences, length, hidden_size)`. A sequence is one frame with its N positions (`"spatial"`), or
                one position in all T frames (`"temporal"`).
            axis: `"spatial"` for attention within frames, `"temporal"` for attention across frames.
            mask: `(sequences, length)` bool, false for states that are ignored.

        Returns:
            As `states`.
        """
        norm, attention = (
            (self.norm_spatial, self.spatial_attn) if axis == "spatial" else (self.norm_temporal, self.temporal_attn)
        )
        normed = norm(states)
        return states + attention(normed, normed, normed, mask)


class LinVTScoreHead(nn.Module):
    """Score: one number per token, always in float32, because most scores of a video would be equal in bfloat16.

    It is not an `nn.Linear`, so quantization and LoRA do not touch its single row of weights.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, hidden_size))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw random weights, so that the scores of normalised states have a standard deviation of about 1."""
        init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        init.zeros_(self.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., hidden_size)` to `(...)` float32."""
        with maybe_autocast(device_type=states.device.type, enabled=False):
            return states.float() @ self.weight[0].float() + self.bias.float()


class LinVTScorer(nn.Module):
    """Score: how much each token of a video matters (SVR)."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(LinVTScorerLayer(hidden_size, config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.score = LinVTScoreHead(hidden_size)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            states: `(batch, T, N, hidden_size)`, tokens plus time code; without gradients they are changed. Padded
                frames must also hold finite numbers.
            frame_mask: `(batch, T)` bool, false for padded frames.

        Returns:
            `(batch, T, N)` float32, minus infinity in padded frames.
        """
        states = states.to(self.norm.weight.dtype)
        is_checkpointed = self.training and any(layer.gradient_checkpointing for layer in self.layers)
        if is_checkpointed and torch.is_grad_enabled() and not states.requires_grad:
            # Reentrant checkpointing computes no gradients for a layer whose inputs require none.
            states = states.detach().requires_grad_()
        if torch.is_grad_enabled():
            scores = self._score_with_gradients(states, frame_mask)
        else:
            scores = self._score_in_place(states, frame_mask)
        return scores if frame_mask is None else scores.masked_fill(~frame_mask.unsqueeze(-1), float("-inf"))

    def _score_with_gradients(self, states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        batch_size, num_frames, num_positions = states.shape[:3]
        position_mask = None if frame_mask is None else frame_mask.repeat_interleave(num_positions, dim=0)
        for layer in self.layers:
            frames = self._in_chunks(layer, states.flatten(0, 1), "spatial", None)
            positions = frames.unflatten(0, (batch_size, num_frames)).transpose(1, 2).flatten(0, 1)
            positions = self._in_chunks(layer, positions, "temporal", position_mask)
            states = positions.unflatten(0, (batch_size, num_positions)).transpose(1, 2)
        return self.score(self.norm(states))

    def _score_in_place(self, states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """The same, but a layer writes its output into its input, so that a long video is in memory once.

        Args:
            states: as in `forward`; they are changed.
            frame_mask: as in `forward`.
        """
        for layer in self.layers:
            for video, mask in zip(states, [None] * len(states) if frame_mask is None else frame_mask, strict=True):
                for chunk in video.split(self._sequences_at_a_time(video.shape[1], len(video))):
                    chunk.copy_(layer(chunk, "spatial", None))
                positions = video.transpose(0, 1)
                size = self._sequences_at_a_time(len(video), len(positions))
                for chunk in positions.split(size):
                    rows = None if mask is None else mask.expand(len(chunk), -1)
                    chunk.copy_(layer(chunk, "temporal", rows))
        size = self._sequences_at_a_time(states.shape[2], states.shape[1])
        return torch.cat([self.score(self.norm(part)) for part in states.split(size, dim=1)], dim=1)

    def _in_chunks(
        self,
        layer: nn.Module,
        sequences: torch.Tensor,
        axis: Literal["spatial", "temporal"],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run the layer over a few sequences at a time, to save memory. Sequences do not attend to each other."""
        size = self._sequences_at_a_time(sequences.shape[1], len(sequences))
        if size >= len(sequences):
            return layer(sequences, axis, mask)
        chunks = sequences.split(size)
        masks = [None] * len(chunks) if mask is None else mask.split(size)
        return torch.cat([layer(chunk, axis, part) for chunk, part in zip(chunks, masks, strict=True)])

    def _sequences_at_a_time(self, length: int, most: int) -> int:
        limit = self.config.scorer_chunk_tokens
        return most if limit is None else max(1, min(most, limit // length))


def choose_tokens(scores: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Select: the numbers of the tokens with the highest scores, in ascending order.

    If scores are equal, the earlier token is chosen.

    Args:
        scores: `(batch, tokens)` float32, minus infinity for tokens that must not be chosen.
        num_kept: how many tokens to keep, at most `tokens`.

    Returns:
        Numbers of the tokens, `(batch, num_kept)` int64, and a bool mask of the same shape. If a row has fewer tokens
        that may be chosen, the mask is false for its last entries.
    """
    # `topk` is not used, because it depends on the kernel which of two equal scores it takes.
    best = scores.sort(dim=-1, descending=True, stable=True)
    indices, mask = best.indices[:, :num_kept], best.values[:, :num_kept] != float("-inf")
    indices = (indices + ~mask * scores.shape[-1]).sort(dim=-1).values
    return indices % scores.shape[-1], indices < scores.shape[-1]


def standardise(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scores of each row minus their mean, divided by their standard deviation; 0 where the mask is false."""
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    scores = scores.masked_fill(~mask, 0)
    centred = (scores - scores.sum(1, keepdim=True) / counts).masked_fill(~mask, 0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / counts + SCORE_EPS)


def zero_changes(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Select: standardised scores minus themselves, which is 0 and has the gradient of the standardised scores.

    The choice of tokens depends only on the order of the scores, not on their mean and scale. Standardised scores give
    no gradient to mean and scale. With such a gradient, the mean would drift away within a few steps of training.

    Args:
        scores: `(batch, k)` float32, of the chosen tokens.
        mask: `(batch, k)` bool, false for padding.

    Returns:
        `(batch, k)` float32, 0 everywhere.
    """
    standardised = standardise(scores, mask)
    return standardised - standardised.detach()


class PooledTokens(NamedTuple):
    """Pool: the tokens of one scale.

    Args:
        tokens: `(batch, windows, width)` float32, the values that the aggregation averages again.
        keys: `(batch, windows, width)` float32, what queries are compared with: like `tokens`, but with the time code
            added before pooling, if there is a time code.
        mask: `(batch, windows)` bool, false for windows that a row does not have.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


def window_sizes(mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """How many tokens each window holds.

    Padding comes last in a row, so a row has the same windows in a padded batch as it has alone. The last window of a
    row may hold fewer tokens than the others.

    Args:
        mask: `(batch, length)` bool, true for the tokens and false for the padding after them.
        window: tokens of a full window.
        stride: tokens from one window's start to the next; at most `window`.

    Returns:
        `(batch, windows)` float32; 0 for windows that a row does not have.
    """
    count = num_windows(mask.shape[1], window, stride)
    sizes = _padded(mask.unsqueeze(-1).float(), window, stride).unfold(1, window, stride).sum(-1).squeeze(-1)
    # If windows overlap, the last window of a row is the first one that reaches the row's last token. Later windows
    # would hold only tokens that are in this window.
    lengths = mask.sum(1, keepdim=True)
    num_own = torch.div(lengths - window + stride - 1, stride, rounding_mode="floor").clamp(min=0) + 1
    return sizes * (torch.arange(count, device=mask.device) < num_own)


def pool_tokens(tokens: torch.Tensor, mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Pool: means over windows.

    Args:
        tokens: `(batch, length, width)` in any dtype.
        mask, window, stride: see `window_sizes`.

    Returns:
        `(batch, windows, width)` float32; zeros for windows that a row does not have.
    """
    tokens = tokens.float().masked_fill(~mask.unsqueeze(-1), 0)
    sums = _padded(tokens, window, stride).unfold(1, window, stride).sum(-1)
    sizes = window_sizes(mask, window, stride).unsqueeze(-1)
    return (sums / sizes.clamp(min=1)).masked_fill(sizes == 0, 0)


def spread_weights(weights: torch.Tensor, mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Turn weights of pooled tokens into weights of the single tokens in each window.

    Args:
        weights: `(batch, outputs, windows)`.
        mask, window, stride: see `window_sizes`.

    Returns:
        `(batch, outputs, length)`; its product with the tokens equals the product of `weights` with the pooled tokens.
    """
    length, count = mask.shape[1], weights.shape[-1]
    shares = weights / window_sizes(mask, window, stride).clamp(min=1).unsqueeze(1)
    offsets = torch.arange(window, device=mask.device)
    indices = (torch.arange(count, device=mask.device) * stride).unsqueeze(1) + offsets
    spread = weights.new_zeros(*weights.shape[:2], _padded_length(length, window, stride))
    spread = spread.index_add(2, indices.flatten(), shares.repeat_interleave(window, dim=-1))
    return spread[..., :length] * mask.unsqueeze(1)


def _padded_length(length: int, window: int, stride: int) -> int:
    return (num_windows(length, window, stride) - 1) * stride + window


def _padded(tokens: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Append zeros after the last token, so that the last window is full."""
    length = tokens.shape[1]
    return F.pad(tokens, (0, 0, 0, _padded_length(length, window, stride) - length))


class LinVTAggregatorLayer(GradientCheckpointingLayer):
    """Attend: queries attend to each other, to visual tokens and to the question, with a norm after each sum."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.self_attn = LinVTAttention(hidden_size, config.num_attention_heads)
        self.norm_self = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.visual_attn = LinVTAttention(hidden_size, config.num_attention_heads)
        self.norm_visual = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.text_attn = LinVTAttention(hidden_size, config.num_attention_heads)
        self.norm_text = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        tokens: torch.Tensor,
        token_mask: torch.Tensor,
        text: torch.Tensor | None,
        text_mask: torch.Tensor | None,
        has_text: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Args:
            queries: `(batch, queries, hidden_size)`.
            keys, tokens: `(batch, tokens, hidden_size)`, visual tokens with and without time code.
            token_mask: `(batch, tokens)` bool, false for tokens that do not exist.
            text: `(batch, length, hidden_size)`, the question.
            text_mask: `(batch, length)` bool, true somewhere in each row.
            has_text: `(batch,)` bool, false for rows whose text is ignored; `None` if no row's text is ignored.

        Returns:
            As `queries`.
        """
        queries = self.norm_self(queries + self.self_attn(queries, queries, queries))
        queries = self.norm_visual(queries + self.visual_attn(queries, keys, tokens, token_mask))
        if text is not None:
            attended = self.text_attn(queries, text, text, text_mask)
            if has_text is not None:
                attended = torch.where(has_text[:, None, None], attended, 0)
            queries = queries + attended
        return self.norm_text(queries)


class LinVTLinearAggregation(nn.Module):
    """Aggregate: W_attn of the paper, one softmax weight per query and token.

    It has one head. With several heads, a token would have another weight in each group of channels, and the output
    would not be a weighted mean of tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: `(batch, queries, hidden_size)`.
            keys: `(batch, tokens, hidden_size)`.
            mask: `(batch, tokens)` bool, true somewhere in each row.

        Returns:
            `(batch, queries, tokens)` float32; weights of a row sum to 1, and are exactly 0 where the mask is false.
        """
        queries, keys = self.q_proj(queries), self.k_proj(keys)
        with maybe_autocast(device_type=queries.device.type, enabled=False):
            scores = queries.float() @ keys.float().transpose(1, 2) * queries.shape[-1] ** -0.5
            return scores.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)


class LinVTAggregator(nn.Module):
    """Attend and aggregate: learned queries of all scales, and layers that the scales share (TTA)."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.config = config
        # One parameter holds the queries of all groups, one group after the other. Offloading loads the parameters of
        # this module when it is called, but would not load the entries of an `nn.ParameterList`.
        self.queries = nn.Parameter(torch.empty(sum(config.query_groups), hidden_size))
        self.layers = nn.ModuleList(LinVTAggregatorLayer(hidden_size, config) for _ in range(config.num_layers))
        self.aggregator = LinVTLinearAggregation(hidden_size)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw small random queries."""
        init.normal_(self.queries, std=self.config.initializer_range)

    def forward(
        self, groups: list[PooledTokens], text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """
        Args:
            groups: the visual tokens that each group of queries attends to.
            text: `(batch, length, hidden_size)`, the question as the language model embeds it.
            text_mask: `(batch, length)` bool, false for padding; `None` without padding. A row without text holds only
                padding.

        Returns:
            For each group `(batch, queries, tokens)` float32; the weights of a row sum to 1.
        """
        dtype = self.queries.dtype
        text, text_mask, has_text = self._readable_text(groups[0].tokens, text, text_mask)
        text = None if text is None else text.to(dtype)
        weights = []
        for group, queries in zip(groups, self.queries.split(self.config.query_groups), strict=True):
            keys, tokens = group.keys.to(dtype), group.tokens.to(dtype)
            states = queries.expand(len(tokens), -1, -1)
            for layer in self.layers:
                states = layer(states, keys, tokens, group.mask, text, text_mask, has_text)
            weights.append(self.aggregator(states, keys, group.mask))
        return weights

    def _readable_text(
        self, tokens: torch.Tensor, text: torch.Tensor | None, text_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Text, mask and `has_text` for the layers. The mask is true somewhere in each row, as attention requires."""
        if text is not None and text.shape[1] == 0:
            text = None
        if text is None and self.training and torch.is_grad_enabled():
            # An empty text makes the text attention run, so that its parameters get gradients of 0. Without gradients,
            # DistributedDataParallel would wait for them.
            text = tokens.new_zeros(len(tokens), 1, self.queries.shape[1])
            text_mask = torch.zeros(text.shape[:2], dtype=torch.bool, device=text.device)
        if text is None or text_mask is None:
            return text, text_mask, None
        text = text.masked_fill(~text_mask.unsqueeze(-1), 0)
        has_text = text_mask.any(1)
        # In rows without text, the queries attend to zeros, and the layers ignore the result (`has_text`).
        return text, text_mask | ~has_text.unsqueeze(1), has_text


__all__ = [
    "LinVTAggregator",
    "LinVTAggregatorLayer",
    "LinVTAttention",
    "LinVTLinearAggregation",
    "LinVTScoreHead",
    "LinVTScorer",
    "LinVTScorerLayer",
    "PooledTokens",
    "choose_tokens",
    "pool_tokens",
    "spread_weights",
    "standardise",
    "window_sizes",
    "zero_changes",
]
