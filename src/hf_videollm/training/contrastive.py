"""A contrastive loss between videos and their captions, beside the loss of the next token.

LinVT's paper adds one in its first stage, and gives neither its form nor its weight; its released code has none. This
form is ours: InfoNCE in both directions between the mean of the vectors of a row's videos and the mean embedding of the
tokens of its answers, by cosine and temperature. The other rows of the batch are the wrong pairs. The texts are fixed
targets: no gradient goes to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

__all__ = ["contrastive_loss", "contrastive_of_batch", "video_vectors"]

VIDEO_TYPE, IGNORED = 2, -100


def contrastive_loss(
    videos: torch.Tensor, texts: torch.Tensor, temperature: float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE in both directions.

    Args:
        videos: `(rows, width)`, a vector for each row.
        texts: `(rows, width)`.
        temperature: by which the cosines are divided.
        same: `(rows, rows)` bool, pairs of different rows that are no wrong pairs, because their texts are equal.

    Returns:
        A scalar; 0 for one row, which has no wrong pair.

    Example:
        >>> contrastive_loss(torch.eye(3), torch.eye(3), 0.01).item() < 1e-6
        True
    """
    cosines = functional.normalize(videos.float(), dim=-1) @ functional.normalize(texts.float(), dim=-1).T
    logits = cosines / temperature
    if same is not None:
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same.to(logits.device) & ~own, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@contextmanager
def video_vectors(model: Any) -> Iterator[list[torch.Tensor]]:
    """A list that gets the vectors of the videos of each batch that the model runs on: `(total_tokens, width)`.

    Args:
        model: a model of any design with its head, which may have an adapter of PEFT.
    """
    found: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        if output.get("video_hidden_states") is not None:
            found.append(output["video_hidden_states"])

    base = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    handle = base.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def contrastive_of_batch(
    model: Any, batch: Mapping[str, torch.Tensor], vectors: Sequence[torch.Tensor], temperature: float
) -> torch.Tensor | None:
    """The contrastive loss of a batch; None if fewer than two of its rows have a video and an answer.

    Args:
        model: the model, for its embeddings.
        batch: its inputs, with `labels` and `mm_token_type_ids`.
        vectors: those of its videos (`video_vectors`).
        temperature: see `contrastive_loss`.
    """
    labels = batch.get("labels")
    if not vectors or labels is None:
        return None
    counts = (batch["mm_token_type_ids"] == VIDEO_TYPE).sum(-1).tolist()
    learned = labels != IGNORED
    rows = [row for row, count in enumerate(counts) if count and bool(learned[row].any())]
    if len(rows) < 2:
        return None
    # The vectors of all videos stand in the order of the rows, as many as a row has placeholders.
    of_rows = vectors[0].split(counts)
    videos = torch.stack([of_rows[row].float().mean(0) for row in rows])
    with torch.no_grad():
        table = model.get_input_embeddings()
        texts = torch.stack([table(labels[row][learned[row]]).float().mean(0) for row in rows])
    answers = [tuple(labels[row][learned[row]].tolist()) for row in rows]
    same = torch.tensor([[one == other for other in answers] for one in answers])
    return contrastive_loss(videos, texts.to(videos.device), temperature, same)
