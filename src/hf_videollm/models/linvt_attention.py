"""The attention of LinVT's scoring trunk and of its queries. No value of it reaches the output."""

import torch
from torch import nn
from torch.nn import functional as F


class LinVTAttention(nn.Module):
    """Multi-head attention with biases, by torch's fused kernel, which keeps its softmax in float32."""

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
            key_mask: `(batch, key_length)` bool, at least one in each row is true; `None` if all are.

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


__all__ = ["LinVTAttention"]
