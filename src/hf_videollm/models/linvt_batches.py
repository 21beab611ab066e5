"""Joins outputs of LinVT's processor into one batch, whatever tensors the image-LLM's image processor returns."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch


def join_rows(
    rows: Sequence[Mapping[str, Any]], prompt_keys: Collection[str], pad_token_id: int, padding_side: str
) -> dict[str, torch.Tensor]:
    """Join outputs of the processor: pad prompts to one length, and concatenate media along their first dimension.

    If media differ in another dimension, that dimension is padded at its end.

    Args:
        rows: outputs of the processor, each of any number of prompts.
        prompt_keys: names of the tensors that are as long as the prompts.
        pad_token_id: the padding of ids.
        padding_side: where shorter prompts are padded.

    Returns:
        The batch, whose first key is `input_ids`.
    """
    rows = _renumbered(rows)
    batch = {}
    for key in sorted(dict.fromkeys(key for row in rows for key in row), key=lambda name: name != "input_ids"):
        tensors = [row[key] for row in rows if key in row]
        value = -100 if key == "labels" else pad_token_id if key.endswith("input_ids") else 0
        batch[key] = _join_padded(tensors, value, padding_side if key in prompt_keys else "right")
    return batch


def with_video_keys(row: Mapping[str, Any], image_token_id: int) -> dict[str, Any]:
    """Add the token types and empty questions that an output of the processor lacks if it has no videos.

    Args:
        row: output of the processor.
        image_token_id: id of the placeholders of images.
    """
    ids = row["input_ids"]
    no_question = ids.new_zeros((len(ids), 1))
    return {
        "mm_token_type_ids": (ids == image_token_id).long(),
        "question_input_ids": no_question,
        "question_attention_mask": no_question,
        **row,
    }


def _renumbered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the rows, in which the patch numbers of Molmo2 are valid for the joined batch.

    Molmo2 numbers the patches of a batch consecutively. So the numbers in each row are raised by the number of patches
    in all earlier rows.
    """
    renumbered = [dict(row) for row in rows]
    for suffix in ("", "_videos"):
        num_patches = 0
        for row in renumbered:
            indices = row.get(f"image_token_pooling{suffix}")
            if indices is not None:
                # -1 means no patch.
                row[f"image_token_pooling{suffix}"] = torch.where(indices < 0, indices, indices + num_patches)
                num_patches += row[f"pixel_values{suffix}"].shape[:2].numel()
    return renumbered


def _join_padded(tensors: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
    """Concatenate along dimension 0 after padding the other dimensions to the longest."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        target = tensor.new_full((len(tensor), *shape), value)
        region = tuple(
            slice(full - size, None) if side == "left" else slice(size)
            for full, size in zip(shape, tensor.shape[1:], strict=True)
        )
        target[(slice(None), *region)] = tensor
        padded.append(target)
    return torch.cat(padded)


__all__ = ["join_rows", "with_video_keys"]
