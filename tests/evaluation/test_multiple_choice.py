"""Reading answers to multiple-choice questions with the package's own rule, and the fallbacks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_videollm.evaluation.multiple_choice import (
    CHOICE_RULES,
    FAILURES,
    FALLBACKS,
    Choice,
    letter_of,
    parse_choice,
    score_choice,
)

OPTIONS = ["a dog", "a man", "the car", "nobody"]
# How models write a letter. Each shows one letter and nothing else that could be read.
LETTER_FORMS = [
    "{letter}",
    "({letter})",
    "( {letter} )",
    "[{letter}]",
    "({small})",
    "{small})",
    "{letter}.",
    "{letter})",
    "{letter}:",
    "({letter}).",
    " {letter}\n",
    "**{letter}**",
    "`{letter}`",
    '"{letter}"',
    "Answer: {letter}",
    "Answer: ({letter})",
    "answer is {letter}",
    "The answer is {letter}.",
    "The answer is ({letter}).",
    "The correct answer is: {letter}",
    "The best answer is {letter}",
    "The best option is: ({letter})",
    "Best option:({letter}",
    "Best Option: ({letter})",
    "Option {letter}",
    "option ({letter})",
    "So the answer is option {letter}.",
    "Therefore, my final answer is {letter}.",
    "I choose {letter}.",
    "I would select option {letter}",
    "\\boxed{{{letter}}}",
    "$\\boxed{{\\text{{{letter}}}}}$",
    "<answer>{letter}</answer>",
    "<answer>\n({letter})\n</answer>",
    "\uff08{letter}\uff09",
]
# How models write a letter and its option's text.
TEXT_FORMS = [
    "({letter}) {text}",
    "{letter}. {text}",
    "{letter}) {text}",
    "{letter}: {text}",
    "{letter}.{text}",
    "({letter}){text}",
    "{letter}\n{text}",
    "Answer: ({letter}) {text}",
    "The answer is ({letter}) {text}",
    "The answer is ({letter}) {text}.",
    "The best answer is: {letter}. {text}",
    "Option {letter}: {text}",
    "Best option:({letter}) {text}",
    "  ({letter}) {text}\n",
    '"({letter}) {text}"',
]
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
# Texts that look like answers themselves.
TRICKY = [
    *("A man", "a man", "man", "A", "B", "(B)", "(A) man", "[C]", "a)", "(c) cat", "option A", "Answer: B", "or C"),
    *("the answer is C", "I", "I run", "not B", "A and B", "A, B", "and (A)", "is correct", "all of the above"),
    *("C major", "1", "2.5", "-5", "...", "?", "A. Smith", 'He said: "B"', "red.\nblue", "B-side"),
]
any_options = st.lists(st.one_of(texts.filter(str.strip), st.sampled_from(TRICKY)), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("text", "index", "rule"),
    [
        ("(B) a man", 1, "letter_and_text"),
        ("B", 1, "letter"),
        ("B.", 1, "letter"),
        ("Answer: C", 2, "letter"),
        ("The answer is (D).", 3, "letter"),
        ("Best option:(A", 0, "letter"),
        ("The answer is (B) a man", 1, "letter_and_text"),
        ("(b)", 1, "letter"),
        ("b) something", 1, "leading_letter"),
        # Texts of options.
        ("a man", 1, "option_text"),
        ("A man.", 1, "option_text"),
        ("The answer is a man.", 1, "option_text"),
        ("a man walking", 1, "option_contained"),
        ("It shows the CAR in a park", 2, "option_contained"),
        # Longer answers.
        ("B because he wears a hat", 1, "leading_letter"),
        ("B. He wears a hat", 1, "leading_letter"),
        ("B. He wears a hat, unlike in (A)", 1, "leading_letter"),
        ("A is correct.", 0, "answer_phrase"),
        ("Option A is wrong. The answer is (C).", 2, "answer_phrase"),
        ("He sits down, so I choose C because of that.", 2, "answer_phrase"),
        ("The correct option is B, not A", 1, "answer_phrase"),
        ("Answer: B. Wait. Final answer: C", 2, "answer_phrase"),
        ("It must be (B) here", 1, "bracketed_letter"),
        ("It is not (A), it is (B)", 1, "bracketed_letter"),
    ],
)
def test_answers_that_name_an_option(text: str, index: int, rule: str) -> None:
    assert parse_choice(text, OPTIONS) == Choice(index, rule)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("...", "empty"),
        ("A, B", "several_letters"),
        ("A or B", "several_letters"),
        ("A/B", "several_letters"),
        ("(A)(B)", "several_letters"),
        ("(A) a dog (B) a man", "several_letters"),
        ("A. a dog\nB. a man\nC. the car", "several_letters"),
        ("The answer is A and C.", "several_letters"),
        ("Answer: B. Answer: C", "several_letters"),
        ("It is (A) or (B)", "several_letters"),
        ("a man and a dog", "several_options"),
        ("E", "letter_out_of_range"),
        ("(E)", "letter_out_of_range"),
        ("E. a man", "letter_out_of_range"),
        ("The answer is Z.", "letter_out_of_range"),
        ("b", "no_match"),
        ("a woman", "no_match"),
        ("A woman walks.", "no_match"),
        ("The answer is A woman", "no_match"),
        ("I think she runs.", "no_match"),
        ("Both", "no_match"),
        ("A's", "no_match"),
        ("U.S. citizens", "no_match"),
        ("The answer is not B.", "no_match"),
        ("B is wrong.", "no_match"),
        ("dogged", "no_match"),
    ],
)
def test_answers_that_cannot_be_read(text: str, failure: str) -> None:
    choice = parse_choice(text, OPTIONS)
    assert (choice.index, choice.failure, choice.parsed) == (None, failure, False)
    assert failure in FAILURES


def test_an_article_is_no_letter() -> None:
    """`a man walking` with a first option about something else: rules of the papers take the article for A."""
    options = ["he sits", "he runs"]
    assert parse_choice("a man walking", options).index is None
    assert parse_choice("A man walking", options).index is None
    assert parse_choice("a man walking", options, rule="lmms_eval").index == 0


@given(options=any_options, data=st.data(), form=st.sampled_from(LETTER_FORMS))
def test_letters_are_read_back_whatever_the_options_are(options: list[str], data: st.DataObject, form: str) -> None:
    index = data.draw(st.integers(0, len(options) - 1))
    letter = letter_of(index)
    choice = parse_choice(form.format(letter=letter, small=letter.lower()), options)
    assert (choice.index, choice.failure) == (index, "")


@given(options=any_options, data=st.data(), form=st.sampled_from(TEXT_FORMS))
def test_letters_with_their_texts_are_read_back(options: list[str], data: st.DataObject, form: str) -> None:
    index = data.draw(st.integers(0, len(options) - 1))
    choice = parse_choice(form.format(letter=letter_of(index), text=options[index]), options)
    assert (choice.index, choice.failure) == (index, "")


@pytest.mark.parametrize("rule", ["videollama2", "official_videomme", "videovista_official", "pllava"])
def test_control_no_rule_of_the_papers_reads_all_of_them(rule: str) -> None:
    answers = [form.format(letter="B", small="b", text=OPTIONS[1]) for form in (*LETTER_FORMS, *TEXT_FORMS)]
    assert {parse_choice(answer, OPTIONS).index for answer in answers} == {1}
    assert {parse_choice(answer, OPTIONS, rule=rule).index for answer in answers} != {1}


@given(options=st.lists(texts.filter(str.strip), min_size=2, max_size=6, unique_by=lambda text: text.casefold()))
def test_the_text_of_an_option_is_never_read_as_another(options: list[str]) -> None:
    """Unless it looks like a letter itself: then the letter counts, because letters were asked for."""
    for index, option in enumerate(options):
        choice = parse_choice(option, options)
        if choice.rule in ("option_text", "option_contained"):
            assert choice.index in (index, None)


@given(text=st.text(max_size=40), options=any_options)
def test_anything_is_read_or_fails_with_a_reason(text: str, options: list[str]) -> None:
    for rule in CHOICE_RULES:
        choice = parse_choice(text, options, rule=rule)
        assert choice.failure in ("", *FAILURES)
        assert choice.index is None or (0 <= choice.index < len(options) and choice.parsed)


def test_options_with_letters_of_their_own() -> None:
    options = ["A. Apples", "B. Pears", "C. Figs", "D. Plums"]
    assert [parse_choice(text, options).index for text in ("Pears", "B. Pears", "B", "(B) Pears")] == [1, 1, 1, 1]
    # Initials of names are no letters of options.
    names = ["B. Smith", "A. Jones"]
    assert parse_choice("A. Jones", names).index == 1
    assert parse_choice("(A) B. Smith", names).index == 0


def test_options_inside_other_options() -> None:
    options = ["red", "dark red", "blue"]
    assert parse_choice("It is dark red.", options).index == 1
    assert parse_choice("It is red.", options).index == 0
    assert parse_choice("One is red, one dark red.", options).failure == "several_options"


def test_options_that_are_alike_cannot_be_told_apart() -> None:
    assert parse_choice("red", ["red", "Red"]).failure == "several_options"
    assert parse_choice("5.", ["5!", "5?"]).failure == "several_options"
    assert parse_choice("5?", ["5!", "5?"]) == Choice(1, "option_text")
    assert parse_choice("-5", ["-5", "5"]) == Choice(0, "option_text")


@pytest.mark.parametrize(("fallback", "index"), [("none", None), ("third", 2), ("first", 0), ("last", 3)])
def test_fallbacks_have_names_and_stay_failures(fallback: str, index: int | None) -> None:
    choice = parse_choice("no idea", OPTIONS, fallback=fallback)
    assert (choice.index, choice.failure, choice.parsed) == (index, "no_match", False)
    assert (choice.rule == f"fallback:{fallback}") is (fallback != "none")
    # What can be read needs no fallback.
    assert parse_choice("B", OPTIONS, fallback=fallback) == Choice(1, "letter")


def test_no_fallback_without_being_asked() -> None:
    for rule in CHOICE_RULES:
        assert parse_choice("no idea?", OPTIONS, rule=rule).index is None


def test_there_is_no_third_of_two_options() -> None:
    assert parse_choice("?!", ["yes", "no"], fallback="third").index is None


def test_the_random_fallback_depends_on_seed_and_id_alone() -> None:
    def draw(seed: int, key: str) -> int | None:
        return parse_choice("?", OPTIONS, fallback="random", seed=seed, key=key).index

    drawn = [draw(0, f"item {number}") for number in range(400)]
    assert drawn == [draw(0, f"item {number}") for number in range(400)]
    assert drawn != [draw(1, f"item {number}") for number in range(400)]
    assert min(Counter(drawn).values()) > 60
    # The same in every process: no hash of Python, which changes with each start, plays a part.
    assert drawn[:12] == [0, 1, 2, 3, 3, 0, 0, 3, 2, 1, 0, 0]


def test_right_and_wrong() -> None:
    assert score_choice("(B)", OPTIONS, 1) == (Choice(1, "letter"), True)
    assert score_choice("(B)", OPTIONS, 0) == (Choice(1, "letter"), False)
    assert score_choice("?", OPTIONS, 2) == (Choice(None, "none", "empty"), False)
    assert score_choice("?", OPTIONS, 2, fallback="third")[1] is True


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: parse_choice("A", OPTIONS, rule="robbust"), ValueError, "did you mean robust?"),
        (lambda: parse_choice("A", OPTIONS, fallback="thirt"), ValueError, "did you mean third"),
        (lambda: parse_choice("?", OPTIONS, fallback="random"), ValueError, "id of the item"),
        (lambda: parse_choice("A", []), ValueError, "1 to 26 options"),
        (lambda: parse_choice("A", "AB"), ValueError, "1 to 26 options"),
        (lambda: parse_choice("A", ["x"] * 27), ValueError, "1 to 26 options"),
        (lambda: parse_choice(None, OPTIONS), TypeError, "not NoneType"),  # type: ignore[arg-type]
        (lambda: score_choice("A", OPTIONS, 4), ValueError, "the number 4, but there are 4 options"),
        (lambda: score_choice("A", OPTIONS, -1), ValueError, "the number -1"),
    ],
)
def test_what_cannot_be_is_one_line(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_fallback_is_known_to_some_rule() -> None:
    assert {rule.published_fallback for rule in CHOICE_RULES.values()} <= set(FALLBACKS)
