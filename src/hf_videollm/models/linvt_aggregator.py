"""Text-conditioned token aggregation of LinVT (paper section 3.2.2, TTA).

    queries -> L times [each other, the visual tokens of their scale, the question] -> one weight per query and token

Queries may become anything: they only decide the weights. The weights and the tokens make the output, in `LinVTModule`.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .configuration_linvt import LinVTModuleConfig
from .linvt_attention import LinVTAttention
from .linvt_pooling import PooledTokens


class LinVTAggregatorLayer(GradientCheckpointingLayer):
    """Queries look at each other, at visual tokens and at the question; a norm behind each sum."""

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
            keys, tokens: `(batch, tokens, hidden_size)`, with and without time code.
            token_mask: `(batch, tokens)` bool.
            text: `(batch, length, hidden_size)`.
            text_mask: `(batch, length)` bool, true somewhere in each row.
            has_text: `(batch,)` bool, rows whose text counts.

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
    """W_attn of the paper: one softmax weight per query and token. Nothing here touches the tokens that are averaged.

    It has one head, because heads with channels of their own would give a token as many weights as there are heads.
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
            `(batch, queries, tokens)` float32; rows sum to 1, and are exactly 0 where the mask is false.
        """
        queries, keys = self.q_proj(queries), self.k_proj(keys)
        with maybe_autocast(device_type=queries.device.type, enabled=False):
            scores = queries.float() @ keys.float().transpose(1, 2) * queries.shape[-1] ** -0.5
            return scores.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)


class LinVTAggregator(nn.Module):
    """Learned queries of all scales, and layers that the scales share."""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        super().__init__()
        self.config = config
        # The groups one behind the other. One parameter, as offloading brings those of a module that is called.
        self.queries = nn.Parameter(torch.empty(sum(config.query_groups), hidden_size))
        self.layers = nn.ModuleList(LinVTAggregatorLayer(hidden_size, config) for _ in range(config.num_layers))
        self.aggregator = LinVTLinearAggregation(hidden_size)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small random queries."""
        init.normal_(self.queries, std=self.config.initializer_range)

    def forward(
        self, groups: list[PooledTokens], text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """
        Args:
            groups: the visual tokens that each group of queries looks at.
            text: `(batch, length, hidden_size)`, the question as the language model embeds it.
            text_mask: `(batch, length)` bool, tokens of the question that are none of the padding; all if `None`. A row
                may have none.

        Returns:
            For each group `(batch, queries, tokens)` float32, rows that sum to 1.
        """
        dtype, has_text = self.queries.dtype, None
        if text is not None and text.shape[1] == 0:
            text = None
        if text is None and self.training and torch.is_grad_enabled():
            # A row without a text: the attention to texts takes part, and its gradient is 0 instead of missing, which
            # DistributedDataParallel would wait for.
            text = groups[0].tokens.new_zeros(len(groups[0].tokens), 1, self.queries.shape[1])
            text_mask = torch.zeros(text.shape[:2], dtype=torch.bool, device=text.device)
        if text is not None and text_mask is not None:
            text = text.masked_fill(~text_mask.unsqueeze(-1), 0)
            has_text = text_mask.any(1)
            # Attention to nothing has no value: such rows look at zeros, and what they see is not added.
            text_mask = text_mask | ~has_text.unsqueeze(1)
        text = None if text is None else text.to(dtype)
        weights = []
        for group, queries in zip(groups, self.queries.split(self.config.query_groups), strict=True):
            keys, tokens = group.keys.to(dtype), group.tokens.to(dtype)
            states = queries.expand(len(tokens), -1, -1)
            for layer in self.layers:
                states = layer(states, keys, tokens, group.mask, text, text_mask, has_text)
            weights.append(self.aggregator(states, keys, group.mask))
        return weights


__all__ = ["LinVTAggregator", "LinVTAggregatorLayer", "LinVTLinearAggregation"]
