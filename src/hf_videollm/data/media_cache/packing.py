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


def pack(facts: Any, array: np.ndarray) -> tuple[bytes, memoryview]:
    """Facts, which JSON can write, and an array as bytes in two parts. The second has the memory of the array."""
    described = {"facts": facts, "shape": array.shape, "dtype": array.dtype.str}
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % ALIGNMENT)
    # Bytes have no shape. NumPy makes an array of them, also of an empty one, which `memoryview.cast` does not take.
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return LENGTH.pack(len(head)) + head, flat.data


def unpack(content: memoryview) -> tuple[Any, np.ndarray]:
    """The facts and the array; the array has the memory of `content`."""
    start = LENGTH.size + LENGTH.unpack(content[: LENGTH.size])[0]
    described = json.loads(bytes(content[LENGTH.size : start]))
    array = np.frombuffer(content[start:], np.dtype(described["dtype"])).reshape(described["shape"])
    return described["facts"], array
