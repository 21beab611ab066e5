"""Checkpoints in the layouts of the original code bases: how to tell one, and what to do with it."""

import json
from pathlib import Path

from .designs import DESIGNS


def advice_for_official(source: str) -> str | None:
    """What to do with a folder in the layout of an original code base; `None` for any other."""
    try:
        content = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    rows = (row for row in DESIGNS.values() if row.is_original is not None and row.is_original(content))
    return next((row.advice for row in rows), None)


__all__ = ["advice_for_official"]
