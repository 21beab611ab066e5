"""The papers' own rules for multiple choice, on answers whose official reading was worked out by hand."""

import json
from pathlib import Path

import pytest

from hf_videollm.evaluation.answers import mvbench_match
from hf_videollm.evaluation.multiple_choice import CHOICE_RULES, parse_choice, score_choice

OPTIONS = ["a dog", "a man", "the car", "nobody"]
SOUNDS = ["Laughter", "Sigh", "Cough", "Throat clearing", "Sneeze", "Sniff"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("(B) a man", 1),
        ("B", 1),
        ("B.", 1),
        ("Answer: C", 2),  # "Answer" is deleted, or its capital would be option A
        ("Both", 1),
        ("Because of it, C", 1),
        ("the car", 2),
        ("It is a man with a dog", 0),  # the first option that occurs
        ("A, because", None),  # the comma stays with the letter
        ("( A)", None),  # and the blank
        ("nothing", None),
        ("E", None),
    ],
)
def test_videollama2(text: str, index: int | None) -> None:
    assert parse_choice(text, OPTIONS, rule="videollama2").index == index
    # The third option stands in for what cannot be read, as in the published numbers.
    with_fallback = parse_choice(text, OPTIONS, rule="videollama2", fallback="third")
    assert with_fallback.index == (2 if index is None else index)
    assert with_fallback.parsed is (index is not None)


@pytest.mark.parametrize(
    ("rule", "text", "options", "index"),
    [
        # Video-MME: no comma or blank is in the way; digits also as words; options lose their full stop.
        ("videollama2_videomme", "A, because", OPTIONS, 0),
        ("videollama2_videomme", "( A)", OPTIONS, 0),
        ("videollama2_videomme", "there are two", ["3.", "2.", "1.", "0."], 1),
        ("videollama2_videomme", "none", ["3.", "2.", "1.", "0."], 2),  # "one" occurs in it
        ("videollama2_videomme", "many", ["3.", "2.", "1.", "0."], None),
        ("videollama2_egoschema", "E", [*OPTIONS, "x"], 4),
        ("videollama2_egoschema", "the car", [*OPTIONS, "x"], None),
        ("videollama2_perception_test", "the car", OPTIONS[:3], 2),
        ("videollama2_perception_test", "it is the car", OPTIONS[:3], None),
        ("videollama2_perception_test", "(B", OPTIONS[:3], 1),
        ("videollama2_perception_test", "D", OPTIONS[:3], None),
        # lmms-eval: small letters count, so the article is option A.
        ("lmms_eval", "(B) a man", OPTIONS, 1),
        ("lmms_eval", "b. a man", OPTIONS, 1),
        ("lmms_eval", "It is a dog", OPTIONS, 0),
        ("lmms_eval", "a man walking", OPTIONS, 0),
        ("lmms_eval", "the car", OPTIONS, None),
        ("lmms_eval", "E", OPTIONS, None),
        ("lmms_eval", "Both", OPTIONS, None),
        # Video-MME's own scorer: openings are dropped, but not "Best option:", whose B counts.
        ("official_videomme", "The best answer is C.", OPTIONS, 2),
        ("official_videomme", "The answer is: (D)", OPTIONS, 3),
        ("official_videomme", "Best option: C", OPTIONS, 1),
        ("official_videomme", "Answer: C", OPTIONS, 0),
        ("official_videomme", "the car", OPTIONS, None),
        # VideoVista's: first character, or second.
        ("videovista_official", "B. a man", OPTIONS, 1),
        ("videovista_official", "(B) a man", OPTIONS, 1),
        ("videovista_official", "Answer: B", OPTIONS, 0),
        ("videovista_official", "The answer is B", OPTIONS, None),
        ("videovista_official", "E", [*OPTIONS, "x"], 4),
        ("videovista_official", "E.", [*OPTIONS, "x"], None),
        ("videovista_official", "", OPTIONS, None),
    ],
)
def test_other_readings(rule: str, text: str, options: list[str], index: int | None) -> None:
    assert parse_choice(text, options, rule=rule).index == index


def test_pllava_is_mvbench_match(goldens: Path) -> None:
    """The rule gives the official verdicts, for answers whose options can be told from the table."""
    table = json.loads((goldens / "pllava" / "prompts" / "prompts.json").read_text(encoding="utf-8"))
    verdicts = set()
    for row, expected in table["mvbench_check_ans"].items():
        prediction, answer = row.split(" || ")
        if not answer.startswith("("):
            continue
        index, text = ord(answer[1].upper()) - ord("A"), answer[4:]
        options = [text if number == index else f"other {number}" for number in range(max(index + 1, 4))]
        assert score_choice(prediction, options, index, rule="pllava")[1] is expected, row
        verdicts.add(expected)
    assert verdicts == {True, False}


@pytest.mark.parametrize("text", ["(A) a dog", "A.", "(a)", "(", "", "Both", "(A)/(B)", "B", "nobody"])
def test_rules_that_compare_say_the_same_of_each_option(text: str) -> None:
    for reference in range(4):
        expected = mvbench_match(text, f"({'ABCD'[reference]}) {OPTIONS[reference]}")
        assert score_choice(text, OPTIONS, reference, rule="pllava")[1] is expected


def test_agreeing_with_several_options_is_no_failure_but_names_none() -> None:
    choice = parse_choice("(A)/(B)", OPTIONS, rule="pllava")
    assert (choice.index, choice.rule, choice.parsed) == (None, "pllava:several", True)
    assert [score_choice("(A)/(B)", OPTIONS, index, rule="pllava")[1] for index in range(4)] == [
        True,
        True,
        False,
        False,
    ]


def test_linvt_counts_an_empty_answer_of_mvbench_as_right() -> None:
    assert [score_choice("", OPTIONS, index, rule="linvt_mvbench")[1] for index in range(4)] == [True] * 4
    assert score_choice("", OPTIONS, 0, rule="linvt_videovista")[1] is False
    assert score_choice("", OPTIONS, 0, rule="pllava")[1] is False


@pytest.mark.parametrize(
    ("text", "index"), [("Answer: B", 1), ("The answer is (C).", 2), ("Answer is D", 3), ("(A) a dog", 0), ("Hm", None)]
)
def test_linvt_videovista(text: str, index: int | None) -> None:
    assert parse_choice(text, OPTIONS, rule="linvt_videovista").index == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("Sniff", 5),
        ("It sounds like a cough.", 2),
        ("throat clearing", 3),
        ("C", 2),
        ("(c)", 2),
        ("(C) Cough", 2),
        ("C.", None),
        ("(G)", None),
        ("", None),
    ],
)
def test_videollama2_av(text: str, index: int | None) -> None:
    assert parse_choice(text, SOUNDS, rule="videollama2_av").index == index
    assert [score_choice(text, SOUNDS, number, rule="videollama2_av")[1] for number in range(6)] == [
        number == index for number in range(6)
    ]


def test_rules_that_the_published_numbers_need_a_fallback_for() -> None:
    names = {name for name, rule in CHOICE_RULES.items() if rule.published_fallback == "third"}
    assert names == {name for name in CHOICE_RULES if name.startswith("videollama2")} - {"videollama2_av"}


def test_every_rule_is_one_of_the_two_kinds() -> None:
    assert all((rule.read is None) != (rule.matches is None) for rule in CHOICE_RULES.values())


@pytest.mark.parametrize("rule", sorted(set(CHOICE_RULES) - {"linvt_mvbench"}))
def test_an_empty_answer_is_told_from_one_that_says_nothing(rule: str) -> None:
    assert parse_choice(" ", OPTIONS, rule=rule).failure == "empty"
    assert parse_choice("?!", OPTIONS, rule=rule).failure in ("no_match", "empty" if rule == "robust" else "no_match")
