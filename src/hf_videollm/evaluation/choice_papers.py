"""How the official evaluations read the answers to multiple-choice questions, each with its faults.

A published number was counted by one of these rules. Use them to repeat that number, and `robust` for everything else:
most of these rules take the first capital letter of any word for an answer ("Both" is B).

There are two kinds. Some read an option out of the answer. Others only say whether the answer agrees with a given
option, and may agree with several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .answers import mvbench_match
from .choice_robust import Choice
from .exact_match import vqa_punctuation
from .prompting import letter_of

__all__ = [
    "Match",
    "Read",
    "linvt_mvbench",
    "linvt_videovista",
    "lmms_eval",
    "official_videomme",
    "pllava",
    "videollama2",
    "videollama2_av",
    "videollama2_egoschema",
    "videollama2_perception_test",
    "videollama2_videomme",
    "videovista_official",
]

# Reads the option out of an answer: (answer, options) -> choice.
Read = Callable[[str, Sequence[str]], Choice]
# Says whether an answer agrees with one option: (answer, options, number of the option).
Match = Callable[[str, Sequence[str], int], bool]

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {str(digit): word for digit, word in enumerate(_NUMBER_WORDS)}
# The original's list has two more, which a missing comma joins to others, so that they never occur.
_VIDEOMME_LEAD_INS = ("The best answer is", "The correct answer is", "The answer is", "The answer")


def _listed(options: Sequence[str], index: int) -> str:
    return f"({letter_of(index)}) {options[index]}"


def _found(letter: str, options: Sequence[str], rule: str) -> Choice:
    """The option of a letter, if there is one."""
    letters = [letter_of(index) for index in range(len(options))]
    if letter in letters:
        return Choice(letters.index(letter), rule)
    return Choice(None, rule, "letter_out_of_range" if len(letter) == 1 and letter.isupper() else "no_match")


def _without_the_word_answer(text: str) -> str:
    """VideoLLaMA2 deletes this word, whose capital would be taken for option A."""
    return text.replace("answer", "").replace("Answer", "")


def videollama2(text: str, options: Sequence[str]) -> Choice:
    """MVBench in VideoLLaMA2: the first capital letter of an option, anywhere; else the first option that occurs.

    A comma directly behind the letter ("A, because") or a blank inside the brackets ("( A)") breaks the original, which
    then takes the third option. Here that is a failure, and `fallback="third"` repeats the original.
    """
    text = _without_the_word_answer(text)
    found = re.search(rf"[(, ]*[A-{letter_of(len(options) - 1)}][), ]*", text)
    if found:
        return _found(found[0].strip().strip("()"), options, "videollama2:letter")
    return _first_that_occurs(text, options, [(option,) for option in options], "videollama2:option_text")


def videollama2_videomme(text: str, options: Sequence[str]) -> Choice:
    """Video-MME in VideoLLaMA2: as `videollama2` with letters A to D alone; an option that is a digit also as a word.

    The original drops the last character of each option, which is a full stop in that benchmark. Here only a full stop
    is dropped.
    """
    text = _without_the_word_answer(text)
    if found := re.search(r"[A-D]", text):
        return _found(found[0], options, "videollama2_videomme:letter")
    texts = [option.removesuffix(".") for option in options]
    forms = [(option, _DIGITS.get(option, option)) for option in texts]
    return _first_that_occurs(text, options, forms, "videollama2_videomme:option_text")


def videollama2_egoschema(text: str, options: Sequence[str]) -> Choice:
    """EgoSchema in VideoLLaMA2: the first capital letter A to E, anywhere; texts of options do not count."""
    found = re.search(r"[( ]*[A-E][) ]*", _without_the_word_answer(text))
    rule = "videollama2_egoschema:letter"
    return _found(found[0].strip().strip("()") if found else "", options, rule)


def videollama2_perception_test(text: str, options: Sequence[str]) -> Choice:
    """Perception-Test in VideoLLaMA2: the first capital letter A to C, anywhere; else an option as the whole answer."""
    text = _without_the_word_answer(text)
    if found := re.search(r"[A-C]", text):
        return _found(found[0], options, "videollama2_perception_test:letter")
    lowered = [option.lower() for option in options]
    rule = "videollama2_perception_test:option_text"
    return Choice(lowered.index(text.lower()), rule) if text.lower() in lowered else Choice(None, rule, "no_match")


def _first_that_occurs(text: str, options: Sequence[str], forms: Sequence[Sequence[str]], rule: str) -> Choice:
    for index in range(len(options)):
        if any(form.lower() in text.lower() for form in forms[index]):
            return Choice(index, rule)
    return Choice(None, rule, "no_match")


def lmms_eval(text: str, options: Sequence[str]) -> Choice:
    """MVBench in lmms-eval: the first letter A to E that stands alone, small ones included.

    So the article counts as A: "It is a dog" is option A. The original leaves empty answers out of the accuracy; they
    are counted as failures "empty".
    """
    leading = re.match(r"([A-E])\.\s*(.+)$", text.strip(), re.IGNORECASE)
    if leading:
        return _found(leading[1].upper(), options, "lmms_eval:leading_letter")
    plain = vqa_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    found = re.search(r"\b([A-E])\b", plain, re.IGNORECASE)
    return _found(found[1].upper() if found else "", options, "lmms_eval:letter")


def official_videomme(text: str, options: Sequence[str]) -> Choice:
    """Video-MME's own scorer: the first capital A to D behind the known openings, anywhere ("Best option: C" is B).

    The original leaves answers without a letter out of the accuracy; `accuracy_of_parsed` is that number.
    """
    text = text.strip()
    for lead_in in _VIDEOMME_LEAD_INS:
        text = text.replace(lead_in, "")
    found = re.search(r"[ABCD]", text)
    return _found(found[0] if found else "", options, "official_videomme:letter")


def videovista_official(text: str, options: Sequence[str]) -> Choice:
    """VideoVista's own scorer: the first character, or the second where the first is none of A to D."""
    text = text.strip()
    letter = text[1] if len(text) > 1 and text[0] not in "ABCD" else text[:1]
    return _found(letter, options, "videovista_official:letter")


def pllava(text: str, options: Sequence[str], index: int) -> bool:
    """MVBench in PLLaVA: of the first words of answer and option, one holds the other (`mvbench_match`)."""
    return mvbench_match(text, _listed(options, index))


def linvt_mvbench(text: str, options: Sequence[str], index: int) -> bool:
    """MVBench in LinVT's code and VideoChat2's: as PLLaVA's, but the answer need not hold a letter.

    So an empty answer agrees with every option, and counts as right.
    """
    predicted = text.replace("Answer: ", "").lower().split(" ")[0]
    expected = _listed(options, index).lower().split(" ")[0]
    return predicted.replace(".", "") in expected or expected in predicted


def linvt_videovista(text: str, options: Sequence[str], index: int) -> bool:
    """VideoVista in LinVT's code: as its MVBench, behind the openings it knows; an empty answer agrees with nothing."""
    for lead_in in ("Answer:", "The answer is", "Answer is"):
        text = text.removeprefix(lead_in).strip()
    predicted = text.split(" ")[0].lower().replace(".", "")
    expected = _listed(options, index).lower().split(" ")[0]
    return bool(predicted) and (predicted in expected or expected in predicted)


def videollama2_av(text: str, options: Sequence[str], index: int) -> bool:
    """TUT2017 and VocalSound in VideoLLaMA2: the label occurs in the answer, or the answer is its letter, `X` or `(X)`.

    A label that is part of another one counts for both ("car" in "scar").
    """
    predicted, label = text.strip().upper(), options[index].upper()
    if label in predicted:
        return True
    letters = [letter_of(number) for number in range(len(options))]
    named = next((number for number, letter in enumerate(letters) if predicted in (letter, f"({letter})")), None)
    return named is not None and label in options[named].upper()
