"""The judge without a model compares words, in every form of reply, and says where it cannot judge."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_videollm.evaluation.judges.backends.rule import RuleJudge, word_overlap
from hf_videollm.evaluation.judges.errors import JudgeStopError
from hf_videollm.evaluation.judges.items import JudgeItem
from hf_videollm.evaluation.judges.policies import POLICIES
from hf_videollm.evaluation.judges.run import judge_items
from hf_videollm.evaluation.judges.texts import TEXTS, get_text


@pytest.mark.parametrize(
    ("right", "prediction", "overlap"),
    [
        ("a dog", "The dog runs.", 1.0),
        ("DOG", "dog", 1.0),
        ("dog", "dogma", 0.0),
        ("two", "there are 2 of them", 1.0),
        ("12", "Twelve!", 1.0),
        ("red car", "a blue car", 0.5),
        ("red car", "the car is red", 0.8),
        ("yes", "Yes, it does.", 1.0),
        ("yes", "No. Oh yes, it does.", 0.0),
        ("no", "there is no dog", 1.0),
        ("no", "nothing", 0.0),
        ("no one", "no one is there", 1.0),
        ("dog", "", 0.0),
        ("", "dog", 0.0),
        ("!", "!", 1.0),
        ("狗", "狗", 1.0),
        ("café", "cafe\u0301", 1.0),
    ],
)
def test_overlap(right: str, prediction: str, overlap: float) -> None:
    assert word_overlap(right, prediction) == pytest.approx(overlap)


@given(st.text("abc the yes no 12.,", max_size=20), st.text("abc the yes no 12.,", max_size=20))
def test_overlap_is_a_share_and_whole_for_equal_texts(right: str, prediction: str) -> None:
    assert 0.0 <= word_overlap(right, prediction) <= 1.0
    assert word_overlap(right, right) == 1.0


def values_of(name: str, prediction: str, right: str = "a red car") -> dict[str, Any]:
    values = {field: prediction if field.startswith("pred") else right for field in TEXTS[name].fields}
    return {**values, "refs": ["a cow", right]} if "refs" in values else values


JUDGED = [name for name in TEXTS if name != "video_bench"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", JUDGED)
def test_its_replies_are_read_by_every_policy(name: str, policy: str) -> None:
    predictions = ("The red car.", "a red bike", "nobody")
    items = [JudgeItem(pred, get_text(name), values_of(name, pred)) for pred in predictions]
    results = judge_items(items, POLICIES[policy], RuleJudge())
    scores = [3, 2, 0] if name == "mmbench_video" else [5, 3, 0]
    assert [(row.score, row.failed) for row in results] == [(score, False) for score in scores]
    if TEXTS[name].reply == "verdict":
        assert [row.pred for row in results] == [True, True, False]


def test_of_two_predictions_the_worse_one_counts() -> None:
    text = get_text("vcg_original_consistency")
    values = {**values_of(text.name, "a red car"), "pred2": "nobody"}
    assert RuleJudge().complete([], item=JudgeItem("1", text, values)) == "{'score': 0}"


@pytest.mark.parametrize("policy", ["robust", "video_chatgpt"])
def test_it_reads_letters_by_the_rule_of_multiple_choice(policy: str) -> None:
    answers = {"(B) a dog": "B", "It is a cat.": "A", "Neither of them.": None}
    items = [
        JudgeItem(answer, get_text("video_bench"), {"question": "Who?", "pred": answer}, ("a cat", "a dog"))
        for answer in answers
    ]
    results = judge_items(items, POLICIES[policy], RuleJudge())
    assert [row.choice for row in results] == list(answers.values())
    assert [row.failed for row in results] == [letter is None for letter in answers.values()]


def test_it_chooses_no_options_that_it_does_not_know_and_reads_no_messages() -> None:
    item = JudgeItem("1", get_text("video_bench"), {"question": "q", "pred": "p"})
    with pytest.raises(JudgeStopError, match="cannot choose options"):
        judge_items([item], POLICIES["robust"], RuleJudge())
    with pytest.raises(JudgeStopError, match="pass the item"):
        RuleJudge().complete([{"role": "user", "content": "?"}])
