"""Questions with options: how they are written, and how files name the right option."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from .parsed_files import DataError
from .rows import Row

__all__ = [
    "MOST_OPTIONS",
    "STYLES",
    "letter_of",
    "read_answer",
    "with_options",
    "without_letters",
    "without_options",
]

# There are no more letters.
MOST_OPTIONS = 26
# A letter before the text of an option, such as "A. red", "(A) red" or "A: red".
_LETTERED = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s+(\S.*)", re.DOTALL)

# Name -> the answer that is learned, of a letter and the text of the option.
STYLES: Mapping[str, Callable[[str, str], str]] = {
    "letter_text": lambda letter, text: f"({letter}) {text}",
    "letter": lambda letter, text: letter,
    "text": lambda letter, text: text,
}


def letter_of(index: int) -> str:
    """A for 0, B for 1, ..."""
    return chr(ord("A") + index)


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with its options below it.

    Example:
        >>> print(with_options("Which colour?", ["red", "blue"]))
        Which colour?
        (A) red
        (B) blue
    """
    return "\n".join([question.strip(), *(f"({letter_of(at)}) {option}" for at, option in enumerate(options))])


def without_letters(options: Sequence[str]) -> list[str]:
    """The texts of options without their letters, if these are A, B, C, ... in this order; others as they are.

    Example:
        >>> without_letters(["A. red", "B. blue"]), without_letters(["A. Lincoln", "T. Roosevelt"])
        (['red', 'blue'], ['A. Lincoln', 'T. Roosevelt'])
    """
    found = [_LETTERED.fullmatch(option) for option in options]
    letters = [match and (match[1] or match[2]) for match in found]
    if len(options) < 2 or letters != [letter_of(at) for at in range(len(options))]:
        return list(options)
    return [match[3].strip() for match in found if match]


def without_options(question: str, options: Sequence[str]) -> str:
    """The question that `with_options` was called with."""
    return question.removesuffix(with_options("", options)).strip()


def read_answer(row: Row, column: str, options: Sequence[str], form: str, first: int) -> int:
    """The number of the right option, counted from 0.

    Args:
        row: the row of the question.
        column: names the right option.
        options: their texts.
        form: how: `index`, `letter`, `text`, or `auto` for the only one of these that is possible.
        first: the number that the file gives the first option.

    Raises:
        DataError: it names no option, or several.
    """
    value = row.get(column, (str, int))
    found: dict[str, int] = {}
    text = str(value).strip()
    if isinstance(value, int) or text.lstrip("-").isdigit():
        found["index"] = int(text) - first
    letter = text.strip("().").upper()
    if isinstance(value, str) and len(letter) == 1 and letter.isascii() and letter.isalpha():
        found["letter"] = ord(letter) - ord("A")
    if isinstance(value, str) and text in options:
        if list(options).count(text) > 1:
            raise DataError(f"{row.where}: {column} {text!r} is the text of two options: name it by its number.")
        found["text"] = list(options).index(text)
    possible = {name: at for name, at in found.items() if 0 <= at < len(options) and form in ("auto", name)}
    if len(set(possible.values())) > 1:
        raise DataError(
            f"{row.where}: {column} {text!r} may be the {' or the '.join(possible)} of an option: set answer_is."
        )
    if not possible:
        how = "" if form == "auto" else f" by its {form}"
        raise DataError(f"{row.where}: {column} {text!r} names none of the {len(options)} options{how}: correct it.")
    return next(iter(possible.values()))
