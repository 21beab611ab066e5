"""Numbers of a model card, each with the file or function that it comes from.

A template gets its numbers as marked text. When the card is rendered, every digit outside of the marks is an error, so
that no number can be typed into a template or a sentence. `check_numbers` finds numbers that were changed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CardNumberError", "Fact", "FactBook", "RenderedCard", "StatedNumber", "check_numbers", "shown_as"]

# Characters of Unicode's private use area: no text of a card has them.
_OPEN, _MIDDLE, _CLOSE = "\ue000", "\ue001", "\ue002"
_MARK = re.compile(f"{_OPEN}(\\d+){_MIDDLE}([^{_CLOSE}]*){_CLOSE}")
# Addresses are names, whatever digits they have.
_ADDRESS = re.compile(r"https?://[^\s)>\]]+|\]\([^)\s]*\)")
# A number: digits that belong to no word. `VideoLLaMA2`, `int8`, `Apache-2.0`, `7B` and `4-bit` are names.
_NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)\.?\d[\d,]*(?:\.\d+)?(?=(?:[kMGT]i?B|ms|fps|tokens?|frames?|x|k|h)\b|(?!\.?\w|-[A-Za-z]))"
)
_FENCE = re.compile(r"^```")
NOT_MEASURED = "not measured"
NAME = "name"
_UNITS = ("B", "kB", "MB", "GB", "TB")


class CardNumberError(ValueError):
    """A model card states a number that no file backs."""


@dataclass(frozen=True)
class Fact:
    """A number or name with its source.

    Attributes:
        shown: as the card prints it.
        source: file and field, or function, in words.
        read: reads the value from the source again.
        style: how the value is printed; see `shown_as`.
    """

    shown: str
    source: str
    read: Callable[[], Any]
    style: str


@dataclass(frozen=True)
class StatedNumber:
    """A number where it stands in a card.

    Attributes:
        line: number of the line, from 1.
        shown: as it is printed.
        source: where it comes from; empty for a name.
    """

    line: int
    shown: str
    source: str


@dataclass(frozen=True)
class RenderedCard:
    """A finished card.

    Attributes:
        text: the card.
        numbers: its numbers in order.
        facts: everything that it could have used.
    """

    text: str
    numbers: tuple[StatedNumber, ...]
    facts: tuple[Fact, ...]


def shown_as(value: Any, style: str) -> str:
    """A value as a card prints it.

    Args:
        value: the value; `None` is "not measured".
        style: `"count"` (2,304), `"percent"` (a share from 0 to 1), `"size"` (bytes), `"plain"`, or `"name"`.

    Example:
        >>> shown_as(2304, "count"), shown_as(0.955, "percent"), shown_as(4_600_000, "size"), shown_as(None, "count")
        ('2,304', '95.5 %', '4.6 MB', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    if style == "count":
        return f"{value:,}"
    if style == "percent":
        return f"{100 * value:.1f} %"
    if style == "size":
        power = min((len(str(int(value))) - 1) // 3, len(_UNITS) - 1)
        return f"{value / 1000**power:.3g} {_UNITS[power]}"
    return str(value)


@dataclass
class FactBook:
    """Collects the facts of one card, and hands them out as marked text."""

    facts: list[Fact] = field(default_factory=list)

    def add(self, read: Callable[[], Any], source: str, style: str = "count") -> str:
        """Read a value, and give the marked text that a template prints.

        Args:
            read: reads the value.
            source: where it comes from.
            style: see `shown_as`.
        """
        return self._mark(Fact(shown_as(read(), style), source, read, style))

    def name(self, text: str, source: str) -> str:
        """Mark a name with digits, such as that of a model in a paper's table."""
        return self._mark(Fact(text, source, lambda: text, NAME))

    def finish(self, marked: str, head: str = "") -> RenderedCard:
        """Check that all numbers of a text are facts, take the marks away, and name all sources at its end.

        Args:
            marked: the text.
            head: what stands before it and is not checked: the metadata.

        Raises:
            CardNumberError: the text has a number that is no fact; the message has the line.
        """
        numbers: list[StatedNumber] = []
        lines: list[str] = []
        before = head.count("\n")
        is_code = False
        for number, line in enumerate(marked.splitlines(), start=1):
            is_code ^= _FENCE.match(line) is not None
            if not is_code and (typed := _NUMBER.search(_ADDRESS.sub("", _MARK.sub("", line)))):
                clean = _MARK.sub(r"\2", line).strip()
                raise CardNumberError(f"line {number} of the card states {typed[0]}, and no file backs it: {clean}")
            for mark in _MARK.finditer(line):
                fact = self.facts[int(mark[1])]
                source = fact.source if fact.style != NAME else ""
                numbers.append(StatedNumber(before + number, fact.shown, source))
            lines.append(_MARK.sub(r"\2", line))
        used = dict.fromkeys(stated.source.split(":")[0] for stated in numbers if stated.source)
        listed = "\n".join(f"- {source}" for source in used)
        text = "\n".join(lines).rstrip()
        return RenderedCard(f"{head}{text}\n\n{listed}\n", tuple(numbers), tuple(self.facts))

    def _mark(self, fact: Fact) -> str:
        self.facts.append(fact)
        return f"{_OPEN}{len(self.facts) - 1}{_MIDDLE}{fact.shown}{_CLOSE}"


def check_numbers(text: str, card: RenderedCard) -> None:
    """Check that a card, which may have been edited by hand, states only numbers that files back.

    A line of the rendered card must have the numbers that it was rendered with. A new line may repeat numbers of the
    facts, and must have no others.

    Args:
        text: the card to check, without its metadata.
        card: the same card, rendered from the files.

    Raises:
        CardNumberError: a number was changed or added; the message has the line and what the files say.
    """
    rendered: dict[str, set[tuple[str, ...]]] = {}
    for line in card.text.splitlines():
        rendered.setdefault(_words(line), set()).add(tuple(_numbers(line)))
    known = {found for fact in card.facts for found in _numbers(fact.shown)}
    for number, line in enumerate(text.splitlines(), start=1):
        stated = tuple(_numbers(line))
        expected = rendered.get(_words(line))
        if not stated or (expected is not None and stated in expected):
            continue
        if expected is not None:
            nearest = max(sorted(expected), key=lambda values: sum(map(str.__eq__, values, stated)))
            wrong, right = next(pair for pair in zip(stated, nearest, strict=True) if pair[0] != pair[1])
            raise CardNumberError(
                f"line {number} of the card states {wrong} where the files say {right}: {line.strip()}"
            )
        if unbacked := [one for one in stated if one not in known]:
            raise CardNumberError(
                f"line {number} of the card states {unbacked[0]}, and no file backs it: {line.strip()}"
            )


def _numbers(line: str) -> list[str]:
    return [match[0] for match in _NUMBER.finditer(_ADDRESS.sub("", line))]


def _words(line: str) -> str:
    """A line without its numbers."""
    return _NUMBER.sub("#", _ADDRESS.sub("", line)).strip()
