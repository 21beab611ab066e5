"""Whether a short free answer is the reference: the comparisons of the papers, by name.

A published number depends on what is left out of account (case, a full stop, articles), so the rule is always named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..models.video_llm_option_names import did_you_mean

__all__ = ["MATCH_RULES", "MatchRule", "answer_matches", "vqa_normalize", "vqa_punctuation"]


@dataclass(frozen=True)
class MatchRule:
    """A comparison.

    Attributes:
        source: whose it is, and for which benchmarks.
        matches: answer and one reference -> whether they agree.
    """

    source: str
    matches: Callable[[str, str], bool]


def answer_matches(prediction: str, references: str | Sequence[str], rule: str = "folded") -> bool:
    """Whether an answer agrees with the reference, or with one of several.

    Args:
        prediction: what the model wrote.
        references: what is right; one text, or all acceptable ones.
        rule: key of `MATCH_RULES`.

    Raises:
        ValueError: no such rule, or no reference.
        TypeError: the answer is not a text.

    Example:
        >>> answer_matches("Yes.", "yes", rule="videollama2"), answer_matches("Yes, it is.", "yes", rule="videollama2")
        (True, False)
    """
    if rule not in MATCH_RULES:
        raise ValueError(f"There is no rule {rule!r} for exact match: {did_you_mean(rule, MATCH_RULES)}")
    if not isinstance(prediction, str):
        raise TypeError(f"An answer is a text, not {type(prediction).__name__}.")
    references = [references] if isinstance(references, str) else list(references)
    if not references:
        raise ValueError("An answer cannot be compared without a reference.")
    return any(MATCH_RULES[rule].matches(prediction, reference) for reference in references)


# The normalization of the VQA evaluation, which Tiny LVLM-eHub and lmms-eval share.

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The original passes a flag where the number of replacements belongs, so that it removes at most this many full stops.
_MOST_FULL_STOPS = 32
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = ("a", "an", "the")
# What follows the apostrophe -> words before it. The original's table of words without apostrophe, less a few that do
# not occur ("ow's'at") and words with two apostrophes.
_CONTRACTIONS = {
    f"{stem}{ending.replace(chr(39), '')}": f"{stem}{ending}"
    for ending, stems in {
        "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
        "'ve": "could might must not should they we what where who would you",
        "'d": "he how it someone something there they where who you",
        "'ll": "how it somebody someone something they what who why you",
        "'re": "there they what why you",
        "'s": "he how somebody someone that there what when where who why",
        "'am": "ma",
        "'clock": "o",
        "'all": "y",
    }.items()
    for stem in stems.split()
}


def vqa_punctuation(text: str) -> str:
    """The text without punctuation: dropped where a blank is beside it somewhere, else replaced by a blank.

    A comma between two digits makes all punctuation of the text drop out. A full stop before a digit stays.
    """
    numbers = _COMMA_IN_NUMBER.search(text) is not None
    plain = text
    for mark in _PUNCTUATION:
        drop = numbers or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if drop else " ")
    return _FULL_STOP.sub("", plain, count=_MOST_FULL_STOPS)


def vqa_normalize(text: str) -> str:
    """Small letters, no punctuation, no articles, digits for the words zero to ten, apostrophes where they are missing.

    Example:
        >>> vqa_normalize("There are two dogs, and a cat that isnt black.")
        "there are 2 dogs and cat that isn't black"
    """
    words = vqa_punctuation(text.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    numbers = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in numbers if word not in _ARTICLES)


def _has_words(prediction: str, reference: str) -> bool:
    """Whether the reference stands in the answer between word boundaries, both normalized.

    A reference that is an article alone is empty once normalized. The original finds it in every answer; here it is
    compared as it is.
    """
    normalized = vqa_normalize(reference)
    text = vqa_normalize(prediction) if normalized else prediction.lower()
    return re.search(rf"\b{re.escape(normalized or reference.lower())}\b", text) is not None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'“”()[]")


MATCH_RULES: dict[str, MatchRule] = {
    "exact": MatchRule("hf_videollm: character by character", lambda prediction, reference: prediction == reference),
    "folded": MatchRule(
        "hf_videollm: without case, white space and punctuation around the answer",
        lambda prediction, reference: _folded(prediction) == _folded(reference),
    ),
    "videollama2": MatchRule(
        "VideoLLaMA2, Clotho-AQA and MUSIC-AVQA: without case; blanks and full stops at the answer's end go",
        lambda prediction, reference: prediction.rstrip(" .").upper() == reference.upper(),
    ),
    "videollama2_binary": MatchRule(
        "VideoLLaMA2, questions of Clotho-AQA whose answer is yes or no: without case; a full stop counts",
        lambda prediction, reference: prediction.lower() == reference.lower(),
    ),
    "videollama2_label": MatchRule(
        "VideoLLaMA2, TUT2017 and VocalSound: the label occurs in the answer, without case (for letters of options see "
        "the rule videollama2_av of multiple_choice)",
        lambda prediction, reference: reference.upper() in prediction.strip().upper(),
    ),
    "vqa": MatchRule(
        "VQA's normalization of both sides, then equality",
        lambda prediction, reference: vqa_normalize(prediction) == vqa_normalize(reference),
    ),
    "tiny_lvlm": MatchRule(
        "Tiny LVLM-eHub: VQA's normalization, then the reference as words of the answer", _has_words
    ),
}
