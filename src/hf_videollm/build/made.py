"""The result of a build in memory, before it is written."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Made:
    """A model and everything that is saved with it.

    Attributes:
        model: the model with its head.
        processor: its processor.
        generation_config: its generation settings.
        new_parts: names of the parts that no source has.
        new_parameters: number of values in these parts.
        token_ids: maps each modality to the id of its placeholder.
        notes: notes for the user, in sentences.
    """

    model: Any
    processor: Any
    generation_config: Any
    new_parts: list[str]
    new_parameters: int
    token_ids: dict[str, int]
    notes: list[str] = field(default_factory=list)


def mixed_types_note(parts: dict[str, Any], loaded: torch.dtype) -> list[str]:
    """A note if the sources are stored in different types, which are kept."""
    types = {name: str(part.dtype).removeprefix("torch.") for name, part in parts.items()}
    if len(set(types.values())) == 1:
        return []
    listed = ", ".join(f"{name} {kind}" for name, kind in types.items())
    as_one = str(loaded).removeprefix("torch.")
    return [f"weights keep their stored types ({listed}) and load as {as_one}: --dtype gives all of them one type."]


__all__ = ["Made", "mixed_types_note"]
