"""Repeat encoded media together with the rows of a prompt (beams, several return sequences)."""

from itertools import accumulate

from transformers.modeling_outputs import BaseModelOutputWithPooling


def repeat_media_per_row(
    output: BaseModelOutputWithPooling, placeholders_per_row: list[int], times: int, hint: str = ""
) -> BaseModelOutputWithPooling:
    """Repeat each row's group of media: rows [a b] [c] become [a b] [a b] [c] [c] for `times` = 2.

    Args:
        output: `pooler_output` holds one `(num_tokens, width)` tensor per medium, rows one after the other; so does
            `frames`, if there is one, whatever its entries are.
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
    groups: list[list[int]] = [[] for _ in ends]
    row = 0
    for index, (vectors, end) in enumerate(zip(media, filled, strict=True)):
        while end > ends[row]:
            row += 1
        if end - len(vectors) < ends[row] - placeholders_per_row[row]:
            raise ValueError(
                f"The prompts hold {placeholders_per_row} placeholders, which the media of "
                f"{[len(vectors) for vectors in media]} vectors cannot fill row by row: one would be cut in two. {hint}"
            )
        groups[row].append(index)
    order = [index for group in groups for index in group * times]
    repeated = BaseModelOutputWithPooling(pooler_output=[media[index] for index in order])
    if (frames := getattr(output, "frames", None)) is None:
        return repeated
    # What the language model looks at besides its visual tokens.
    return type(output)(pooler_output=repeated.pooler_output, frames=[frames[index] for index in order])


__all__ = ["repeat_media_per_row"]
