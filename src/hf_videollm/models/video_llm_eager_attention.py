"""Attention step by step, for encoders of our own that are asked for its weights."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """In the form of transformers' attention functions, which have no public one of this kind.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)`.
        attention_mask: `(batch, heads, tokens, tokens)`, added to the scores.

    Returns:
        `(batch, tokens, heads, head_dim)`, and the weights `(batch, heads, tokens, tokens)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    attended = F.dropout(weights, dropout, module.training) @ value
    return attended.transpose(1, 2), weights


__all__ = ["eager_attention"]
