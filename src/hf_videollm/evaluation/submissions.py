"""What the files for the servers of benchmarks have in common: the options that were chosen, and the items without one.

An item whose answer is missing or cannot be read is in no file for a server, because every answer there would be made
up. `missing.json` lists it with the reason. A named fallback (`multiple_choice.FALLBACKS`) chooses an option for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .items import Item
from .task import Scored

__all__ = ["MISSING", "chosen", "json_text", "with_missing"]

MISSING = "missing.json"


def json_text(value: Any) -> str:
    """A value as the text of a JSON file."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def chosen(items: Sequence[Item], scored: Sequence[Scored]) -> list[tuple[Item, int]]:
    """The items for which an option was chosen, with its number."""
    return [(item, value.choice) for item, value in zip(items, scored, strict=True) if value.choice is not None]


def with_missing(
    files: dict[str, str],
    items: Sequence[Item],
    answers: Sequence[Sequence[str]],
    scored: Sequence[Scored],
    unread: str = "no option can be read from the answer",
) -> dict[str, str]:
    """The files, and `missing.json` where an item is in none of them.

    Args:
        files: name -> text, for the server.
        items: all items of the run.
        answers: of each item; empty where it has none.
        scored: of each item.
        unread: why an answer has no option.
    """
    missing = {
        item.id: _reason(given, value, unread)
        for item, given, value in zip(items, answers, scored, strict=True)
        if value.choice is None
    }
    return {**files, MISSING: json_text(missing)} if missing else files


def _reason(answers: Sequence[str], scored: Scored, unread: str) -> str:
    if not answers:
        return "the model gave no answer; items.jsonl has the error"
    return f"{unread} ({failure})" if (failure := scored.detail.get("failure")) else unread
