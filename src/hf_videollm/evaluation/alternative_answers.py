"""Items with several right answers, before a judge: it compares with the first one, or with each, and the best counts.

WildQA has alternative answers from other people. Its authors and IVA do not say whether they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .items import Item
from .judges.items import Judgement

__all__ = ["REFERENCES", "answers_to_judge", "best_judgement", "reference_facts"]

# Which right answers a judge is told.
REFERENCES = ("first", "best")


def answers_to_judge(item: Item, references: str) -> list[tuple[str, str | None]]:
    """What the prediction for an item is compared with: an id for the judge, and a right answer.

    Args:
        item: the item.
        references: one of `REFERENCES`.

    Example:
        >>> from pathlib import Path
        >>> from hf_videollm.evaluation.items import Medium
        >>> item = Item("7", (Medium(Path("a.mp4")),), ("Where?",), answer="a bog", references=("a bog", "a marsh"))
        >>> answers_to_judge(item, "best")
        [('7', 'a bog'), ('7/answer 2', 'a marsh')]
    """
    others = item.all_references[1:] if references == "best" else ()
    return [(item.id, item.answer)] + [(f"{item.id}/answer {n}", other) for n, other in enumerate(others, start=2)]


def best_judgement(judgements: Sequence[Judgement]) -> int:
    """Position of the judgement that counts for an item.

    A yes counts before a no, and among equals the higher score, and then the earlier one. A failed judgement may have
    been a yes: it counts where no other one is, so that the item is a failure, not a wrong answer.

    Example:
        >>> best_judgement([Judgement(False, 3.0), Judgement(True, 2.0), Judgement(True, 4.0)])
        2
        >>> best_judgement([Judgement(False, 3.0), Judgement(None, None, failed=True)])
        1
    """

    def worth(position: int) -> tuple[bool, bool, float, int]:
        judgement = judgements[position]
        return (bool(judgement.pred), judgement.failed, judgement.score or 0.0, -position)

    return max(range(len(judgements)), key=worth)


def reference_facts(item: Item, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """What the result keeps of each comparison; nothing where there was one."""
    if len(judgements) < 2:
        return {}
    compared = [
        {"answer": answer, "pred": judgement.pred, "score": judgement.score, "failed": judgement.failed}
        for answer, judgement in zip(item.all_references, judgements, strict=True)
    ]
    return {"references": compared, "counted": best_judgement(judgements)}
