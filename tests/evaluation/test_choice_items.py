"""The right option by letter, number or text, and what is refused."""

import pytest

from hf_videollm.evaluation.choice_items import by_letter, by_number, by_text, listed_options, numbered_options
from hf_videollm.evaluation.data_files import DataError, Row

OPTIONS = ("a dog", "a man", "a car")


def row(**values: object) -> Row:
    return Row(values, "/data/q.json, row 7")


@pytest.mark.parametrize("letter", ["B", " B", "(B)", "B."])
def test_letters(letter: str) -> None:
    assert by_letter(row(answer=letter), "answer", OPTIONS) == 1


@pytest.mark.parametrize("number", [2, "2", " 2 "])
def test_numbers(number: object) -> None:
    assert by_number(row(answer=number), "answer", OPTIONS) == 2


def test_texts() -> None:
    assert by_text(row(answer="a man"), "answer", OPTIONS) == 1


@pytest.mark.parametrize(
    ("find", "value", "words"),
    [
        (by_letter, "D", "answer is 'D', but the options are A to C"),
        (by_letter, "b", "answer is 'b', but the options are A to C"),
        (by_letter, 1, "answer is 1, which is no str"),
        (by_letter, None, "the field 'answer' is missing"),
        (by_number, 3, "answer is 3, but the options are 0 to 2"),
        (by_number, -1, "answer is -1, but the options are 0 to 2"),
        (by_number, "B", "answer is 'B', which is no number of an option"),
        (by_number, True, "answer is True, which is no int or str"),
        (by_text, "A man", "answer is 'A man', which is none of the options 'a dog', 'a man', 'a car'"),
    ],
)
def test_what_names_no_option(find: object, value: object, words: str) -> None:
    with pytest.raises(DataError) as error:
        find(row(answer=value), "answer", OPTIONS)  # type: ignore[operator]
    assert str(error.value).startswith(f"/data/q.json, row 7: {words}")
    assert "\n" not in str(error.value)


def test_lists_lose_their_letters() -> None:
    assert listed_options(row(options=["A. a dog.", "B. a man."]), "options") == ("a dog.", "a man.")
    # Control: a list in which only one seems to have a letter is left as it is.
    assert listed_options(row(options=["A. Smith", "a man"]), "options") == ("A. Smith", "a man")


@pytest.mark.parametrize("value", [["one"], [], [1, 2], ["x"] * 27])
def test_lists_that_are_none_of_options(value: object) -> None:
    with pytest.raises(DataError, match=r"options is .* which is no list of 2 to 26 texts"):
        listed_options(row(options=value), "options")


def test_options_in_fields_of_their_own() -> None:
    assert numbered_options(row(a0="x", a1=2, a2="z"), "a{}", range(3)) == ("x", "2", "z")
    with pytest.raises(DataError, match="the field 'a3' is missing"):
        numbered_options(row(a0="x", a1=2, a2="z"), "a{}", range(4))
