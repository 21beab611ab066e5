"""How large the embeddings of words are, which new vectors in a prompt should resemble in size."""

import torch
from torch import nn

from .media_blank import is_spread

# Enough rows for a root mean square that is right to a per cent. Tables may have billions of values.
MAX_ROWS = 4096


@torch.no_grad()
def word_size(embedding: nn.Module) -> float | None:
    """The root mean square of the embeddings of words, as they enter the first layer.

    Language models differ in it: about 0.02 in LLaMA 7B, 0.13 in SmolLM2 135M. Some models multiply the rows of their
    table by a constant, so the layer itself is asked. Rows of zeros, which belong to no word, do not count.

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
    ids = torch.linspace(0, len(table) - 1, min(len(table), MAX_ROWS), device=table.device).long()
    vectors = embedding(ids).float()
    vectors = vectors[vectors.any(-1)]
    size = vectors.square().mean().sqrt().item() if len(vectors) else 0.0
    return size if 0.0 < size < float("inf") else None


__all__ = ["MAX_ROWS", "word_size"]
