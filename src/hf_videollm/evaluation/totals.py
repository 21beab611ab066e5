"""From scored items to the numbers of a result: metrics, tables by group, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .aggregate import Label, summarize_choices, summarize_matches
from .aggregate_judged import counted_score, counting_of, judged_accuracy, msvc_scores, vcg_scores
from .items import Item
from .judges.items import Judgement
from .macro_statistics import macro_interval
from .multiple_choice import Choice
from .scoring import Scoring
from .statistics import bootstrap_interval
from .task import Scored

__all__ = ["totals"]


def totals(scoring: Scoring, items: Sequence[Item], scored: Sequence[Scored], num_errors: int = 0) -> dict[str, Any]:
    """The metrics of a task.

    Args:
        scoring: by which the items were scored.
        items: with an answer.
        scored: what each answer is worth.
        num_errors: items without answer. They are in no number but `accuracy_errors_wrong`, which counts them as wrong.

    Returns:
        The numbers that `aggregate` and `aggregate_judged` return, with `intervals` (name of a number ->
        `statistics.Interval`) and `accuracy_errors_wrong`. Each table of `groups` has `macro_intervals`, those of its
        `macro`. Empty where nothing can be scored.
    """
    if not items or scoring.task.metric == "none" or scoring.lacks_judge:
        return {}
    numbers = _numbers(scoring, items, scored)
    if "aspects" in numbers:
        return {**numbers, "intervals": _aspect_intervals(scoring, items, scored, numbers)}
    intervals = {}
    for name, values in (("accuracy", _right(scoring, scored)), ("score", _points(scoring, scored))):
        kept = [(float(value), item) for value, item in zip(values, items, strict=True) if value is not None]
        if not kept or name not in numbers:
            continue
        intervals[name] = _interval(kept, scoring.seed)
        if name == "accuracy":
            numbers["accuracy_errors_wrong"] = sum(value for value, _ in kept) / (len(kept) + num_errors)
        for key, table in numbers["groups"].items():
            if table["macro"].get(name) is not None:
                labels = [item.groups.get(key) for _, item in kept]
                table.setdefault("macro_intervals", {})[name] = _macro_interval(kept, labels, scoring.seed)
    return {**numbers, "intervals": intervals}


def _numbers(scoring: Scoring, items: Sequence[Item], scored: Sequence[Scored]) -> dict[str, Any]:
    groups = {key: [item.groups.get(key) for item in items] for key in scoring.task.group_by}
    metric = scoring.task.metric
    if metric in ("multiple_choice", "matched_choice"):
        choices = [_choice(value) for value in scored]
        return summarize_choices(choices, [value.correct for value in scored], groups)
    if metric == "exact_match":
        known = [index for index, value in enumerate(scored) if value.correct is not None]
        if not known:
            return {}
        chosen = [scored[index] for index in known]
        groups = {key: [labels[index] for index in known] for key, labels in groups.items()}
        empty = [value.parse_failed for value in chosen]
        return summarize_matches([bool(value.correct) for value in chosen], empty, groups)
    if metric == "judged_qa":
        judgements = [Judgement(value.correct, value.score, value.judge_failed) for value in scored]
        return judged_accuracy(judgements, scoring.policy, groups)
    aspects, judgements = [], []
    for value in scored:
        for aspect, judged in value.detail["aspects"].items():
            aspects.append(aspect)
            judgements.append(Judgement(None, judged["score"], judged["failed"]))
    return (vcg_scores if metric == "vcg" else msvc_scores)(aspects, judgements, scoring.policy)


def _choice(value: Scored) -> Choice:
    """What the summary of choices counts: a judge that gave no letter is a failure, too."""
    failure = value.detail.get("failure", "") or ("judge" if value.judge_failed else "")
    return Choice(value.choice, value.rule or "none", failure)


def _right(scoring: Scoring, scored: Sequence[Scored]) -> list[bool | None]:
    """Whether each answer counts as right; None where it counts in no accuracy."""
    if scoring.task.metric != "judged_qa":
        return [value.correct for value in scored]
    undecided_are_wrong = counting_of(scoring.policy).failures_are_wrong
    right: list[bool | None] = []
    for value in scored:
        decided = not value.judge_failed and value.correct is not None
        right.append(value.correct if decided else False if undecided_are_wrong else None)
    return right


def _points(scoring: Scoring, scored: Sequence[Scored]) -> list[float | None]:
    """The score of each answer as the policy counts it; None where it counts in no mean."""
    if scoring.task.metric != "judged_qa":
        return [None] * len(scored)
    return [counted_score(scoring.policy, value.score, value.judge_failed) for value in scored]


def _aspect_intervals(
    scoring: Scoring, items: Sequence[Item], scored: Sequence[Scored], numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """Intervals of the means over all judgements, and over the aspects."""
    kept, aspects = [], []
    for item, value in zip(items, scored, strict=True):
        for aspect, judged in value.detail["aspects"].items():
            if (points := counted_score(scoring.policy, judged["score"], judged["failed"])) is not None:
                kept.append((points, item))
                aspects.append(aspect)
    if not kept:
        return {}
    macro = {} if numbers["macro"] is None else {"macro": _macro_interval(kept, aspects, scoring.seed)}
    return {**macro, "micro": _interval(kept, scoring.seed)}


def _interval(values: Sequence[tuple[float, Item]], seed: int) -> dict[str, Any]:
    numbers, items = zip(*values, strict=True)
    return bootstrap_interval(numbers, list(map(_video, items)), seed=seed).to_dict()


def _macro_interval(values: Sequence[tuple[float, Item]], labels: Sequence[Label], seed: int) -> dict[str, Any]:
    numbers, items = zip(*values, strict=True)
    return macro_interval(numbers, labels, list(map(_video, items)), seed=seed).to_dict()


def _video(item: Item) -> str:
    """What the bootstrap draws: questions on one video are not independent."""
    return str(item.media[0].path)
