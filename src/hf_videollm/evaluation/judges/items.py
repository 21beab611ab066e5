"""What is judged, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .judge_text import JudgeText, Value

__all__ = ["JudgeItem", "Judgement", "count_judgements"]


@dataclass(frozen=True)
class JudgeItem:
    """One answer to judge.

    Attributes:
        id: name of the item, unique in a run. Several questions may be about one video, so it is the question's.
        text: what the judge is asked.
        values: the fields of the text, e.g. question, answer and pred.
        options: the options of the question, for the judge that works by rules; others read them in the question.

    Example:
        >>> from hf_videollm.evaluation.judges.texts import QA
        >>> JudgeItem("v1_3", QA, {"question": "Who?", "answer": "a dog", "pred": "a puppy"}).is_empty
        False
    """

    id: str
    text: JudgeText
    values: Mapping[str, Value]
    options: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether one of the predictions holds nothing but white space."""
        return any(not str(self.values[name]).strip() for name in self.text.predictions)


@dataclass(frozen=True)
class Judgement:
    """What a judge said of one item.

    Attributes:
        pred: yes or no; `None` where the text does not ask for it, where the origin's rule leaves it open, and after a
            failure.
        score: the score; `None` after a failure.
        failed: there is no readable reply. What that counts as is the policy's `aggregation`.
        error: why it failed.
        reply: the last reply, readable or not.
        attempts: how often the judge was asked; replies from a cache count as well, and 0 means that no reply was
            needed.
        choice: letter of an option, for Video-Bench.
    """

    pred: bool | None
    score: float | None
    failed: bool = False
    error: str | None = None
    reply: str | None = None
    attempts: int = 0
    choice: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for the record of a run."""
        return asdict(self)


def count_judgements(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many items there are, how many have a judgement, how many failed, and how many needed no judge.

    Example:
        >>> count_judgements([Judgement(True, 4, attempts=1), Judgement(None, None, failed=True, attempts=5)])
        {'items': 2, 'judged': 1, 'judge_errors': 1, 'without_a_call': 0, 'attempts': 6}
    """
    rows = list(judgements)
    failed = sum(row.failed for row in rows)
    return {
        "items": len(rows),
        "judged": len(rows) - failed,
        "judge_errors": failed,
        "without_a_call": sum(row.attempts == 0 for row in rows),
        "attempts": sum(row.attempts for row in rows),
    }
