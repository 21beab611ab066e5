"""The package's own reading of an answer to a multiple-choice question: which option does a free text name?

The rules are tried in this order; the first that applies decides. An answer that no rule can read is a failure with a
reason. Nothing is guessed.

    letter            a letter, alone or after "The answer is":     B   (b)   B.   Answer: C   Best option:(A
    letter_and_text   a letter and the text of that very option:    (B) a man   B. a man
    option_text       the text of an option and nothing else:       a man   The answer is a man.
    answer_phrase     a sentence that declares a letter:            ... so the answer is B, because ...
    leading_letter    the answer begins with a letter:              B. He wears a hat.
    bracketed_letter  one letter in brackets, anywhere:             It must be (B) here.
    option_contained  the text of one option, anywhere:             It shows a man in a park.

A small letter counts only in brackets, because "a" is a word. A capital "A" or "I" before a word counts as a word, too
("A man walks"), unless the letter has a bracket or a full stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .prompting import letter_of

__all__ = ["FAILURES", "Choice", "equal_options", "robust_choice", "without_labels"]

# Why an answer could not be read.
FAILURES = {
    "empty": "the answer is empty",
    "several_letters": "the answer names several letters",
    "several_options": "the answer holds the texts of several options",
    "letter_out_of_range": "the answer names a letter that no option has",
    "no_match": "the answer names neither a letter nor an option",
    "tied": "several options are the likeliest",
}


@dataclass(frozen=True)
class Choice:
    """The option that an answer names.

    Attributes:
        index: number of the option, counted from 0; None if there is none.
        rule: the rule that found it, for counts. `fallback:<name>` where a fallback stands in for an answer that could
            not be read.
        failure: why the answer could not be read (a key of `FAILURES`); empty if it could. It stays when a fallback
            stands in, so that failures are always counted.
    """

    index: int | None
    rule: str
    failure: str = ""

    @property
    def parsed(self) -> bool:
        """Whether a rule could read the answer."""
        return not self.failure


# Full-width letters, brackets and punctuation, which Chinese models write, become the usual ones, as do curly
# apostrophes. Emphasis of Markdown goes.
_CHARACTERS = str.maketrans(
    {chr(0xFF21 + offset): chr(ord("A") + offset) for offset in range(26)}
    | {"\uff08": "(", "\uff09": ")", "\uff3b": "[", "\uff3d": "]", "\uff0e": ".", "\uff1a": ":", "\uff0c": ","}
    | {"\u3002": ".", "\u2018": "'", "\u2019": "'", "*": None, "`": None}
)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\$?\\boxed\{(?:\\text\{)?([^{}]*)\}?\}\$?")

# A letter: in brackets, with an opening bracket that nothing closes, bare, or small with a closing bracket.
_LETTER = (
    r"""(?<![\w'])["'“]?(?:"""
    r"""[(\[{]\s*(?P<bracketed>[A-Za-z])\s*[)\]}]"""
    r"""|(?P<open>[(\[{])\s*(?P<after_open>[A-Z])(?![\w'\-+\#])"""
    r"""|(?P<bare>[A-Z])(?![\w'\-+\#])"""
    r"""|(?P<small>[a-z])\)"""
    r""")["'”]?"""
)
# An abbreviation such as "U.S." is no letter, unless its rest is the text of the option.
_ABBREVIATION = r"(?![A-Z]\.[A-Z]\.)"
_BE = r"(?:is|was|would\s+be|should\s+be|must\s+be)"
_NOUN = r"(?:answer|option|choice)"
# Words that may stand before a letter or the text of an option that is the whole answer.
_LEAD_IN = re.compile(
    rf"""(?:(?:so|thus|hence|therefore)\b,?\s*)?
    (?:(?:(?:the|my)\s+)?(?:(?:best|correct|right|final|most\s+\w+)\s+)*{_NOUN}(?:\s+{_BE}\b)?\s*[:=]?\s*
    |(?:i\s+(?:would\s+)?)?(?:choose|select|pick)\s+)
    (?:(?:option|choice|letter)\b\s*)?""",
    re.IGNORECASE | re.VERBOSE,
)
# What declares a letter inside a longer text: "answer is", "answer:", "I choose option".
_DECLARATION = re.compile(
    rf"""(?P<final>\bfinal\s+)?\b(?:{_NOUN}(?:\s+{_BE}\b\s*:?|\s*[:=])|(?:choose|select|pick|go\s+with)\b)\s*
    (?:(?:option|choice|answer|letter)\b\s*)?(?=["'“(\[{{]*\s*[A-Za-z]\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_CONFIRMED = re.compile(rf"\s+{_BE}\s+(?:the\s+)?(?:correct|right|best|most\s+\w+|answer)\b", re.IGNORECASE)
_DENIED = re.compile(r"\s+(?:is|was|are|can|could|does|would)(?:\s+not\b|n't\b|\s+(?:wrong|incorrect|false)\b)", re.I)
_TOKEN, _ANY_TOKEN = re.compile(_ABBREVIATION + _LETTER), re.compile(_LETTER)
_DELIMITER = re.compile(r"\s*[.):,\]}\-\u2013\u2014]+\s*|\s*\n\s*|\s*$")
_ANOTHER = re.compile(r"\s*(?:[,/&|+]|\band\b|\bor\b)\s*(?:option\s+)?", re.IGNORECASE)
# A word that cannot follow an article: after it, "A" is the letter.
_NO_NOUN = re.compile(r"[ \t]+(?:is|was|because|since|as|and|or|would|seems)\b", re.IGNORECASE)
_OUTER = " \t\r\n.,;:!?\"'“”()[]{}"


def robust_choice(text: str, options: Sequence[str]) -> Choice:
    """The option that an answer names, by the rules at the head of this file.

    Args:
        text: what the model wrote.
        options: the texts of the options. Their own letters ("A. Apples") are dropped if all of them have one.
    """
    answer, options = _clean(text), [_characters(option) for option in without_labels(options)]
    if not answer.strip(_OUTER):
        return Choice(None, "none", "empty")
    for rule in (_whole_letter, _whole_text, _declared, _leading, _in_brackets, _contained):
        if (choice := rule(answer, options)) is not None:
            return choice
    return Choice(None, "none", "no_match")


def without_labels(options: Sequence[str]) -> list[str]:
    """The options without letters of their own, if each of them has its own letter.

    Example:
        >>> without_labels(["A. Apples", "B. Pears"]), without_labels(["A. Smith", "Pears"])
        (['Apples', 'Pears'], ['A. Smith', 'Pears'])
    """
    matches = [
        re.match(rf"\s*(?:\({letter_of(index)}\)|{letter_of(index)}[.):])\s*(?=\S)", option)
        for index, option in enumerate(options)
    ]
    found = [match for match in matches if match is not None]
    if len(options) < 2 or len(found) < len(options):
        return list(options)
    return [option[match.end() :] for option, match in zip(options, found, strict=True)]


def equal_options(options: Sequence[str]) -> list[list[int]]:
    """Numbers of options that say the same, in groups; none where all differ.

    Texts are compared as answers are: case, blanks, and punctuation around them make no difference.

    Example:
        >>> equal_options(["a man", "a dog", "A man.", "a cat"]), equal_options(["1", "-1"])
        ([[0, 2]], [])
    """
    groups: dict[str, list[int]] = {}
    for index, option in enumerate(without_labels(options)):
        groups.setdefault(_bare(_characters(option)), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _characters(text: str) -> str:
    return text.translate(_CHARACTERS)


def _clean(text: str) -> str:
    """The answer without the marks around it: emphasis, LaTeX's box, the last pair of `<answer>` tags."""
    text = _BOXED.sub(r"\1", _characters(text))
    if tagged := _TAGGED.findall(text):
        text = tagged[-1]
    return text.strip()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _bare(text: str) -> str:
    """A text for comparison: no case, single blanks, no punctuation around it (unless there is nothing else)."""
    folded = _folded(text)
    return folded.strip(_OUTER) or folded


def _index(token: re.Match[str]) -> int:
    letter = token["bracketed"] or token["after_open"] or token["bare"] or token["small"]
    return ord(letter.upper()) - ord("A")


def _chosen(index: int, rule: str, options: Sequence[str]) -> Choice:
    if index >= len(options):
        return Choice(None, rule, "letter_out_of_range")
    return Choice(index, rule)


def _is_word(answer: str, token: re.Match[str]) -> bool:
    """Whether the letter is an article or a pronoun: a bare A or I with a word behind it."""
    rest = answer[token.end() :]
    return token["bare"] in ("A", "I") and bool(re.match(r"[ \t]+\w", rest)) and not _NO_NOUN.match(rest)


def _has_text_of(rest: str, option: str) -> bool:
    """Whether `rest` is an option's text, with or without the punctuation behind the letter."""
    behind = _DELIMITER.match(rest)
    rests = [rest, rest[behind.end() :] if behind else rest]
    return any(_folded(rest) == _folded(option) or _bare(rest) == _bare(option) for rest in rests)


def _names_another(answer: str, end: int) -> bool:
    """Whether a list of letters goes on at `end`: "A, C", "A or B", "(A)(B)"."""
    rest = answer[end:]
    closed = re.match(r"[.)\]}]*", rest)
    start = closed.end() if closed else 0
    connector = _ANOTHER.match(rest, start)
    token = _TOKEN.match(rest, connector.end() if connector else start)
    return token is not None and (connector is not None or token["bracketed"] is not None) and not _is_word(rest, token)


def _whole_letter(answer: str, options: Sequence[str]) -> Choice | None:
    """A letter with nothing but words of introduction before it, and nothing or its option's text behind it."""
    lead_in = _LEAD_IN.match(answer)
    for start in {0, lead_in.end() if lead_in else 0}:
        token = _ANY_TOKEN.match(answer, start)
        if token is None:
            continue
        rest, index = answer[token.end() :], _index(token)
        if not rest.strip(_OUTER + "-\u2013\u2014"):
            return _chosen(index, "letter", options)
        # "A man" may be option A, "man", or option B, "A man": without a delimiter, the rule for whole texts decides.
        delimited = token["bare"] is None or _DELIMITER.match(rest) is not None
        if index < len(options) and _has_text_of(rest, options[index]) and (delimited or not _equal(answer, options)):
            return Choice(index, "letter_and_text")
    return None


def _equal(answer: str, options: Sequence[str]) -> list[int]:
    """Options whose text is the answer: exactly but for case, or else without punctuation around it."""
    exact = [index for index, option in enumerate(options) if option.strip() and _folded(answer) == _folded(option)]
    return exact or [index for index, option in enumerate(options) if option.strip() and _bare(answer) == _bare(option)]


def _whole_text(answer: str, options: Sequence[str]) -> Choice | None:
    """The text of one option, with nothing but words of introduction before it."""
    lead_in = _LEAD_IN.match(answer)
    for start in (0, lead_in.end() if lead_in else 0):
        if found := _equal(answer[start:], options):
            return (
                Choice(found[0], "option_text") if len(found) == 1 else Choice(None, "option_text", "several_options")
            )
    return None


def _declarations(answer: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Letters that the answer declares, and whether it calls them final."""
    for declaration in _DECLARATION.finditer(answer):
        token = _TOKEN.match(answer, declaration.end())
        if token is not None and not _is_word(answer, token) and not _DENIED.match(answer, token.end()):
            yield token, declaration["final"] is not None
    for token in _TOKEN.finditer(answer):
        if _CONFIRMED.match(answer, token.end()):
            yield token, False


def _declared(answer: str, options: Sequence[str]) -> Choice | None:
    """A letter behind "the answer is" or the like. Of different ones, the last counts if it is called final."""
    found = list(_declarations(answer))
    if not found:
        return None
    indices = {_index(token) for token, _ in found}
    last, final = found[-1]
    if any(_names_another(answer, token.end()) for token, _ in found) or (len(indices) > 1 and not final):
        return Choice(None, "answer_phrase", "several_letters")
    return _chosen(_index(last), "answer_phrase", options)


def _leading(answer: str, options: Sequence[str]) -> Choice | None:
    """A letter at the beginning, also behind "Option", if the answer does not go on to list others."""
    opening = re.match(r"(?:(?:option|answer|choice)\s+)?", answer, re.IGNORECASE)
    token = _TOKEN.match(answer, opening.end() if opening else 0)
    if token is None or _is_word(answer, token) or _DENIED.match(answer, token.end()):
        return None
    delimited = token["bare"] is None or _DELIMITER.match(answer, token.end()) is not None
    if not delimited and any(_begins_with(answer, option) for option in options):
        return None  # "C major, I think" is the option "C major", wherever that stands
    if _names_another(answer, token.end()) or _lists_more(answer, token, options):
        return Choice(None, "leading_letter", "several_letters")
    return _chosen(_index(token), "leading_letter", options)


def _begins_with(answer: str, option: str) -> bool:
    text = _folded(option)
    return bool(text) and re.match(rf"{re.escape(text)}(?!\w)", _folded(answer)) is not None


def _lists_more(answer: str, first: re.Match[str], options: Sequence[str]) -> bool:
    """Whether another letter stands at the beginning of a line, or before the text of its option."""
    for token in _TOKEN.finditer(answer, first.end()):
        if _index(token) == _index(first) or _is_word(answer, token):
            continue
        if answer[: token.start()].rstrip(" \t").endswith("\n"):
            return True
        behind = re.sub(r"^[\s.):,]+", "", answer[token.end() :])
        if _index(token) < len(options) and _begins_with(behind, options[_index(token)]):
            return True
    return False


def _in_brackets(answer: str, options: Sequence[str]) -> Choice | None:
    """The only capital letter in brackets; letters that the answer denies do not count."""
    found = {
        _index(token)
        for token in _TOKEN.finditer(answer)
        if (token["bracketed"] or "").isupper()
        and not re.search(r"\bnot\s+(?:option\s+)?$", answer[: token.start()], re.IGNORECASE)
        and not _DENIED.match(answer, token.end())
    }
    if len(found) > 1:
        return Choice(None, "bracketed_letter", "several_letters")
    return _chosen(found.pop(), "bracketed_letter", options) if found else None


def _contained(answer: str, options: Sequence[str]) -> Choice | None:
    """The only option whose text occurs between word boundaries. Texts inside a longer option's text do not count."""
    folded = _folded(answer)
    spans = {
        index: [match.span() for match in re.finditer(rf"(?<!\w){re.escape(_bare(option))}(?!\w)", folded)]
        for index, option in enumerate(options)
        if _bare(option)
    }
    everything = [span for found in spans.values() for span in found]
    alone = [
        index
        for index, found in spans.items()
        if any(not any(_inside(span, other) for other in everything) for span in found)
    ]
    if len(alone) > 1:
        return Choice(None, "option_contained", "several_options")
    return Choice(alone[0], "option_contained") if alone else None


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]
