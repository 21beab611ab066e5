"""Attention in plain torch operations, for the encoders that this package implements (BEATs, Qwen-VL's vision tower).

The modeling files of both encoders choose between this function and faster ones by the same few lines. These lines
cannot be moved to this file: transformers lets users change a model's attention only if it finds the lines in the
source text of the model's own file.
"""

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
    """Compute attention, and also return its weights. The signature is that of transformers' attention functions.

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
