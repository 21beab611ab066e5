"""What a judge's reply says: yes or no, a score, or a letter. Replies are read as data and never run.

How strictly a reply is read decides which replies count as failures, so each origin has its own rule:

    literal     Video-ChatGPT, VideoLLaMA2: a Python dictionary and nothing else, the word yes or no somewhere in its
                verdict, a score that becomes an integer
    exact       VideoLLaMA2's audio_visual branch: the same, but every verdict other than "yes" is a no
    strict      PLLaVA: a Python dictionary and nothing else, "yes" or "no" exactly, a number that is kept as it is
    braces      lmms-eval: what stands between the first { and the last }; what is missing in it is "no" and 0
    robust      this package's default: JSON or Python, with text around it, capitals, numbers in quotes
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from .judge_text import JudgeText

__all__ = ["ParseRule", "Reading", "UnreadableReplyError", "read_reply"]

ParseRule = Literal["literal", "exact", "strict", "braces", "robust"]
# A longer reply is none that the texts ask for, and Python's parser takes long for deep ones.
MOST_CHARACTERS = 20_000
_OPTIONS = "ABCDEF"


class UnreadableReplyError(ValueError):
    """A reply that does not say what it was asked for; the message says why."""


@dataclass(frozen=True)
class Reading:
    """What a reply says.

    Attributes:
        pred: yes or no; `None` where the text asks for a score alone, and where an origin leaves it open.
        score: the score.
        choice: letter of an option, for Video-Bench.
    """

    pred: bool | None = None
    score: float | None = None
    choice: str | None = None


def read_reply(reply: str, text: JudgeText, rule: ParseRule = "robust") -> Reading:
    """Read what a judge replied to a text.

    Args:
        reply: what the judge wrote.
        text: what it was asked; it knows the form of the reply.
        rule: how strict to be.

    Raises:
        UnreadableReplyError: the reply does not have the form, as far as the rule asks for it.

    Example:
        >>> from hf_videollm.evaluation.judges.texts import QA
        >>> read_reply("Sure! {'pred': 'yes', 'score': 4.8}", QA)
        Reading(pred=True, score=4, choice=None)
    """
    if not reply.strip():
        raise UnreadableReplyError("the reply is empty")
    if len(reply) > MOST_CHARACTERS:
        raise UnreadableReplyError(f"the reply has {len(reply)} characters, more than {MOST_CHARACTERS}")
    if text.reply == "number":
        return Reading(score=_bare_number(reply, text, rule))
    if text.reply == "letter":
        return Reading(choice=_letter(reply, rule))
    found = _dictionary(reply, rule)
    if text.reply == "first_value":
        return Reading(score=_score(next(iter(found.values()), None), rule, text))
    score = _score(found.get("score", 0 if rule == "braces" else None), rule, text)
    if text.reply == "score":
        return Reading(score=score)
    return Reading(_verdict(found, text, rule), score)


# Dictionaries


def _dictionary(reply: str, rule: ParseRule) -> dict[Any, Any]:
    if rule == "robust":
        return _robust_dictionary(reply)
    if rule == "braces":
        reply = reply[reply.find("{") : reply.rfind("}") + 1]
    value = _literal(reply)
    if not isinstance(value, dict):
        raise UnreadableReplyError("the reply is no Python dictionary")
    return value


def _literal(text: str) -> Any:
    """A Python literal; None for everything else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _robust_dictionary(reply: str) -> dict[Any, Any]:
    """The one dictionary in a reply, with or without words around it.

    Raises:
        UnreadableReplyError: there is none, or there are several that differ: which one is meant cannot be known. Other
            braces are none of a verdict, either: weak models reply with programs.
    """
    # Models that think aloud end their thoughts with this mark, and may try out verdicts in them.
    answer = reply.rpartition("</think>")[2].strip()
    whole = _json_or_literal(answer)
    if isinstance(whole, dict) and whole:
        return whole
    pieces = re.findall(r"\{[^{}]*\}", answer)
    found = [value for value in map(_json_or_literal, pieces) if isinstance(value, dict) and value]
    if len(found) < max(answer.count("{"), answer.count("}")):
        raise UnreadableReplyError("the reply holds braces that are no dictionary")
    if not found:
        raise UnreadableReplyError("the reply holds no dictionary")
    if any(other != found[0] for other in found[1:]):
        raise UnreadableReplyError("the reply holds several dictionaries that differ")
    return found[0]


def _json_or_literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Judges that are shown {''score': 4.8} as an example repeat its two quotes.
        return _literal(re.sub(r"''(\w+)'{1,2}\s*:", r"'\1':", text))


# Yes or no


def _verdict(found: dict[Any, Any], text: JudgeText, rule: ParseRule) -> bool | None:
    if rule == "robust":
        return _robust_verdict(found, text)
    value = found.get(text.verdict_key, "no" if rule == "braces" else None)
    if rule in ("braces", "exact"):
        return value == "yes"
    if rule == "strict":
        if value not in ("yes", "no"):
            raise UnreadableReplyError(f"{text.verdict_key} is {value!r}, neither 'yes' nor 'no'")
        return value == "yes"
    # Video-ChatGPT looks for the words, yes first, and leaves it open when there is none of them.
    if not isinstance(value, str):
        return None
    return True if "yes" in value.lower() else False if "no" in value.lower() else None


def _robust_verdict(found: dict[Any, Any], text: JudgeText) -> bool:
    value = found.get(text.verdict_key, found.get("pred"))
    if isinstance(value, bool):
        return value
    word = value.strip().strip(".!").lower() if isinstance(value, str) else ""
    if word not in ("yes", "no"):
        raise UnreadableReplyError(f"{text.verdict_key} is {value!r}, neither yes nor no")
    return word == "yes"


# Numbers


def _score(value: Any, rule: ParseRule, text: JudgeText) -> float:
    if rule == "strict":
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UnreadableReplyError(f"the score is {value!r}, not a number")
        return value
    try:
        if rule == "robust":
            return _check_range(int(float(value) if isinstance(value, str) else _number(value)), text)
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise UnreadableReplyError(f"the score is {value!r}, which is no integer") from None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def _check_range(score: int, text: JudgeText) -> int:
    if not 0 <= score <= text.highest_score:
        raise UnreadableReplyError(f"the score is {score}, not one of 0 to {text.highest_score}")
    return score


def _bare_number(reply: str, text: JudgeText, rule: ParseRule) -> int:
    """A number without anything around it; the robust rule takes the only number in a sentence."""
    if rule != "robust":
        try:
            number = int(reply)
        except ValueError:
            raise UnreadableReplyError("the reply is no integer") from None
        return _check_range(number, text)
    numbers = set(re.findall(r"-?\d+(?:\.\d+)?", reply.rpartition("</think>")[2]))
    if len(numbers) != 1:
        raise UnreadableReplyError(f"the reply holds {len(numbers) or 'no'} numbers, not one")
    return _check_range(int(_score(numbers.pop(), "robust", text)), text)


# Letters


def _letter(reply: str, rule: ParseRule) -> str:
    """The letter of Video-Bench's matcher; strict rules take JSON alone, as the original does."""
    key = "maximum probability"
    if rule == "robust":
        found = _robust_dictionary(reply)
        match = re.match(r"\W*([A-Fa-f])(?!\w)", str(found.get(key, "")))
        letter = match[1].upper() if match else ""
    else:
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError):
            raise UnreadableReplyError("the reply is no JSON object") from None
        letter = found.get(key) if isinstance(found, dict) else None
    if not isinstance(letter, str) or len(letter) != 1 or letter not in _OPTIONS:
        raise UnreadableReplyError(f"the reply names none of the letters {_OPTIONS[0]} to {_OPTIONS[-1]} as {key!r}")
    return letter
