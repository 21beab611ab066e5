"""Recognises checkpoints in the layouts of the original code, and tells what to do with them."""

import json
from pathlib import Path

from .designs import DESIGNS


def advice_for_official(source: str) -> str | None:
    """What to do with a checkpoint folder in the layout of the original code; `None` for any other folder."""
    try:
        content = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    rows = (row for row in DESIGNS.values() if row.is_original is not None and row.is_original(content))
    return next((row.advice for row in rows), None)


__all__ = ["advice_for_official"]
