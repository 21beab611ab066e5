"""Answers become numbers by the metric of the task; failures of parser and judge are counted apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluated_clips import make_task

from hf_videollm.evaluation.headline import Headline, headlines
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.judges.items import JudgeItem, Judgement
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.scoring import SCORERS, Scoring, score_records, vcg_aspects
from hf_videollm.evaluation.task import Scored
from hf_videollm.evaluation.totals import totals


def item(number: int = 0, **changes: Any) -> Item:
    media = (Medium(Path(f"{number}.mp4")),)
    return Item(**{"id": str(number), "media": media, "questions": ("Who?",), "answer": "a dog", **changes})


def choice(number: int = 0, right: int | None = 1, **changes: Any) -> Item:
    options = ("a man", "a dog", "a cat")
    answer = None if right is None else options[right]
    return item(number, options=options, answer=answer, answer_index=right, **changes)


def scored(scoring: Scoring, items: Sequence[Item], *answers: Any, **facts: Any) -> list[Scored]:
    records = [{"id": entry.id, "answers": list(text), **facts} for entry, text in zip(items, answers, strict=True)]
    return score_records(scoring, items, records)


class FakeJudge:
    """Gives prepared judgements and keeps what it was asked."""

    def __init__(self, *judgements: Judgement) -> None:
        self.judgements, self.asked = judgements, list[JudgeItem]()

    def __call__(self, items: Sequence[JudgeItem]) -> Sequence[Judgement]:
        self.asked += items
        for entry in items:
            entry.text.render(**entry.values)
        return self.judgements[: len(items)]


YES, NO, FAILED = Judgement(True, 4), Judgement(False, 1), Judgement(None, None, True, "no reply")


def test_every_metric_has_a_function() -> None:
    from typing import get_args

    from hf_videollm.evaluation.task import Metric

    assert set(SCORERS) == set(get_args(Metric))


def test_choices_by_the_rule_of_the_task_or_of_the_user() -> None:
    task = make_task(metric="multiple_choice", choice_rules={"default": "robust", "videollama2": "videollama2"})
    items = [choice(0), choice(1), choice(2, None)]
    answers = (["The answer is (B)."], ["no idea"], ["(C)"])
    first, second, third = scored(Scoring(task), items, *answers)
    assert (first.correct, first.choice, first.parse_failed) == (True, 1, False)
    assert (second.correct, second.choice, second.parse_failed) == (False, None, True)
    assert (third.correct, third.choice) == (None, 2)
    fallen = scored(Scoring(task, choice_rule="videollama2", fallback="third"), items, *answers)
    assert (fallen[1].choice, fallen[1].parse_failed, fallen[1].rule) == (2, True, "fallback:third")
    numbers = totals(Scoring(task), items, [first, second, third], num_errors=2)
    assert (numbers["accuracy"], numbers["parse_failures"], numbers["unknown"]) == (0.5, 1, 1)
    assert numbers["accuracy_errors_wrong"] == 0.25
    with pytest.raises(ValueError, match="no choice rule 'robost': did you mean robust"):
        Scoring(task, choice_rule="robost").facts()
    assert Scoring(task, choice_rule="pllava").facts()["choice_rule"] == "pllava"


def test_the_likeliest_option_needs_no_parser() -> None:
    task = make_task(metric="multiple_choice")
    (found,) = scored(Scoring(task), [choice(0)], ["a cat"], choice=[2], likelihoods=[[-3.0, -2.0, -1.0]])
    assert (found.choice, found.correct, found.rule, found.parse_failed) == (2, False, "likelihood", False)


def test_options_that_are_equally_likely_are_no_choice() -> None:
    task = make_task(metric="multiple_choice")
    (found,) = scored(Scoring(task), [choice(0)], [""], choice=[None], tied=[[0, 1]])
    assert (found.choice, found.correct, found.parse_failed, found.detail) == (None, False, True, {"failure": "tied"})
    # Only a fallback that was named stands in, and the failure is still counted.
    (found,) = scored(Scoring(task, fallback="first"), [choice(0, right=0)], [""], choice=[None], tied=[[0, 1]])
    assert (found.choice, found.correct, found.rule, found.parse_failed) == (0, True, "fallback:first", True)


def test_exact_match_by_rule_and_with_several_references() -> None:
    task = make_task(metric="exact_match", match_rules={"default": "videollama2"})
    items = [item(0, answer="yes", references=("yes", "yeah")), item(1, answer="yes"), item(2, answer=None)]
    found = scored(Scoring(task), items, ["Yeah."], ["Yes, it is"], ["yes"])
    assert [entry.correct for entry in found] == [True, False, None]
    assert totals(Scoring(task), items, found)["accuracy"] == 0.5
    assert [entry.rule for entry in found] == ["videollama2"] * 3


def test_judged_answers_by_the_policy() -> None:
    task = make_task(metric="judged_qa", judge_texts={"default": "qa"})
    items = [item(number) for number in range(5)]
    judge = FakeJudge(YES, YES, YES, NO, FAILED)
    scoring = Scoring(task, judge=judge, policy="video_chatgpt")
    found = scored(scoring, items, *[["a puppy"]] * 5)
    assert judge.asked[0].values == {"question": "Who?", "answer": "a dog", "pred": "a puppy"}
    assert [entry.judge_failed for entry in found] == [False] * 4 + [True]
    assert found[4].detail["judge_error"] == "no reply"
    for policy, accuracy in (("video_chatgpt", 0.75), ("pllava", 0.6)):
        numbers = totals(Scoring(task, judge=judge, policy=policy), items, found, num_errors=1)
        assert numbers["accuracy"] == numbers["intervals"]["accuracy"]["estimate"] == accuracy
        assert numbers["judge_failures"] == 1
    assert numbers["accuracy_errors_wrong"] == 0.5


SCORES = {"a dog": NO, "a puppy": Judgement(True, 3), "a hound": Judgement(True, 5), "lost": FAILED}


@pytest.mark.parametrize(
    ("answers", "first", "best", "counted"),
    [
        (("a dog", "a puppy", "a hound"), (False, 1, False), (True, 5, False), 2),
        (("a puppy", "a dog"), (True, 3, False), (True, 3, False), 0),
        # A judgement that failed may have been a yes.
        (("a dog", "lost"), (False, 1, False), (None, None, True), 1),
        (("lost", "a puppy"), (None, None, True), (True, 3, False), 1),
        (("lost", "lost too"), (None, None, True), (None, None, True), 0),
        (("a dog",), (False, 1, False), (False, 1, False), None),
    ],
)
def test_the_best_of_the_right_answers_counts_where_that_is_asked_for(
    answers: tuple[str, ...], first: tuple[Any, ...], best: tuple[Any, ...], counted: int | None
) -> None:
    task = make_task(metric="judged_qa", judge_texts={"default": "qa"}, has_alternative_answers=True)

    def judge(asked: Sequence[JudgeItem]) -> Sequence[Judgement]:
        assert len({entry.id for entry in asked}) == len(asked)
        return [SCORES.get(str(entry.values["answer"]), FAILED) for entry in asked]

    items = [item(0, answer="a cow", references=("a cow",)), item(1, answer=answers[0], references=answers)]
    for references, expected in (("first", first), ("best", best)):
        scoring = Scoring(task, judge=judge, references=references)
        assert scoring.facts()["references"] == references
        found = scored(scoring, items, ["a dog"], ["a dog"])[1]
        assert (found.correct, found.score, found.judge_failed) == expected
        if references == "best" and counted is not None:
            assert found.detail["counted"] == counted
            assert [entry["answer"] for entry in found.detail["references"]] == list(answers)
        else:
            assert "references" not in found.detail


def test_without_a_judge_nothing_is_scored() -> None:
    for metric in ("judged_qa", "matched_choice", "msvc"):
        scoring = Scoring(make_task(metric=metric))
        found = scored(scoring, [choice(0)], ["a dog"])
        assert found == [Scored()]
        assert totals(scoring, [choice(0)], found) == {}


def test_a_judge_matches_free_answers_with_options() -> None:
    task = make_task(metric="matched_choice", prompts={"default": lambda item, text: Prompt(f"{text} A.x B.y")})
    letters = [Judgement(None, None, choice=letter) for letter in "BAD"]
    judge = FakeJudge(*letters, FAILED)
    items = [choice(0), choice(1), choice(2), choice(3)]
    found = scored(Scoring(task, judge=judge), items, *[["it barks"]] * 4)
    assert judge.asked[0].values == {"question": "Who? A.x B.y", "pred": "it barks"}
    assert [(entry.choice, entry.correct, entry.judge_failed) for entry in found] == [
        (1, True, False),
        (0, False, False),
        (None, False, True),
        (None, False, True),
    ]
    assert totals(Scoring(task, judge=judge), items, found)["parse_failures"] == 2


def test_letters_of_free_answers_are_read_without_a_judge() -> None:
    scoring = Scoring(make_task(metric="matched_choice"), reads_letters=True)
    items = [choice(0), choice(1), choice(2)]
    found = scored(scoring, items, ["B"], ["no idea"], ["(A)"])
    assert [(entry.choice, entry.correct, entry.parse_failed) for entry in found] == [
        (1, True, False),
        (None, False, True),
        (0, False, False),
    ]
    assert scoring.facts() == {"metric": "matched_choice", "choice_rule": "robust", "fallback": "none"}
    assert totals(scoring, items, found)["accuracy"] == pytest.approx(1 / 3)
    (ranked,) = scored(scoring, [choice(0)], ["a dog"], choice=[1])
    assert (ranked.correct, ranked.rule) == (True, "likelihood")


def test_video_chatgpt_judges_each_aspect() -> None:
    task = make_task(metric="vcg", judge_texts={"default": "vcg_original"})
    items = [
        item(0, extra={"aspects": ("correctness", "detail", "context")}),
        item(1, extra={"aspects": ("temporal",)}),
        item(2, questions=("Who?", "Which one?")),
    ]
    judge = FakeJudge(*[Judgement(None, score) for score in (5, 3, 4, 2, 1)])
    scoring = Scoring(task, judge=judge, policy="pllava")
    found = scored(scoring, items, ["x"], ["y"], ["z", "w"])
    assert [entry.id for entry in judge.asked] == [
        "0/correctness",
        "0/detail",
        "0/context",
        "1/temporal",
        "2/consistency",
    ]
    assert judge.asked[-1].values["pred2"] == "w"
    assert judge.asked[-1].values["question2"] == "Which one?"
    assert [entry.score for entry in found] == [4.0, 2.0, 1.0]
    numbers = totals(scoring, items, found)
    assert {name: row["score"] for name, row in numbers["aspects"].items()} == {
        "correctness": 5.0,
        "detail": 3.0,
        "context": 4.0,
        "temporal": 2.0,
        "consistency": 1.0,
    }
    assert numbers["macro"] == numbers["micro"] == 3.0


def test_aspects_must_be_named() -> None:
    with pytest.raises(ValueError, match="does not say which aspects"):
        vcg_aspects(item())
    with pytest.raises(ValueError, match="no aspect 'temporel': did you mean temporal"):
        vcg_aspects(item(extra={"aspects": ("temporel",)}))


def test_captions_are_judged_twice_against_all_references() -> None:
    task = make_task(metric="msvc", judge_texts={"default": "msvc"})
    judge = FakeJudge(Judgement(None, 3), FAILED)
    items = [item(0, references=("a dog", "a puppy"))]
    scoring = Scoring(task, judge=judge)
    found = scored(scoring, items, ["an animal"])
    assert judge.asked[0].values["refs"] == ["a dog", "a puppy"]
    assert (found[0].score, found[0].judge_failed) == (3.0, True)
    assert totals(scoring, items, found)["judge_failures"] == 1


def test_what_the_judge_lacks_is_told() -> None:
    task = make_task(metric="judged_qa")
    with pytest.raises(ValueError, match="Item '0' has no 'answer', which the judge has to be told"):
        scored(Scoring(task, judge=FakeJudge(YES)), [item(0, answer=None)], ["x"])
    with pytest.raises(ValueError, match="no judge text"):
        scored(Scoring(task, judge_text="qaa", judge=FakeJudge(YES)), [item(0)], ["x"])


def test_questions_on_one_video_are_drawn_together() -> None:
    """Of two videos with ten questions each, one right and one wrong, nothing is known; of twenty videos something."""
    task = make_task()
    right = [Scored(correct=number < 10) for number in range(20)]

    def width(items: list[Item]) -> float:
        interval = totals(Scoring(task), items, right)["intervals"]["accuracy"]
        return float(interval["high"] - interval["low"])

    shared = [item(number, media=(Medium(Path(f"{number // 10}.mp4")),)) for number in range(20)]
    assert width(shared) == 1.0
    assert width([item(number) for number in range(20)]) < 0.5


def test_headlines_are_the_numbers_with_intervals() -> None:
    interval = {"low": 0.25, "high": 0.75}
    result = {"metrics": {"accuracy": 0.5, "score": None, "count": 3, "intervals": {"accuracy": interval}}}
    (found,) = headlines(result)
    assert found == Headline("accuracy", 0.5, 0.25, 0.75)
    assert (found.text, found.interval) == ("50.0 %", "25.0 to 75.0")
    assert headlines({"metrics": {}}) == []
