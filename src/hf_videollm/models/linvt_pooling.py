"""Multi-scale pooling of LinVT (paper section 3.2.1, MTP): means of neighbouring tokens, and nothing else.

A scale is a window and a stride along the token axis. Valid tokens stand in front of their row, so that a row of a
padded batch has the windows it has alone; a last window that is not full is the mean of what it holds.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from .configuration_linvt import num_windows


class PooledTokens(NamedTuple):
    """One scale.

    Args:
        tokens: `(batch, windows, width)` float32, the values that are averaged again by the aggregation.
        keys: `(batch, windows, width)` float32, what attention compares with; tokens, and their time code if any.
        mask: `(batch, windows)` bool, windows that exist.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


def window_sizes(mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """How many tokens every window holds.

    Args:
        mask: `(batch, length)` bool, valid tokens in front.
        window: tokens of a full window.
        stride: tokens from one window's start to the next; at most `window`.

    Returns:
        `(batch, windows)` float32; 0 for windows that this row has not.
    """
    count = num_windows(mask.shape[1], window, stride)
    sizes = _padded(mask.unsqueeze(-1).float(), window, stride).unfold(1, window, stride).sum(-1).squeeze(-1)
    # Overlapping windows that begin behind a row's last one would hold tokens it has already.
    lengths = mask.sum(1, keepdim=True)
    own = torch.div(lengths - window + stride - 1, stride, rounding_mode="floor").clamp(min=0) + 1
    return sizes * (torch.arange(count, device=mask.device) < own)


def pool_tokens(tokens: torch.Tensor, mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Means over windows.

    Args:
        tokens: `(batch, length, width)` in any dtype.
        mask, window, stride: see `window_sizes`.

    Returns:
        `(batch, windows, width)` float32; zeros for windows that a row has not.
    """
    tokens = tokens.float().masked_fill(~mask.unsqueeze(-1), 0)
    sums = _padded(tokens, window, stride).unfold(1, window, stride).sum(-1)
    sizes = window_sizes(mask, window, stride).unsqueeze(-1)
    return (sums / sizes.clamp(min=1)).masked_fill(sizes == 0, 0)


def spread_weights(weights: torch.Tensor, mask: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Weights of pooled tokens as weights of the tokens they are means of.

    Args:
        weights: `(batch, outputs, windows)`.
        mask, window, stride: see `window_sizes`.

    Returns:
        `(batch, outputs, length)`, whose product with the tokens is that of `weights` with the pooled tokens.
    """
    length, count = mask.shape[1], weights.shape[-1]
    shares = weights / window_sizes(mask, window, stride).clamp(min=1).unsqueeze(1)
    offsets = torch.arange(window, device=mask.device)
    places = (torch.arange(count, device=mask.device) * stride).unsqueeze(1) + offsets
    spread = weights.new_zeros(*weights.shape[:2], _padded_length(length, window, stride))
    spread = spread.index_add(2, places.flatten(), shares.repeat_interleave(window, dim=-1))
    return spread[..., :length] * mask.unsqueeze(1)


def _padded_length(length: int, window: int, stride: int) -> int:
    return (num_windows(length, window, stride) - 1) * stride + window


def _padded(tokens: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Zeros behind the last token, so that whole windows fit."""
    length = tokens.shape[1]
    return F.pad(tokens, (0, 0, 0, _padded_length(length, window, stride) - length))


__all__ = ["PooledTokens", "pool_tokens", "spread_weights", "window_sizes"]
