"""How far a judge agrees with people: accuracy, Cohen's kappa, and the correlation of scores."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .backends.protocol import Judge, describe_judge
from .cache import ReplyCache
from .human_labels import HumanLabel
from .items import JudgeItem, Judgement
from .judge_text import JudgeText
from .policies import JudgePolicy
from .run import Progress, judge_items

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Agreement", "cohen_kappa", "compare_with_people", "measure_agreement", "pearson", "spearman"]

# So many failures are shown in a terminal.
MOST_FAILURES = 20


@dataclass(frozen=True)
class Agreement:
    """A judge's verdicts beside those of people.

    Numbers that cannot be computed are `None`: without a verdict, without two different scores, or when everybody
    says the same of everything.

    Attributes:
        items: number of answers.
        judged: those with a verdict of the judge.
        judge_errors: those without: no reply, or none that can be read as yes or no.
        accuracy: share of the judged answers of which judge and people say the same.
        accuracy_with_errors: the same share of all answers; an error agrees with nobody.
        kappa: Cohen's kappa of the judged answers: 1 is agreement, 0 is what chance would give.
        confusion: people's verdict -> judge's verdict (yes, no, error) -> number of answers.
        scored: answers with a score of both.
        pearson: linear correlation of the scores.
        spearman: correlation of their ranks.
        judge: who judged by which policy, as `describe_judge` says it.
        failures: `id` and `error` of each answer without a verdict.
    """

    items: int
    judged: int
    judge_errors: int
    accuracy: float | None
    accuracy_with_errors: float
    kappa: float | None
    confusion: dict[str, dict[str, int]]
    scored: int
    pearson: float | None
    spearman: float | None
    judge: dict[str, Any]
    failures: tuple[dict[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain JSON types."""
        return asdict(self)

    def render(self) -> RenderableType:
        """The numbers as tables for a terminal."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        facts = Table("", "", title="Agreement with people", show_header=False)
        facts.columns[1].justify = "right"
        # As Text: a name may hold brackets, which rich would take for markup.
        facts.add_row("judge", Text(f"{self.judge['judge']}: {self.judge['judge_model']}"))
        facts.add_row("policy", self.judge["policy"]["name"])
        for name in ("items", "judged", "judge_errors", "accuracy", "accuracy_with_errors", "kappa"):
            facts.add_row(name.replace("_", " "), _written(getattr(self, name)))
        for name in ("pearson", "spearman"):
            facts.add_row(f"{name} of {self.scored} scores", _written(getattr(self, name)))
        table = Table("people say", "judge: yes", "judge: no", "judge: error")
        for verdict, row in self.confusion.items():
            table.add_row(verdict, *(str(row[column]) for column in ("yes", "no", "error")))
        lines = [Text(f"{failure['id']}: {failure['error']}") for failure in self.failures[:MOST_FAILURES]]
        if more := len(self.failures) - len(lines):
            lines.append(Text(f"... and {more} more (--json has all)"))
        return Group(facts, table, *([Text("Without a verdict:"), *lines] if lines else ()))


def measure_agreement(
    labels: Sequence[HumanLabel],
    text: JudgeText,
    policy: JudgePolicy,
    judge: Judge,
    cache: ReplyCache | None = None,
    concurrency: int = 8,
    progress: Progress | None = None,
) -> Agreement:
    """Let a judge judge what people have judged, and compare.

    Args:
        labels: what people said.
        text: what the judge is asked; one that asks for yes or no.
        policy: how it is asked.
        judge: who is asked.
        cache: as in `judge_items`.
        concurrency: as in `judge_items`.
        progress: as in `judge_items`.

    Raises:
        ValueError: the text asks for something else than yes or no.
        JudgeStopError: the judge cannot go on.
    """
    if text.reply != "verdict":
        raise ValueError(f"judge_text={text.name} asks for no verdict: take qa, avqa_table9 or avqa_code.")
    items = [
        JudgeItem(row.id, text, {"question": row.question, "answer": row.answer, "pred": row.prediction})
        for row in labels
    ]
    judgements = judge_items(items, policy, judge, cache, concurrency, progress)
    return compare_with_people(labels, judgements, {**describe_judge(judge, policy), "text": text.name})


def compare_with_people(
    labels: Sequence[HumanLabel], judgements: Sequence[Judgement], judge: dict[str, Any]
) -> Agreement:
    """The numbers from labels and judgements of the same answers in the same order.

    Args:
        labels: what people said.
        judgements: what the judge said.
        judge: who judged, as `describe_judge` says it.
    """
    pairs = [(row.label, judgement.pred) for row, judgement in zip(labels, judgements, strict=True)]
    both = [(label, pred) for label, pred in pairs if pred is not None]
    agreeing = sum(label == pred for label, pred in both)
    scores = [
        (row.score, judgement.score)
        for row, judgement in zip(labels, judgements, strict=True)
        if row.score is not None and judgement.score is not None
    ]
    confusion = {
        _word(label): {
            column: sum(pair == (label, pred) for pair in pairs)
            for column, pred in (("yes", True), ("no", False), ("error", None))
        }
        for label in (True, False)
    }
    return Agreement(
        items=len(pairs),
        judged=len(both),
        judge_errors=len(pairs) - len(both),
        accuracy=agreeing / len(both) if both else None,
        accuracy_with_errors=agreeing / len(pairs),
        kappa=cohen_kappa(both),
        confusion=confusion,
        scored=len(scores),
        pearson=pearson(scores),
        spearman=spearman(scores),
        judge=judge,
        failures=tuple(
            {"id": row.id, "error": judgement.error or "the reply gives no verdict"}
            for row, judgement in zip(labels, judgements, strict=True)
            if judgement.pred is None
        ),
    )


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two raters: (observed - expected) / (1 - expected) agreement.

    Returns:
        `None` without pairs, and when both raters say one and the same of everything.

    Example:
        >>> cohen_kappa([(True, True), (True, True), (False, False), (False, True)])
        0.5
    """
    if not pairs:
        return None
    number = len(pairs)
    observed = sum(first == second for first, second in pairs) / number
    yes = [sum(rater) / number for rater in zip(*pairs, strict=True)]
    expected = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return None if expected == 1 else (observed - expected) / (1 - expected)


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's correlation; `None` if one side has fewer than two different values."""
    if any(len(set(side)) < 2 for side in zip(*pairs, strict=True)) or len(pairs) < 2:
        return None
    first, second = zip(*pairs, strict=True)
    return statistics.correlation(first, second)


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, where equal values share the mean of their ranks."""
    if len(pairs) < 2:
        return None
    first, second = zip(*pairs, strict=True)
    return pearson(list(zip(_ranks(first), _ranks(second), strict=True)))


def _ranks(values: Sequence[float]) -> list[float]:
    positions: dict[float, list[int]] = {}
    for rank, value in enumerate(sorted(values), start=1):
        positions.setdefault(value, []).append(rank)
    return [statistics.fmean(positions[value]) for value in values]


def _word(label: bool) -> str:
    return "yes" if label else "no"


def _written(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
