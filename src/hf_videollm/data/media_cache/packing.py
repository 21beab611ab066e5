"""One array and some facts about it as bytes, for the entries of a cache."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

__all__ = ["pack", "unpack"]

LENGTH = struct.Struct("<Q")
# The array begins at a multiple of this, as numbers of eight bytes need it.
ALIGNMENT = 8


def pack(facts: Any, array: np.ndarray) -> bytes:
    """Bytes that hold facts, which JSON can write, and an array."""
    described = {"facts": facts, "shape": array.shape, "dtype": array.dtype.str}
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % ALIGNMENT)
    return b"".join([LENGTH.pack(len(head)), head, np.ascontiguousarray(array).data])


def unpack(content: memoryview) -> tuple[Any, np.ndarray]:
    """The facts and the array; the array has the memory of `content`."""
    start = LENGTH.size + LENGTH.unpack(content[: LENGTH.size])[0]
    described = json.loads(bytes(content[LENGTH.size : start]))
    array = np.frombuffer(content[start:], np.dtype(described["dtype"])).reshape(described["shape"])
    return described["facts"], array
