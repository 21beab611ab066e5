"""Which models hear, and which data ask for it."""

from __future__ import annotations

from typing import Any

from ..data.mix import Mix
from ..models.video_llm_checked_processor import CheckedProcessor

__all__ = ["hears", "unheard"]


def hears(processor: Any) -> bool:
    """Whether a processor takes sounds."""
    return isinstance(processor, CheckedProcessor) and processor.takes_audio


def unheard(mix: Mix, processor: Any) -> str | None:
    """What is wrong with a mix that has `use_audio: true` if the model cannot hear; None if nothing is."""
    source = next((spec.source for spec in mix.sources if spec.use_audio), None)
    if source is None or hears(processor):
        return None
    return (
        f"{mix.path}: {source} has use_audio: true, but {type(processor).__name__} cannot hear: leave it out, or use "
        "a design with an audio tower."
    )
