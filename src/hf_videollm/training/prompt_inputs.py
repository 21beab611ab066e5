"""Prompts with their media as model inputs, each row on its own, so that any rows can make a batch: GRPO shuffles rows.

`encode_prompts` runs the processor once for each different row: GRPO repeats a row for each of its answers.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from ..models.video_llm_checked_processor import CheckedProcessor
from ..models.video_llm_kept_prompt import QUESTION_KEYS
from .collator import VideoDataCollator

__all__ = ["PromptInputs", "encode_prompts", "join_media", "token_fields"]

# Outputs of processors with one entry for each token.
TOKEN_FIELDS = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class PromptInputs:
    """The inputs of one prompt.

    Attributes:
        ids: its tokens.
        tokens: maps the names of inputs with one entry for each token to these entries.
        media: the other tensors. The first axis counts the media, or is 1.
        options: options that the model needs, too (`ProcessorContract.MODEL_OPTIONS`).
    """

    ids: list[int]
    tokens: dict[str, list[int]]
    media: dict[str, torch.Tensor]
    options: dict[str, Any]


def encode_prompts(collator: VideoDataCollator, rows: Sequence[Mapping[str, Any]]) -> list[PromptInputs]:
    """Encode rows with `messages` that end with a question.

    Args:
        collator: makes the inputs.
        rows: rows that are equal are encoded once.

    Raises:
        ValueError: a row is refused by the collator.
    """
    known: dict[bytes, PromptInputs] = {}
    encoded = []
    for row in rows:
        key = _digest(row)
        found = None if key is None else known.get(key)
        if found is None:
            found = _encode(collator, row)
        if key is not None:
            known[key] = found
        encoded.append(found)
    return encoded


def join_media(rows: Sequence[PromptInputs]) -> dict[str, torch.Tensor]:
    """The media of several prompts as inputs of one batch. Shorter media are padded with zeros at their ends.

    Args:
        rows: the prompts, in the order of the batch.
    """
    names = dict.fromkeys(name for row in rows for name in row.media)
    # A question stands for each row, also for those without a video, which it is not asked of.
    no_question = torch.zeros(1, 1, dtype=torch.long)
    missing = dict.fromkeys(QUESTION_KEYS, no_question)
    tensors = {name: [row.media.get(name, missing.get(name)) for row in rows] for name in names}
    return {name: _join([value for value in values if value is not None]) for name, values in tensors.items()}


def token_fields(rows: Sequence[PromptInputs], length: int, num_after: int = 0) -> dict[str, torch.Tensor]:
    """The inputs with one entry for each token, `(rows, length)`, with zeros where a row has none.

    Args:
        rows: the prompts, which are padded on the left.
        length: of the batch.
        num_after: so many positions at the end belong to answers.
    """
    # Beside a row with media, a row without any need not say so.
    telling = [row for row in rows if row.media] or rows
    names = dict.fromkeys(name for row in telling for name in row.tokens)
    fields = {}
    for name in names:
        values = torch.zeros(len(rows), length, dtype=torch.long)
        end = length - num_after
        for index, row in enumerate(rows):
            own = torch.tensor(row.tokens.get(name, [0] * len(row.ids)))
            values[index, end - len(own) : end] = own
        fields[name] = values
    return fields


def _encode(collator: VideoDataCollator, row: Mapping[str, Any]) -> PromptInputs:
    batch, options = collator.questions([row])
    ids = batch["input_ids"][0].tolist()
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    tokens = {name: tensors[name][0].tolist() for name in TOKEN_FIELDS if name in tensors}
    media = {
        name: value for name, value in tensors.items() if name not in (*TOKEN_FIELDS, "input_ids", "attention_mask")
    }
    if not tokens and not media and isinstance(collator.processor, CheckedProcessor):
        # As `VideoDataCollator`, it says that there are no media: a model refuses batches whose media may be lost.
        tokens = {"mm_token_type_ids": [0] * len(ids)}
    return PromptInputs(ids, tokens, media, options)


def _join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        # `pad` counts the axes from the last one, with a width before and one behind each.
        widths = [
            width
            for size, own in zip(reversed(sizes), reversed(tensor.shape[1:]), strict=True)
            for width in (0, size - own)
        ]
        padded.append(pad(tensor, widths))
    return torch.cat(padded)


def _digest(row: Mapping[str, Any]) -> bytes | None:
    """What equal rows have in common; `None` for rows that cannot be compared, such as those with open decoders."""
    try:
        return hashlib.blake2b(pickle.dumps(dict(row))).digest()
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
