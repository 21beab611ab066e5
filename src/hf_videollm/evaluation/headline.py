"""The few numbers of a result that stand in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Headline", "headlines", "losses"]

# Names of numbers, the most important first, as far as a result has them.
NAMES = ("accuracy", "score", "macro", "micro")
IN_PERCENT = ("accuracy",)
# Counts of items that spoil the numbers, in words. Those behind the first three have an answer.
LOSSES = {
    "errors": "without answer",
    "parse_failures": "unreadable",
    "judge_failures": "unjudged",
    "shorter_than_annotated": "with less video than asked about",
    "unlike_annotation": "of another length than annotated",
}


@dataclass(frozen=True)
class Headline:
    """A number with its interval.

    Attributes:
        name: in `metrics` of the result.
        value: as it stands there: a share of 1, or a score.
        low: end of the bootstrap interval; None without one.
        high: the other end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The value for people: shares in percent.

        Example:
            >>> Headline("accuracy", 0.5).text, Headline("score", 3.456).text
            ('50.0 %', '3.46')
        """
        return f"{self._shown(self.value)}{' %' if self.name in IN_PERCENT else ''}"

    @property
    def interval(self) -> str:
        """The interval for people; empty without one.

        Example:
            >>> Headline("accuracy", 0.5, 0.4, 0.6).interval
            '40.0 to 60.0'
        """
        if self.low is None or self.high is None:
            return ""
        return f"{self._shown(self.low)} to {self._shown(self.high)}"

    def _shown(self, value: float) -> str:
        return f"{value * 100:.1f}" if self.name in IN_PERCENT else f"{value:.2f}"


def headlines(result: Mapping[str, Any]) -> list[Headline]:
    """The numbers of a result that stand in a table; none where nothing was scored."""
    metrics = result["metrics"]
    found = []
    for name in NAMES:
        if isinstance(value := metrics.get(name), int | float):
            interval = metrics.get("intervals", {}).get(name, {})
            found.append(Headline(name, float(value), interval.get("low"), interval.get("high")))
    return found


def losses(counts: Mapping[str, int]) -> str:
    """How many items spoil the numbers of a result, and how; empty where none does.

    Example:
        >>> losses({"errors": 1, "parse_failures": 0, "judge_failures": 2})
        '1 without answer, 2 unjudged'
    """
    return ", ".join(f"{counts[name]} {text}" for name, text in LOSSES.items() if counts.get(name))
