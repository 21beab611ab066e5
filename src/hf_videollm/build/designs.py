"""What a build needs to know about a design: its classes, and from them its new parts, sources and placeholders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import designs


@dataclass(frozen=True)
class Design:
    """One of the designs, with its classes loaded.

    Attributes:
        config: configuration class.
        base: class of the model without a head.
        model: class of the model with a head.
        processor: processor class.
        video_processor: video processor class.
        next_step: the first training stage, in words.
    """

    config: Any
    base: Any
    model: Any
    processor: Any
    video_processor: Any
    next_step: str

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Modules of the base model that no source has, in the order in which their random values are drawn."""
        parts: tuple[str, ...] = self.base.new_parts
        return parts

    @property
    def placeholders(self) -> Mapping[str, str]:
        """Maps the kind of a placeholder to its token."""
        tokens: Mapping[str, str] = self.processor.PLACEHOLDERS
        return tokens

    @property
    def sources(self) -> tuple[str, ...]:
        """The arguments of `build_checkpoint` that name the sources of this design."""
        return ("vision", "language_model", *(["audio"] if "audio" in self.config.modalities else []))

    @property
    def crops(self) -> bool:
        """Whether frames for a CLIP are cropped to a square, and not just resized to a square."""
        return bool(self.video_processor.do_center_crop)


def load_design(row: designs.Design) -> Design:
    """Load the classes of a row of the table of designs."""
    return Design(
        config=row.load("config"),
        base=row.load("model"),
        model=row.load("generating_model"),
        processor=row.load("processor"),
        video_processor=row.load("video_processor"),
        next_step=row.next_step or "",
    )


__all__ = ["Design", "load_design"]
