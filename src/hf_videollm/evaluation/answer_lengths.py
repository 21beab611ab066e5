"""How long answers are, in words and in tokens (PLLaVA paper, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .statistics import bootstrap_interval

__all__ = ["QUANTILES", "UNITS", "Lengths", "bin_edges", "lengths_of"]

UNITS = ("words", "tokens")
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MOST_BINS = 20


@dataclass(frozen=True)
class Lengths:
    """Lengths of answers.

    Attributes:
        unit: what is counted.
        values: one for each answer.
    """

    unit: str
    values: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean length."""
        return float(np.mean(self.values))

    def quantiles(self) -> dict[str, float]:
        """Share of the answers -> the length that they do not exceed; interpolated between two answers.

        Example:
            >>> Lengths("words", (1, 3)).quantiles()["0.5"]
            2.0
        """
        return {f"{share:g}": float(np.quantile(self.values, share)) for share in QUANTILES}

    def histogram(self, edges: Sequence[float]) -> list[int]:
        """Number of answers between each edge and the next; the last bin holds its upper edge, too."""
        return [int(count) for count in np.histogram(self.values, bins=np.asarray(edges))[0]]

    def to_dict(self, edges: Sequence[float]) -> dict[str, Any]:
        """Plain values for JSON."""
        interval = bootstrap_interval([float(value) for value in self.values])
        return {
            "answers": len(self.values),
            "mean": self.mean,
            "low": interval.low,
            "high": interval.high,
            "quantiles": self.quantiles(),
            "histogram": {"edges": list(edges), "counts": self.histogram(edges)},
        }


def lengths_of(texts: Sequence[str], tokenizer: Any) -> dict[str, Lengths]:
    """Unit -> lengths of the texts. Words are what blanks separate; tokens are counted without special tokens.

    Args:
        texts: the answers.
        tokenizer: of the model that wrote them.
    """
    words = tuple(len(text.split()) for text in texts)
    tokens = tuple(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return {"words": Lengths("words", words), "tokens": Lengths("tokens", tokens)}


def bin_edges(rows: Sequence[Mapping[str, Lengths]], unit: str) -> list[float]:
    """Edges of at most `MOST_BINS` bins of equal whole width, in which the lengths of all rows have a place."""
    longest = max((max(row[unit].values) for row in rows if unit in row), default=0)
    width = -(-(longest + 1) // MOST_BINS)
    count = -(-(longest + 1) // width)
    return [float(width * number) for number in range(count + 1)]
