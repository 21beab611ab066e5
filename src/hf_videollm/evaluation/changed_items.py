"""Each record names the item that was asked, so that old answers never stand under new questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .items import Item
from .records import Record

__all__ = ["DIGEST", "ItemChangedError", "check_items", "item_digest", "with_digest"]

# Where a record holds the digest of its item.
DIGEST = "item_digest"
# So many items are named in an error.
MOST_NAMED = 3
# What of a medium the answer depends on, beside the name of its file. The folder is left out: data may be moved.
OF_MEDIUM = ("type", "start", "end", "fps", "use_audio")


class ItemChangedError(ValueError):
    """A run would be continued with other questions; the message names the items."""


def item_digest(item: Item) -> str:
    """A short name of all that the model is asked: questions, options, media with their parts, and what prompts need.

    The right answer is no part of it, so a corrected one is scored with the answers that are there.

    Example:
        >>> from pathlib import Path
        >>> from hf_videollm.evaluation.items import Medium
        >>> first = Item("1", (Medium(Path("a/clip.mp4")),), ("What happens?",))
        >>> item_digest(first) == item_digest(Item("1", (Medium(Path("b/clip.mp4")),), ("What happens?",)))
        True
        >>> item_digest(first) == item_digest(Item("1", (Medium(Path("a/clip.mp4")),), ("Who comes?",)))
        False
    """
    media = [[medium.path.name, *(getattr(medium, name) for name in OF_MEDIUM)] for medium in item.media]
    facts = [item.questions, item.options, media, dict(item.extra)]
    # An object without a JSON form counts by its type: how Python prints it may differ from process to process.
    text = json.dumps(facts, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_digest(record: Mapping[str, Any], item: Item) -> Record:
    """The record of an item with the item's digest."""
    return {**record, DIGEST: item_digest(item)}


def check_items(items: Iterable[Item], records: Mapping[str, Record], place: object) -> set[str]:
    """Refuse answers to questions that have changed since.

    Records of earlier releases hold no digest, and are taken as they are.

    Args:
        items: of the run.
        records: what a stopped run has left, id -> record.
        place: of the run, for the message.

    Returns:
        Ids of changed items whose record is an error. No answer stands there, so they are simply asked again.

    Raises:
        ItemChangedError: the message names the first items.
    """
    changed = [
        item.id
        for item in items
        if (digest := records.get(item.id, {}).get(DIGEST)) is not None and digest != item_digest(item)
    ]
    if answered := [id for id in changed if "error" not in records[id]]:
        named = ", ".join(answered[:MOST_NAMED]) + (", ..." if len(answered) > MOST_NAMED else "")
        raise ItemChangedError(
            f"{place} holds answers to other questions: {len(answered)} items of the benchmark have changed since "
            f"({named}). Choose another output, or put the old files of the benchmark back."
        )
    return set(changed)
