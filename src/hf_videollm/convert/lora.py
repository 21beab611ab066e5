"""LoRAs of official checkpoints: the names of their tensors."""

import re
from dataclasses import dataclass

from .stream import StoredTensor

LORA_TENSOR = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")


@dataclass
class LoraPair:
    """The two factors of one adapted layer: A is (rank, in), B is (out, rank)."""

    a: StoredTensor | None = None
    b: StoredTensor | None = None
