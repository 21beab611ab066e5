"""What a build has to know of each design: its classes, and from them its new parts, sources and placeholders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import designs


@dataclass(frozen=True)
class Design:
    """One of the designs, its classes loaded.

    Attributes:
        config: configuration class.
        base: class without a head.
        model: class with a head.
        processor: processor class.
        video_processor: video processor class.
        next_step: the training that comes first.
    """

    config: Any
    base: Any
    model: Any
    processor: Any
    video_processor: Any
    next_step: str

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Modules of the base model that no source has, in the order in which they are drawn."""
        parts: tuple[str, ...] = self.base.new_parts
        return parts

    @property
    def placeholders(self) -> Mapping[str, str]:
        """Kind of placeholder -> token."""
        tokens: Mapping[str, str] = self.processor.PLACEHOLDERS
        return tokens

    @property
    def sources(self) -> tuple[str, ...]:
        """What it is built from, by the names of `build_checkpoint`'s arguments."""
        return ("vision", "language_model", *(["audio"] if "audio" in self.config.modalities else []))

    @property
    def crops(self) -> bool:
        """Frames of a CLIP are cut to a square instead of squeezed into one."""
        return bool(self.video_processor.do_center_crop)


def load_design(row: designs.Design) -> Design:
    """A design of the table with its classes."""
    return Design(
        config=row.load("config"),
        base=row.load("model"),
        model=row.load("generating_model"),
        processor=row.load("processor"),
        video_processor=row.load("video_processor"),
        next_step=row.next_step or "",
    )


__all__ = ["Design", "load_design"]
