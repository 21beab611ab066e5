"""Checkpoints in the layouts of the original code bases: how to tell one, and what to do with it."""

import json
from pathlib import Path


def advice_for_official(source: str) -> str | None:
    """What to do with a folder in the layout of an original code base; `None` for any other."""
    try:
        content = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    model_type = str(content.get("model_type") if isinstance(content, dict) else None)
    if model_type.startswith("videollama2") and "mm_vision_tower" in content:
        return "An official VideoLLaMA2 checkpoint is converted with: hf-videollm convert videollama2 SRC DST"
    if model_type.startswith("llava"):
        return "An official PLLaVA checkpoint is converted with: hf-videollm convert pllava SRC DST"
    if "visual" in content and model_type == "qwen":
        return "Qwen-VL's vision module becomes part of an FTFV with: hf-videollm convert ftfv SRC LLM DST"
    return None


__all__ = ["advice_for_official"]
