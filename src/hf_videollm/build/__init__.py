"""Makes a model of any design from a vision tower and a language model, ready for its first training stage."""

from .report import BuildReport
from .run import build_checkpoint

__all__ = ["BuildReport", "build_checkpoint"]
