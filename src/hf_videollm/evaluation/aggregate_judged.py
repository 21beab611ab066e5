"""From a judge's verdicts to the numbers of a benchmark: accuracy and score, and the means of several aspects.

What a failed judgement counts as differs from paper to paper and moves the numbers: of three yes, one no and one
failure, Video-ChatGPT makes 75 %, PLLaVA 60 %. So the policy is always named, failures are always counted, and both
accuracies are always there. The numbers have the form of those in `aggregate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .aggregate import Groups, check_lengths, mean, tables
from .judges.items import Judgement
from .judges.policies import get_policy

__all__ = [
    "MSVC_ASPECTS",
    "VCG_ASPECTS",
    "Counting",
    "aspect_scores",
    "counted_score",
    "counting_of",
    "judged_accuracy",
    "judgement_of",
    "msvc_scores",
    "rating_scores",
    "vcg_scores",
]

VCG_ASPECTS = ("correctness", "detail", "context", "temporal", "consistency")
MSVC_ASPECTS = ("correctness", "detailedness")
# PLLaVA's second number for VCG: the share of scores above this one.
GOOD_SCORE = 3


@dataclass(frozen=True)
class Counting:
    """How a policy counts.

    Attributes:
        failures_are_wrong: a failure is a no with the score 0, and so is an answer that is neither yes nor no.
            Otherwise failures are left out, and of an undecided answer only the score counts.
        whole_scores: what is behind the point of a score is cut off.
    """

    failures_are_wrong: bool
    whole_scores: bool


def counting_of(policy: str) -> Counting:
    """How a policy counts.

    Args:
        policy: key of `judges.policies.POLICIES`.

    Raises:
        ValueError: there is no such policy; the most similar names are told.
    """
    preset = get_policy(policy)
    return Counting(failures_are_wrong=preset.aggregation == "all", whole_scores=preset.parse != "strict")


def counted_score(policy: str, score: float | None, failed: bool) -> float | None:
    """What a score counts in a mean; None where it is left out.

    Args:
        policy: key of `judges.policies.POLICIES`.
        score: of the judge.
        failed: there is no judgement that can be read.

    Example:
        >>> counted_score("video_chatgpt", 4.8, failed=False), counted_score("pllava", None, failed=True)
        (4.0, 0.0)
    """
    counting = counting_of(policy)
    if failed or score is None:
        return 0.0 if counting.failures_are_wrong else None
    return float(int(score)) if counting.whole_scores else float(score)


def scored_judgements(scores: Sequence[float | None], failed: Sequence[bool]) -> list[Judgement]:
    """Judgements that have a score and no verdict, as those of VCG and MSVC."""
    return [judgement_of(None, score, fails) for score, fails in zip(scores, failed, strict=True)]


def judgement_of(verdict: str | bool | None, score: float | None, failed: bool = False) -> Judgement:
    """A judgement that comes from elsewhere, e.g. from a file.

    Args:
        verdict: in words: the first of "yes" and "no" that occurs in it, in any case, or neither. Or a truth value.
        score: the score; None after a failure.
        failed: there is no judgement that can be read.

    Example:
        >>> judgement_of("Yes.", 4).pred
        True
    """
    word = verdict.lower() if isinstance(verdict, str) else ""
    pred = verdict if isinstance(verdict, bool) else True if "yes" in word else False if "no" in word else None
    return Judgement(None if failed else pred, None if failed else score, failed)


def judged_accuracy(
    judgements: Sequence[Judgement], policy: str = "video_chatgpt", groups: Groups | None = None
) -> dict[str, Any]:
    """Accuracy and score of answers that a judge compared with the right ones.

    Args:
        judgements: one for each item.
        policy: how they are counted, a key of `judges.policies.POLICIES`.
        groups: labels for tables.

    Returns:
        `accuracy` and `score` as the policy counts; `accuracy_failures_left_out`, `accuracy_failures_wrong`,
        `score_failures_left_out` and `score_failures_zero` in both ways; `count`, `yes`, `no`, `undecided` (neither),
        `judge_failures`, `judge_failure_rate`, `policy` and `groups`. A number over no items is None.

    Raises:
        ValueError: there is no such policy or no judgement, lists differ in length, or a judgement that has not failed
            has no score.

    Example:
        >>> golden = [Judgement(True, 4)] * 3 + [Judgement(False, 1), Judgement(None, None, failed=True)]
        >>> judged_accuracy(golden)["accuracy"], judged_accuracy(golden, "pllava")["accuracy"]
        (0.75, 0.6)
    """
    counting = counting_of(policy)
    check_lengths(judgements=judgements, **dict(groups or {}))
    scores = _scores(judgements, counting)

    def summary(indices: Sequence[int]) -> dict[str, Any]:
        chosen = [judgements[index] for index in indices]
        yes, no, undecided, failures = _tally(chosen)
        kept = [scores[index] for index in indices if not judgements[index].failed]
        accuracies = {
            "accuracy_failures_left_out": _ratio(yes, yes + no + undecided * counting.failures_are_wrong),
            "accuracy_failures_wrong": _ratio(yes, yes + no + failures + undecided * counting.failures_are_wrong),
        }
        means = {
            "score_failures_left_out": mean(kept),
            "score_failures_zero": mean([*kept, *[0.0] * failures]),
        }
        wrong = counting.failures_are_wrong
        return {
            "accuracy": accuracies["accuracy_failures_wrong" if wrong else "accuracy_failures_left_out"],
            "score": means["score_failures_zero" if wrong else "score_failures_left_out"],
            **accuracies,
            **means,
            "count": len(chosen),
            "yes": yes,
            "no": no,
            "undecided": undecided,
            "judge_failures": failures,
            "judge_failure_rate": failures / len(chosen),
        }

    overall = summary(range(len(judgements)))
    return {**overall, "policy": policy, "groups": tables(groups, summary, ("accuracy", "score"))}


def vcg_scores(
    aspects: Sequence[str], judgements: Sequence[Judgement], policy: str = "video_chatgpt"
) -> dict[str, Any]:
    """The five aspects of Video-ChatGPT's benchmark, as `aspect_scores` returns them.

    Papers print one number beside the five. PLLaVA's is the `micro` average, in which the 1,996 generic questions
    count for three aspects each; the plain mean of the five is `macro`. Its `accuracy` is `share_of_good_scores`.
    """
    return aspect_scores(aspects, judgements, VCG_ASPECTS, policy)


def msvc_scores(aspects: Sequence[str], judgements: Sequence[Judgement], policy: str = "videollama2") -> dict[str, Any]:
    """Correctness and detailedness of captions (VideoLLaMA2's MSVC), as `aspect_scores` returns them."""
    return aspect_scores(aspects, judgements, MSVC_ASPECTS, policy)


def aspect_scores(
    aspects: Sequence[str], judgements: Sequence[Judgement], expected: Sequence[str], policy: str = "video_chatgpt"
) -> dict[str, Any]:
    """Mean scores of several aspects of the same benchmark.

    Args:
        aspects: aspect of each judgement.
        judgements: the judgements.
        expected: all aspects of the benchmark.
        policy: how failures are counted, a key of `judges.policies.POLICIES`.

    Returns:
        `aspects` (aspect -> `score`, `score_failures_left_out`, `score_failures_zero`, `share_of_good_scores`, `count`,
        `judge_failures`), `macro` (mean of the aspects; None if one has no number), `micro` (mean over all judgements),
        `share_of_good_scores` (above 3, as PLLaVA counts), `count`, `judge_failures`, `judge_failure_rate`,
        `missing_aspects` and `policy`.

    Raises:
        ValueError: an aspect is unknown, there is no such policy, lists differ in length or are empty, or a judgement
            that has not failed has no score.
    """
    counting = counting_of(policy)
    check_lengths(judgements=judgements, aspects=aspects)
    for aspect in aspects:
        if aspect not in expected:
            raise ValueError(f"There is no aspect {aspect!r}: {did_you_mean(aspect, expected)}")
    scores = _scores(judgements, counting)

    def summary(indices: Sequence[int]) -> dict[str, Any]:
        kept = [scores[index] for index in indices if not judgements[index].failed]
        failures = len(indices) - len(kept)
        zero = [*kept, *[0.0] * failures]
        counted = zero if counting.failures_are_wrong else kept
        return {
            "score": mean(counted),
            "score_failures_left_out": mean(kept),
            "score_failures_zero": mean(zero),
            "share_of_good_scores": mean(score > GOOD_SCORE for score in counted),
            "count": len(indices),
            "judge_failures": failures,
        }

    rows = {
        aspect: summary([index for index, other in enumerate(aspects) if other == aspect])
        for aspect in expected
        if aspect in aspects
    }
    overall = summary(range(len(aspects)))
    means = [row["score"] for row in rows.values()]
    return {
        "aspects": rows,
        "macro": mean(means) if len(rows) == len(expected) and None not in means else None,
        "micro": overall["score"],
        "share_of_good_scores": overall["share_of_good_scores"],
        "count": overall["count"],
        "judge_failures": overall["judge_failures"],
        "judge_failure_rate": overall["judge_failures"] / overall["count"],
        "missing_aspects": [aspect for aspect in expected if aspect not in rows],
        "policy": policy,
    }


def rating_scores(judgements: Sequence[Judgement], groups: Groups | None = None) -> dict[str, Any]:
    """Mean ratings, with failures as 0 ("all" of MMBench-Video) and without them ("valid").

    Args:
        judgements: one for each item; only their scores count.
        groups: labels for tables. An item with several labels counts once in each of their rows.

    Returns:
        `all`, `valid`, `count`, `judge_failures`, `judge_failure_rate` and `groups`.

    Raises:
        ValueError: lists differ in length or are empty, or a judgement that has not failed has no score.
    """
    check_lengths(judgements=judgements, **dict(groups or {}))
    scores = _scores(judgements, Counting(failures_are_wrong=False, whole_scores=True))

    def summary(indices: Sequence[int]) -> dict[str, Any]:
        kept = [scores[index] for index in indices if not judgements[index].failed]
        failures = len(indices) - len(kept)
        return {
            "all": mean([*kept, *[0.0] * failures]),
            "valid": mean(kept),
            "count": len(indices),
            "judge_failures": failures,
            "judge_failure_rate": failures / len(indices),
        }

    return {**summary(range(len(judgements))), "groups": tables(groups, summary, ("all", "valid"))}


def _scores(judgements: Sequence[Judgement], counting: Counting) -> list[float]:
    """The score of each judgement as the policy takes it; 0 for failures, which nobody reads as a score."""
    for number, judgement in enumerate(judgements):
        if not judgement.failed and judgement.score is None:
            raise ValueError(f"Judgement {number} has not failed, but has no score: set `failed`, or give a score.")
    scores = [0.0 if judgement.failed else float(judgement.score or 0) for judgement in judgements]
    return [float(int(score)) for score in scores] if counting.whole_scores else scores


def _tally(judgements: Sequence[Judgement]) -> tuple[int, int, int, int]:
    """Numbers of yes, no, neither and failures."""
    kept = [judgement for judgement in judgements if not judgement.failed]
    yes = sum(judgement.pred is True for judgement in kept)
    no = sum(judgement.pred is False for judgement in kept)
    return yes, no, len(kept) - yes - no, len(judgements) - len(kept)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
