"""The numbers of a result as tables show them: in percent or points, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..headline import IN_PERCENT, Headline, headlines

__all__ = ["GroupTable", "group_tables", "in_units", "numbers", "unit"]

# The number of a row of a table by group, the first that the rows have.
OF_GROUPS = ("accuracy", "score")


def numbers(result: Mapping[str, Any]) -> list[Headline]:
    """The numbers of a result: its headlines, then the mean score of each aspect; none where nothing was scored."""
    found = headlines(result)
    for aspect, row in result["metrics"].get("aspects", {}).items():
        if row["score"] is not None:
            found.append(Headline(aspect, float(row["score"])))
    return found


def unit(name: str) -> str:
    """What a number is counted in: "%" or nothing, for points.

    Example:
        >>> unit("accuracy"), unit("score")
        ('%', '')
    """
    return "%" if name in IN_PERCENT else ""


def in_units(name: str, value: float) -> float:
    """A number as it is printed: shares as percent, without the rounding errors of that.

    Example:
        >>> in_units("accuracy", 0.57), in_units("score", 3.5)
        (57.0, 3.5)
    """
    return round(value * 100, 10) if name in IN_PERCENT else value


@dataclass(frozen=True)
class GroupTable:
    """One table of a result by group.

    Attributes:
        name: of the table, e.g. `duration`.
        number: what its rows hold, "accuracy" or "score".
        rows: label of a group -> number, and number of items. The number is None where a group has none.
        macro: mean over the rows with its interval; None where a row has no number.
    """

    name: str
    number: str
    rows: Mapping[str, tuple[float | None, int]]
    macro: Headline | None


def group_tables(result: Mapping[str, Any]) -> list[GroupTable]:
    """The tables by group of a result, in its order."""
    found = []
    for name, table in (result["metrics"].get("groups") or {}).items():
        rows = table["rows"]
        number = next((key for key in OF_GROUPS if any(key in row for row in rows.values())), None)
        if number is not None:
            values = {label: (row.get(number), int(row["count"])) for label, row in rows.items()}
            found.append(GroupTable(name, number, values, _macro(table, number)))
    return found


def _macro(table: Mapping[str, Any], number: str) -> Headline | None:
    if (value := table["macro"].get(number)) is None:
        return None
    interval = table.get("macro_intervals", {}).get(number, {})
    return Headline(number, float(value), interval.get("low"), interval.get("high"))
