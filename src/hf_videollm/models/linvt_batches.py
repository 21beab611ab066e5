"""Rows of LinVT's processor as one batch, whatever the image-LLM's image processor gives."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch


def join_rows(
    rows: Sequence[Mapping[str, Any]], prompt_keys: Collection[str], pad_token_id: int, padding_side: str
) -> dict[str, torch.Tensor]:
    """Prompts padded along their length, media joined along their first dimension and padded behind the others.

    Args:
        rows: tensors, of any number of prompts each.
        prompt_keys: tensors as long as the prompts.
        pad_token_id: for ids.
        padding_side: where shorter prompts are padded.

    Returns:
        `input_ids` first.
    """
    rows = _renumbered(rows)
    batch = {}
    for key in sorted(dict.fromkeys(key for row in rows for key in row), key=lambda name: name != "input_ids"):
        tensors = [row[key] for row in rows if key in row]
        value = -100 if key == "labels" else pad_token_id if key.endswith("input_ids") else 0
        batch[key] = _join_padded(tensors, value, padding_side if key in prompt_keys else "right")
    return batch


def _renumbered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Molmo2 says of which patches a token is made, by their numbers in the batch: those of later rows move up."""
    renumbered = [dict(row) for row in rows]
    for suffix in ("", "_videos"):
        before = 0
        for row in renumbered:
            indices = row.get(f"image_token_pooling{suffix}")
            if indices is not None:
                # -1 is no patch.
                row[f"image_token_pooling{suffix}"] = torch.where(indices < 0, indices, indices + before)
                before += row[f"pixel_values{suffix}"].shape[:2].numel()
    return renumbered


def _join_padded(tensors: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
    """Concatenate along dimension 0 after padding the other dimensions to the longest."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        whole = tensor.new_full((len(tensor), *shape), value)
        place = tuple(
            slice(full - size, None) if side == "left" else slice(size)
            for full, size in zip(shape, tensor.shape[1:], strict=True)
        )
        whole[(slice(None), *place)] = tensor
        padded.append(whole)
    return torch.cat(padded)


__all__ = ["join_rows"]
