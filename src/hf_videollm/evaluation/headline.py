"""The few numbers of a result that stand in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Headline", "headlines"]

# Names of numbers, the most important first, as far as a result has them.
NAMES = ("accuracy", "score", "macro", "micro")
IN_PERCENT = ("accuracy",)


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

    def __str__(self) -> str:
        """For people: shares in percent.

        Example:
            >>> str(Headline("accuracy", 0.5, 0.4, 0.6))
            'accuracy 50.0 % [40.0, 60.0]'
        """
        scale, unit, digits = (100, " %", 1) if self.name in IN_PERCENT else (1, "", 2)
        text = f"{self.name} {self.value * scale:.{digits}f}{unit}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low * scale:.{digits}f}, {self.high * scale:.{digits}f}]"


def headlines(result: Mapping[str, Any]) -> list[Headline]:
    """The numbers of a result that stand in a table; none where nothing was scored."""
    metrics = result["metrics"]
    found = []
    for name in NAMES:
        if isinstance(value := metrics.get(name), int | float):
            interval = metrics.get("intervals", {}).get(name, {})
            found.append(Headline(name, float(value), interval.get("low"), interval.get("high")))
    return found
