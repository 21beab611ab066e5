"""How large the embeddings of words are, which new vectors in a prompt should resemble in size."""

import math

import torch
from torch import nn

from .media_blank import is_spread

# Rows at a time: a table may have billions of values, of which there shall be no copy in float32.
ROWS = 4096


@torch.no_grad()
def word_size(embedding: nn.Module) -> float | None:
    """The root mean square of the embeddings of words, as they enter the first layer.

    Language models differ in it: about 0.02 in LLaMA 7B, 0.13 in SmolLM2 135M. Some models multiply the rows of their
    table by a constant, so the layer itself is asked.

    Args:
        embedding: the layer that embeds token ids.

    Returns:
        The root mean square, or `None` if the table has no values here: on the meta device, sharded, or all zeros.

    Example:

    ```python
    >>> import torch
    >>> from hf_videollm.models.video_llm_word_size import word_size
    >>> table = torch.nn.Embedding(10, 4)
    >>> _ = torch.nn.init.constant_(table.weight, -0.5)
    >>> word_size(table)
    0.5

    ```"""
    table = getattr(embedding, "weight", None)
    if not isinstance(table, torch.Tensor) or table.is_meta or is_spread(table) or not len(table):
        return None
    total = 0.0
    for ids in torch.arange(len(table), device=table.device).split(ROWS):
        total += embedding(ids).float().square().sum().item()
    size = math.sqrt(total / table.numel())
    return size if 0.0 < size < math.inf else None


__all__ = ["word_size"]
