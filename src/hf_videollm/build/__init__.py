"""A vision tower and a language model become one of the designs, ready for its first training stage."""

from .report import BuildReport
from .run import build_checkpoint

__all__ = ["BuildReport", "build_checkpoint"]
