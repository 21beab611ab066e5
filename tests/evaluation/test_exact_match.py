"""Comparisons of short answers with references, by the papers' rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_videollm.evaluation.exact_match import MATCH_RULES, answer_matches, vqa_normalize, vqa_punctuation


@pytest.mark.parametrize(
    ("rule", "prediction", "reference", "expected"),
    [
        ("exact", "yes", "yes", True),
        ("exact", "Yes", "yes", False),
        ("folded", " Yes.\n", "yes", True),
        ("folded", "yes it is", "yes", False),
        ("videollama2", "Yes.", "yes", True),
        ("videollama2", "yes . .", "yes", True),
        ("videollama2", "yes!", "yes", False),
        ("videollama2", "yes\n", "yes", False),  # only blanks and full stops go
        ("videollama2", "acoustic guitar", "acoustic_guitar", False),
        ("videollama2_binary", "YES", "yes", True),
        ("videollama2_binary", "yes.", "yes", False),
        ("videollama2_label", "(B) Bus", "bus", True),
        ("videollama2_label", "It is a tramway", "tram", True),
        ("videollama2_label", "car", "cafe or restaurant", False),
        ("vqa", "two", "2", True),
        ("vqa", "a red-car", "red car", True),
        ("vqa", "isnt", "isn't", True),
        ("vqa", "red cars", "red car", False),
        ("tiny_lvlm", "There are two dogs.", "2", True),
        ("tiny_lvlm", "The bus is red.", "red", True),
        ("tiny_lvlm", "The bus is bored.", "red", False),
        ("tiny_lvlm", "no", "none", False),  # none is 0
        ("tiny_lvlm", "zero", "none", True),
        ("tiny_lvlm", "the word the", "the", True),
        ("tiny_lvlm", "another word", "the", False),
    ],
)
def test_comparisons(rule: str, prediction: str, reference: str, expected: bool) -> None:
    assert answer_matches(prediction, reference, rule) is expected


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("(B) cat", " B cat"),  # a blank is beside ")", so it goes; "(" becomes a blank
        ("red/blue", "red blue"),
        ("red / blue", "red  blue"),
        ("1,000 (about)", "1000 about"),  # a comma in a number
        ("a.b 3.5 c.", "ab 3.5 c"),
        ("x" + "." * 40, "x" + "." * 8),  # 32 of them
    ],
)
def test_punctuation_goes_as_in_the_vqa_evaluation(text: str, plain: str) -> None:
    assert vqa_punctuation(text) == plain


@given(st.text(st.characters(codec="ascii"), max_size=30))
def test_normalizing_leaves_no_articles_and_no_capitals(text: str) -> None:
    words = vqa_normalize(text).split()
    assert not {"a", "an", "the"} & set(words)
    assert all(word == word.lower() for word in words)


@pytest.mark.parametrize("rule", MATCH_RULES)
def test_any_of_several_references_counts(rule: str) -> None:
    assert answer_matches("guitar", ["piano", "guitar"], rule)
    assert not answer_matches("violin", ["piano", "guitar"], rule)


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(ValueError, match="did you mean videollama2"):
        answer_matches("yes", "yes", "videollama")
    with pytest.raises(ValueError, match="without a reference"):
        answer_matches("yes", [])
    with pytest.raises(TypeError, match="not NoneType"):
        answer_matches(None, "yes")  # type: ignore[arg-type]
