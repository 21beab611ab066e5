"""From single answers to the numbers of a benchmark: accuracies and mean scores, overall and by group.

Every function returns plain numbers in a dictionary, which can be written as JSON. Accuracies and rates lie between 0
and 1, scores have the scale of their judge. What could not be read or judged is always counted, beside the number that
it changes. The order of the items plays no part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .exact_match import answer_matches
from .multiple_choice import Choice, score_choice

__all__ = [
    "Groups",
    "Label",
    "by_group",
    "exact_match_accuracy",
    "multiple_choice_accuracy",
    "summarize_choices",
    "summarize_matches",
]

# Label of an item in one table: None if the table leaves it out, several if it counts in several rows.
Label = str | Sequence[str] | None
# Name of a table ("task", "duration") -> one label for each item.
Groups = Mapping[str, Sequence[Label]]


def multiple_choice_accuracy(
    predictions: Sequence[str],
    references: Sequence[int],
    options: Sequence[Sequence[str]],
    *,
    rule: str = "robust",
    fallback: str = "none",
    seed: int = 0,
    keys: Sequence[str] | None = None,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """The accuracy of answers to multiple-choice questions.

    Args:
        predictions: what the model wrote, one text for each item.
        references: numbers of the right options, counted from 0.
        options: the texts of each item's options.
        rule: how answers are read, a key of `multiple_choice.CHOICE_RULES`.
        fallback: what stands in for an answer that cannot be read, a key of `multiple_choice.FALLBACKS`.
        seed: of the random fallback.
        keys: ids of the items, which the random fallback needs.
        groups: labels for tables by task, duration, ...

    Returns:
        As `summarize_choices`, with `rule` and `fallback`.

    Raises:
        ValueError: the lists have different lengths or are empty, or a name or a reference does not exist.

    Example:
        >>> result = multiple_choice_accuracy(["(A)", "?"], [0, 1], [["a", "b"], ["a", "b"]])
        >>> result["accuracy"], result["parse_failures"], result["accuracy_of_parsed"]
        (0.5, 1, 1.0)
    """
    ids = [""] * len(predictions) if keys is None else keys
    check_lengths(predictions=predictions, references=references, options=options, keys=ids)
    scored = [
        score_choice(text, choices, reference, rule, fallback, seed, key)
        for text, choices, reference, key in zip(predictions, options, references, ids, strict=True)
    ]
    summary = summarize_choices([choice for choice, _ in scored], [right for _, right in scored], groups)
    return {**summary, "rule": rule, "fallback": fallback}


def summarize_choices(
    choices: Sequence[Choice], correct: Sequence[bool | None], groups: Groups | None = None
) -> dict[str, Any]:
    """Counts what was read from the answers, and what of it is right.

    Args:
        choices: what was read from each answer.
        correct: whether it is right; None where the right option is not public.
        groups: labels for tables.

    Returns:
        `accuracy`: answers that cannot be read are wrong, unless a fallback stands in.
        `accuracy_of_parsed`: answers that cannot be read are left out.
        `count`, `correct`, and `unknown`: items whose right option is not public; they are in no accuracy.
        `parse_failures` and `parse_failure_rate`, over all items; `failures`: reason -> number of answers.
        `fallbacks`: number of answers for which a fallback stands in.
        `rules`: rule -> number of answers that it read.
        `groups`: name of a table -> `by_group`.
        An accuracy of no items is None.

    Raises:
        ValueError: the lists have different lengths or are empty.
    """
    check_lengths(choices=choices, correct=correct, **dict(groups or {}))

    def summary(indices: Sequence[int]) -> dict[str, Any]:
        known = [index for index in indices if correct[index] is not None]
        parsed = [index for index in known if choices[index].parsed]
        failures = sum(not choices[index].parsed for index in indices)
        return {
            "accuracy": mean(bool(correct[index]) for index in known),
            "accuracy_of_parsed": mean(bool(correct[index]) for index in parsed),
            "count": len(indices),
            "correct": sum(bool(correct[index]) for index in known),
            "unknown": len(indices) - len(known),
            "parse_failures": failures,
            "parse_failure_rate": failures / len(indices),
        }

    return {
        **summary(range(len(choices))),
        "failures": _counts(choice.failure for choice in choices if not choice.parsed),
        "fallbacks": sum(choice.rule.startswith("fallback:") for choice in choices),
        "rules": _counts(choice.rule for choice in choices if choice.parsed),
        "groups": tables(groups, summary, ("accuracy", "accuracy_of_parsed")),
    }


def exact_match_accuracy(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    rule: str = "folded",
    groups: Groups | None = None,
) -> dict[str, Any]:
    """The share of answers that agree with their reference.

    Args:
        predictions: what the model wrote.
        references: what is right; one text for each item, or a list of all acceptable ones.
        rule: how they are compared, a key of `exact_match.MATCH_RULES`.
        groups: labels for tables.

    Returns:
        As `summarize_matches`, with `rule`.

    Raises:
        ValueError: the lists have different lengths or are empty, or there is no such rule.
    """
    check_lengths(predictions=predictions, references=references)
    correct = [answer_matches(text, right, rule) for text, right in zip(predictions, references, strict=True)]
    empty = [not text.strip() for text in predictions]
    return {**summarize_matches(correct, empty, groups), "rule": rule}


def summarize_matches(
    correct: Sequence[bool], empty: Sequence[bool] | None = None, groups: Groups | None = None
) -> dict[str, Any]:
    """Counts answers that agree with their reference.

    Args:
        correct: whether each answer does.
        empty: whether it is empty; nobody was, if this is None.
        groups: labels for tables.

    Returns:
        `accuracy`, `count`, `correct`, `empty` (answers without text, which are wrong) and `groups`.

    Raises:
        ValueError: the lists have different lengths or are empty.
    """
    is_empty = [False] * len(correct) if empty is None else empty
    check_lengths(correct=correct, empty=is_empty, **dict(groups or {}))

    def summary(indices: Sequence[int]) -> dict[str, Any]:
        return {
            "accuracy": mean(bool(correct[index]) for index in indices),
            "count": len(indices),
            "correct": sum(bool(correct[index]) for index in indices),
            "empty": sum(bool(is_empty[index]) for index in indices),
        }

    return {**summary(range(len(correct))), "groups": tables(groups, summary, ("accuracy",))}


def by_group(
    labels: Sequence[Label], summary: Callable[[Sequence[int]], dict[str, Any]], averaged: Sequence[str]
) -> dict[str, Any]:
    """One table: a summary for each label.

    Args:
        labels: the label of each item; None leaves it out of the table, several put it into several rows.
        summary: numbers of the items with these indices.
        averaged: keys of the summary for which a macro average is wanted.

    Returns:
        `rows`: label -> summary, in the order of appearance.
        `macro`: averaged key -> mean over the rows; None if a row has no number.
        `micro`: averaged key -> number of all items of the table, each once.
        `without_label`: number of items that the table leaves out.
    """
    rows: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        for name in dict.fromkeys([label] if isinstance(label, str) else label or ()):
            rows.setdefault(name, []).append(index)
    summaries = {name: summary(indices) for name, indices in rows.items()}
    members = sorted({index for indices in rows.values() for index in indices})
    overall = summary(members) if members else {}
    return {
        "rows": summaries,
        "macro": {key: _macro([row[key] for row in summaries.values()]) for key in averaged},
        "micro": {key: overall.get(key) for key in averaged},
        "without_label": len(labels) - len(members),
    }


def tables(
    groups: Groups | None, summary: Callable[[Sequence[int]], dict[str, Any]], averaged: Sequence[str]
) -> dict[str, Any]:
    """All tables: name -> `by_group`."""
    return {name: by_group(labels, summary, averaged) for name, labels in (groups or {}).items()}


def mean(values: Iterable[float]) -> float | None:
    """The mean, the same in any order; None of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def check_lengths(**columns: Sequence[Any]) -> None:
    """Refuse columns of different lengths, and empty ones.

    Raises:
        ValueError: names the column and both numbers.
    """
    (first, expected), *others = [(name, len(column)) for name, column in columns.items()]
    for name, length in others:
        if length != expected:
            raise ValueError(f"There are {expected} {first}, but {length} {name}: give one for each item.")
    if not expected:
        raise ValueError(f"There is nothing to score: {first} is empty.")


def _macro(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return mean(present) if len(present) == len(values) else None


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
