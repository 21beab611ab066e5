"""Former functions of `models.linvt_backbones`. Each calls the method of `Backbone` that replaced it.

Only programs that were written for an earlier release use them (see `moved.MOVED_NAMES`).
"""

from collections.abc import Sequence
from typing import Any

import torch

from .models.linvt_backbones import Backbone, VisualFeatures

# Families whose head bounds its logits, if the configuration of the language model says by how much.
CAPPED_LOGITS = frozenset({"paligemma"})


def check_backbone(base: Any) -> None:
    """See `Backbone.check`."""
    Backbone(base).check()


def has_spatial_positions(base: Any) -> bool:
    """See `Backbone.has_spatial_positions`."""
    return Backbone(base).has_spatial_positions


def has_deepstack(base: Any) -> bool:
    """See `Backbone.has_deepstack`."""
    return Backbone(base).has_deepstack


def first_position(base: Any) -> int:
    """See `Backbone.first_position`."""
    return Backbone(base).first_position


def encode_images(base: Any, media: dict[str, Any]) -> VisualFeatures:
    """See `Backbone.encode_images`."""
    return Backbone(base).encode_images(media)


def encode_frames(
    base: Any, media: dict[str, Any], num_frames: Sequence[int], chunk_size: int | None = None
) -> VisualFeatures:
    """See `Backbone.encode_frames`."""
    return Backbone(base).encode_frames(media, num_frames, chunk_size)


def special_embeddings(base: Any, input_ids: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """See `Backbone.embed_indicators`."""
    return Backbone(base).embed_indicators(input_ids, embeds)


def token_types(
    base: Any, media_mask: torch.Tensor, given: torch.Tensor | None, num_cached: int = 0
) -> dict[str, torch.Tensor]:
    """See `Backbone.token_types`; `given` is its `known_types`."""
    return Backbone(base).token_types(media_mask, given, num_cached)


def prompt_positions(
    base: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_mask: torch.Tensor,
    media: dict[str, Any],
) -> torch.Tensor:
    """See `Backbone.prompt_positions`."""
    return Backbone(base).prompt_positions(input_ids, attention_mask, image_mask, media)


__all__ = [
    "CAPPED_LOGITS",
    "check_backbone",
    "encode_frames",
    "encode_images",
    "first_position",
    "has_deepstack",
    "has_spatial_positions",
    "prompt_positions",
    "special_embeddings",
    "token_types",
]
