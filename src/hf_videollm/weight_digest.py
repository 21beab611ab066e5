"""A name of the weights in a folder, from which one sees whether they are still the same ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .models.video_llm_safetensors import read_entries

__all__ = ["weight_digest"]

# Bytes of each tensor that are read. A training changes nearly every value of a tensor that it trains.
SAMPLE = 4096


def weight_digest(folder: str | os.PathLike[str]) -> str | None:
    """A hash of the weight files of a folder: the headers, and the beginning of every tensor.

    The whole of large weights would take minutes to read. So a tensor of which only later values were changed keeps its
    name; this finds other weights, and not forged ones.

    Args:
        folder: folder with safetensors files.

    Returns:
        32 hexadecimal digits; `None` if it is no folder, or holds no such files.

    Raises:
        CheckpointError: a file is damaged.
    """
    place = Path(folder)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        entries, begin = read_entries(file)
        with file.open("rb") as content:
            for name, entry in sorted(entries.items()):
                first, last = entry["data_offsets"]
                digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
                content.seek(begin + first)
                digest.update(content.read(min(SAMPLE, last - first)))
    return digest.hexdigest()[:32]
