"""A random part of a benchmark that is the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from .data_files import DataFiles
from .items import Item

__all__ = ["eighth_of", "fixed_subset"]


def fixed_subset(items: Iterable[Item], parts: int, seed: int = 0) -> list[Item]:
    """One of so many equal parts of the items, in their order.

    The items with the smallest hash of seed and id are taken. So the choice depends neither on their order nor on the
    version of Python.

    Args:
        items: of the whole benchmark.
        parts: one part of this many is taken, rounded to a whole number of items, and at least one item.
        seed: another one gives another part.
    """
    everything = list(items)
    ranked = sorted(everything, key=lambda item: hashlib.sha256(f"{seed}/{item.id}".encode()).digest())
    chosen = {item.id for item in ranked[: max(1, round(len(everything) / parts))]}
    return [item for item in everything if item.id in chosen]


def eighth_of(load: Callable[[DataFiles], Iterable[Item]]) -> Callable[[DataFiles], list[Item]]:
    """A loader of one eighth of the items, from the loader of all: VideoLLaMA2 judges so many of AVSD and AVSSD."""

    def load_eighth(data: DataFiles) -> list[Item]:
        return fixed_subset(load(data), 8)

    return load_eighth
