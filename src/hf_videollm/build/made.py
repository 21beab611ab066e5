"""A model that was put together and is about to be written."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Made:
    """A model with all that belongs to it.

    Attributes:
        new_parameters: number of values that no source has.
        token_ids: modality -> id of its placeholder.
        notes: what the user should know, in sentences.
    """

    model: Any
    processor: Any
    generation_config: Any
    new_parts: list[str]
    new_parameters: int
    token_ids: dict[str, int]
    notes: list[str] = field(default_factory=list)


def mixed_types_note(parts: dict[str, Any], loaded: torch.dtype) -> list[str]:
    """A note where the sources are stored in several types, which are kept."""
    types = {name: str(part.dtype).removeprefix("torch.") for name, part in parts.items()}
    if len(set(types.values())) == 1:
        return []
    listed = ", ".join(f"{name} {kind}" for name, kind in types.items())
    as_one = str(loaded).removeprefix("torch.")
    return [f"weights are kept as they were stored ({listed}) and load as {as_one}: --dtype makes them one."]


__all__ = ["Made", "mixed_types_note"]
