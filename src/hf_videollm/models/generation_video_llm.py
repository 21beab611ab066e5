"""Repeat encoded media together with the rows of a prompt (beams, several return sequences)."""

from itertools import accumulate

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


def repeat_media_per_row(
    output: BaseModelOutputWithPooling, placeholders_per_row: list[int], times: int, hint: str = ""
) -> BaseModelOutputWithPooling:
    """Repeat each row's group of media: rows [a b] [c] become [a b] [a b] [c] [c] for `times` = 2.

    Args:
        output: `pooler_output` holds one `(num_tokens, width)` tensor per medium, rows one after the other.
        placeholders_per_row: placeholders of this modality in each row; they tell which media a row owns.
        times: how often each row is repeated.
        hint: what to do where prompts and media disagree, for the error.

    Raises:
        ValueError: the media cannot be dealt out to the rows because the numbers disagree.
    """
    media = list(output.pooler_output)
    ends = list(accumulate(placeholders_per_row))
    filled = list(accumulate(len(vectors) for vectors in media))
    num_placeholders, num_vectors = sum(placeholders_per_row), sum(len(vectors) for vectors in media)
    if num_placeholders != num_vectors:
        raise ValueError(
            f"The prompts hold {num_placeholders} placeholders, but the media give {num_vectors} vectors. {hint}"
        )
    groups: list[list[torch.Tensor]] = [[] for _ in ends]
    row = 0
    for vectors, end in zip(media, filled, strict=True):
        while end > ends[row]:
            row += 1
        if end - len(vectors) < ends[row] - placeholders_per_row[row]:
            raise ValueError(
                f"The prompts hold {placeholders_per_row} placeholders, which the media of "
                f"{[len(vectors) for vectors in media]} vectors cannot fill row by row: one would be cut in two. {hint}"
            )
        groups[row].append(vectors)
    return BaseModelOutputWithPooling(pooler_output=[vectors for group in groups for vectors in group * times])


__all__ = ["repeat_media_per_row"]
