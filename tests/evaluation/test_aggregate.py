"""From single answers and judgements to the numbers of a benchmark."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_videollm.evaluation.aggregate import (
    by_group,
    exact_match_accuracy,
    multiple_choice_accuracy,
    summarize_choices,
    summarize_matches,
)
from hf_videollm.evaluation.aggregate_judged import (
    VCG_ASPECTS,
    judged_accuracy,
    judgement_of,
    msvc_scores,
    rating_scores,
    vcg_scores,
)
from hf_videollm.evaluation.judges.items import Judgement
from hf_videollm.evaluation.judges.policies import POLICIES
from hf_videollm.evaluation.multiple_choice import Choice

OPTIONS = ["a dog", "a man", "the car"]
FAILED = Judgement(None, None, failed=True)
# 3 yes, 1 no, 1 failure.
GOLDEN = [Judgement(True, 5), Judgement(True, 4), Judgement(True, 4), Judgement(False, 1), FAILED]

answers = st.sampled_from(["(A)", "B", "the car", "a man", "", "A or B", "Z", "what?"])
items = st.lists(
    st.tuples(answers, st.integers(0, 2), st.sampled_from(["short", "medium", "long"])), min_size=1, max_size=30
)
judgements = st.lists(
    st.one_of(
        st.builds(Judgement, st.sampled_from([True, False, None]), st.sampled_from([0, 1, 2.5, 3, 4.8, 5])),
        st.just(FAILED),
    ),
    min_size=1,
    max_size=30,
)


def scored(score: float) -> Judgement:
    return Judgement(None, score)


def accuracy_of(rows: list[tuple[str, int, str]], **options: Any) -> dict[str, Any]:
    texts, references, labels = zip(*rows, strict=True)
    return multiple_choice_accuracy(texts, references, [OPTIONS] * len(rows), groups={"duration": labels}, **options)


@pytest.mark.parametrize(
    ("policy", "accuracy", "score"),
    [
        ("video_chatgpt", 0.75, 14 / 4),
        ("robust", 0.75, 14 / 4),
        ("videollama2", 0.75, 14 / 4),
        ("iva", 0.75, 14 / 4),
        ("ftfv", 0.75, 14 / 4),
        ("pllava", 0.6, 14 / 5),
        ("videollama2_av", 0.6, 14 / 5),
        ("lmms_eval", 0.6, 14 / 5),
    ],
)
def test_the_golden_judgements_by_each_policy(policy: str, accuracy: float, score: float) -> None:
    result = judged_accuracy(GOLDEN, policy)
    assert (result["accuracy"], result["score"]) == pytest.approx((accuracy, score))
    assert (result["yes"], result["no"], result["judge_failures"], result["judge_failure_rate"]) == (3, 1, 1, 0.2)
    # Both ways are always told.
    assert (result["accuracy_failures_left_out"], result["accuracy_failures_wrong"]) == (0.75, 0.6)


def test_scores_lose_what_is_behind_the_point_but_in_pllava() -> None:
    rows = [Judgement(True, 4.8), Judgement(False, 1.5)]
    assert judged_accuracy(rows, "video_chatgpt")["score"] == 2.5
    assert judged_accuracy(rows, "pllava")["score"] == pytest.approx(3.15)


def test_an_answer_that_is_neither_yes_nor_no() -> None:
    """Video-ChatGPT counts its score alone; where accuracy is yes / all, it is wrong."""
    rows = [Judgement(True, 4), Judgement(None, 2)]
    assert (judged_accuracy(rows)["accuracy"], judged_accuracy(rows)["score"]) == (1.0, 3.0)
    assert judged_accuracy(rows, "videollama2_av")["accuracy"] == 0.5
    assert judged_accuracy(rows)["undecided"] == 1


def test_nothing_but_failures_has_no_accuracy() -> None:
    result = judged_accuracy([FAILED])
    assert (result["accuracy"], result["score"], result["judge_failure_rate"]) == (None, None, 1.0)
    assert judged_accuracy([FAILED], "pllava")["accuracy"] == 0.0


def test_multiple_choice() -> None:
    rows = [("(A)", 0, "short"), ("(B)", 0, "short"), ("?", 2, "long"), ("the car", 2, "long"), ("A or B", 0, "long")]
    result = accuracy_of(rows)
    assert (result["accuracy"], result["correct"], result["count"]) == (0.4, 2, 5)
    assert (result["parse_failures"], result["parse_failure_rate"]) == (2, 0.4)
    assert result["accuracy_of_parsed"] == pytest.approx(2 / 3)
    assert result["failures"] == {"empty": 1, "several_letters": 1}
    assert result["rules"] == {"letter": 2, "option_text": 1}
    table = result["groups"]["duration"]
    assert {name: row["accuracy"] for name, row in table["rows"].items()} == {
        "short": 0.5,
        "long": pytest.approx(1 / 3),
    }
    assert table["macro"]["accuracy"] == pytest.approx((0.5 + 1 / 3) / 2)
    assert table["micro"]["accuracy"] == 0.4
    json.dumps(result)


def test_a_fallback_changes_the_accuracy_but_not_the_failures() -> None:
    rows = [("(A)", 0, "x"), ("?", 2, "x"), ("?", 1, "x")]
    plain, third = accuracy_of(rows), accuracy_of(rows, fallback="third")
    assert (plain["accuracy"], third["accuracy"]) == pytest.approx((1 / 3, 2 / 3))
    assert plain["parse_failures"] == third["parse_failures"] == 2
    assert (plain["fallbacks"], third["fallbacks"]) == (0, 2)
    # What a fallback gets right is not read from an answer.
    assert third["accuracy_of_parsed"] == 1.0


def test_items_whose_answer_is_secret_are_in_no_accuracy() -> None:
    choices = [Choice(0, "letter"), Choice(1, "letter"), Choice(None, "none", "no_match")]
    result = summarize_choices(choices, [True, None, None])
    assert (result["accuracy"], result["unknown"], result["parse_failures"]) == (1.0, 2, 1)
    assert summarize_choices(choices[1:], [None, None])["accuracy"] is None


@given(items)
def test_read_and_unread_answers_are_all_answers(rows: list[tuple[str, int, str]]) -> None:
    result = accuracy_of(rows)
    assert sum(result["rules"].values()) + result["parse_failures"] == result["count"] == len(rows)
    assert sum(result["failures"].values()) == result["parse_failures"]


@given(items)
def test_groups_are_a_partition(rows: list[tuple[str, int, str]]) -> None:
    result = accuracy_of(rows)
    table = result["groups"]["duration"]["rows"].values()
    for key in ("count", "correct", "parse_failures", "unknown"):
        assert sum(row[key] for row in table) == result[key]
    weighted = sum(row["accuracy"] * row["count"] for row in table) / result["count"]
    assert weighted == pytest.approx(result["accuracy"])
    assert result["groups"]["duration"]["micro"]["accuracy"] == result["accuracy"]


@given(items, st.randoms())
def test_the_order_of_items_changes_no_choice_metric(rows: list[tuple[str, int, str]], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    for options in ({}, {"rule": "videollama2", "fallback": "third"}, {"rule": "pllava"}):
        assert accuracy_of(rows, **options) == accuracy_of(shuffled, **options)


@given(judgements, st.randoms(), st.sampled_from(sorted(POLICIES)))
def test_the_order_of_items_changes_no_judged_metric(rows: list[Judgement], rng: random.Random, policy: str) -> None:
    shuffled = rng.sample(rows, len(rows))
    assert judged_accuracy(rows, policy) == judged_accuracy(shuffled, policy)
    assert rating_scores(rows) == rating_scores(shuffled)


@given(judgements, st.sampled_from(sorted(POLICIES)))
def test_every_judgement_is_counted_once(rows: list[Judgement], policy: str) -> None:
    result = judged_accuracy(rows, policy)
    assert result["yes"] + result["no"] + result["undecided"] + result["judge_failures"] == len(rows)


def test_macro_and_micro_differ_where_groups_do_in_size() -> None:
    """The control of the two averages: three right items in one group, one wrong item in the other."""
    result = summarize_matches([True, True, True, False], groups={"task": ["a", "a", "a", "b"]})
    table = result["groups"]["task"]
    assert (table["macro"]["accuracy"], table["micro"]["accuracy"]) == (0.5, 0.75)


def test_items_with_several_labels_or_none() -> None:
    """An item counts once in each row that it touches, and once in the average over items."""
    labels = ["a", ["a", "b", "a"], None, []]
    table = by_group(labels, lambda indices: {"count": len(indices), "first": min(indices)}, ["count"])
    assert {name: row["count"] for name, row in table["rows"].items()} == {"a": 2, "b": 1}
    assert (table["micro"]["count"], table["without_label"]) == (2, 2)


def test_exact_match() -> None:
    result = exact_match_accuracy(["Yes.", "no", ""], ["yes", ["maybe", "no"], "no"], rule="videollama2")
    assert (result["accuracy"], result["empty"], result["rule"]) == (pytest.approx(2 / 3), 1, "videollama2")


def test_pllavas_average_of_vcg_is_the_micro_average() -> None:
    """Its row of 34B prints 3.60 3.20 3.90 2.67 3.25 and the average 3.48; the plain mean of the five is 3.32."""
    counts = {"correctness": 1996, "detail": 1996, "context": 1996, "temporal": 499, "consistency": 499}
    means = {"correctness": 3.60, "detail": 3.20, "context": 3.90, "temporal": 2.67, "consistency": 3.25}
    aspects = [aspect for aspect, count in counts.items() for _ in range(count)]
    result = vcg_scores(aspects, [scored(means[aspect]) for aspect in aspects], "pllava")
    assert (round(result["micro"], 2), round(result["macro"], 2)) == (3.48, 3.32)
    assert {aspect: round(row["score"], 2) for aspect, row in result["aspects"].items()} == means
    assert result["share_of_good_scores"] == pytest.approx((3 * 1996 + 499) / 6986)


def test_failures_of_vcg() -> None:
    aspects = ["correctness", "correctness", "detail"]
    rows = [scored(4), FAILED, scored(3)]
    left_out, zero = vcg_scores(aspects, rows), vcg_scores(aspects, rows, "pllava")
    assert (left_out["aspects"]["correctness"]["score"], zero["aspects"]["correctness"]["score"]) == (4.0, 2.0)
    assert (left_out["micro"], zero["micro"]) == pytest.approx((3.5, 7 / 3))
    assert left_out["share_of_good_scores"] == 0.5  # 4 is above 3, 3 is not
    assert left_out["judge_failures"] == zero["judge_failures"] == 1
    # The mean of five needs five.
    assert (left_out["macro"], left_out["missing_aspects"]) == (None, list(VCG_ASPECTS[2:]))


def test_msvc() -> None:
    result = msvc_scores(["correctness", "detailedness", "correctness"], [scored(s) for s in (4, 2.9, 1)])
    assert {aspect: row["score"] for aspect, row in result["aspects"].items()} == {
        "correctness": 2.5,
        "detailedness": 2.0,
    }
    assert result["macro"] == 2.25


def test_ratings_with_and_without_failures() -> None:
    rows = [scored(3), scored(1), FAILED]
    result = rating_scores(rows, {"dimension": [["OCR", "Counting"], ["OCR"], ["Counting"]]})
    assert (result["all"], result["valid"]) == pytest.approx((4 / 3, 2))
    assert result["groups"]["dimension"]["rows"]["Counting"]["all"] == 1.5


@pytest.mark.parametrize(
    ("verdict", "pred"),
    [("Yes", True), ("yes.", True), ("NO", False), (True, True), (False, False), ("", None), (None, None)],
)
def test_verdicts_in_words(verdict: str | bool | None, pred: bool | None) -> None:
    assert judgement_of(verdict, 4) == Judgement(pred, 4)
    assert judgement_of(verdict, 4, failed=True) == FAILED


def test_every_policy_of_the_judges_counts() -> None:
    assert all(judged_accuracy(GOLDEN, policy)["accuracy"] in (0.75, 0.6) for policy in POLICIES)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: multiple_choice_accuracy([], [], []), "nothing to score"),
        (lambda: multiple_choice_accuracy(["A"], [0, 1], [OPTIONS]), "1 predictions, but 2 references"),
        (lambda: multiple_choice_accuracy(["A"], [0], [OPTIONS], groups={"task": []}), "0 task"),
        (lambda: multiple_choice_accuracy(["A"], [0], [OPTIONS], rule="pllawa"), "did you mean pllava"),
        (lambda: exact_match_accuracy(["A"], ["a"], rule="vqaa"), "did you mean vqa"),
        (lambda: judged_accuracy(GOLDEN, "plava"), "did you mean pllava"),
        (lambda: judged_accuracy([Judgement(True, None)]), "has no score"),
        (lambda: vcg_scores(["detial"], [scored(1)]), "did you mean detail"),
        (lambda: vcg_scores(["detail"], []), "0 judgements, but 1 aspects"),
    ],
)
def test_what_cannot_be_counted_is_one_line(call: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
