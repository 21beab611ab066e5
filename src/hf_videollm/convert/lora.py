"""LoRAs of official checkpoints: the names of their tensors, and how they are merged into a weight."""

import re
from dataclasses import dataclass

import torch

from .stream import StoredTensor

LORA_TENSOR = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")


@dataclass
class LoraPair:
    """The two factors of one adapted layer: A is (rank, in), B is (out, rank)."""

    a: StoredTensor | None = None
    b: StoredTensor | None = None


def merge_lora(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """W + scale * B A, computed in float32 for every type of weights except float64."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=scale)
