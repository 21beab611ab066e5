"""Which option does an answer to a multiple-choice question name, and is it the right one?

`robust` is the package's own rule (`choice_robust.py`). The others are those of the papers' evaluations, with their
faults (`choice_papers.py`). An answer that the rule cannot read is wrong, unless a fallback is asked for by name. What
a fallback decides is counted apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..models.video_llm_option_names import did_you_mean
from . import choice_papers as papers
from .choice_robust import FAILURES, Choice, robust_choice
from .prompting import letter_of

__all__ = [
    "CHOICE_RULES",
    "FAILURES",
    "FALLBACKS",
    "Choice",
    "ChoiceRule",
    "fall_back",
    "letter_of",
    "parse_choice",
    "score_choice",
]


@dataclass(frozen=True)
class ChoiceRule:
    """A rule: it either reads an option, or says of each option whether the answer agrees with it.

    Attributes:
        source: whose rule it is, and for which benchmark.
        read: answer and options -> choice.
        matches: answer, options and the number of one of them -> whether they agree.
        published_fallback: the fallback that the published numbers were counted with.
    """

    source: str
    read: papers.Read | None = None
    matches: papers.Match | None = None
    published_fallback: str = "none"

    def choice(self, name: str, text: str, options: Sequence[str]) -> Choice:
        """The option that the answer names. One that agrees with several names none, but is no failure."""
        if self.read is not None:
            return self.read(text, options)
        assert self.matches is not None
        agreeing = [index for index in range(len(options)) if self.matches(text, options, index)]
        if not agreeing:
            return Choice(None, name, "no_match")
        return Choice(agreeing[0], name) if len(agreeing) == 1 else Choice(None, f"{name}:several")

    def is_correct(self, choice: Choice, text: str, options: Sequence[str], reference: int) -> bool:
        """Whether the answer is right by this rule; by the fallback's option where the answer could not be read."""
        if self.matches is not None and choice.parsed:
            return self.matches(text, options, reference)
        return choice.index == reference


CHOICE_RULES: dict[str, ChoiceRule] = {
    "robust": ChoiceRule("hf_videollm", read=robust_choice),
    "pllava": ChoiceRule("PLLaVA, MVBench", matches=papers.pllava),
    "videollama2": ChoiceRule("VideoLLaMA2, MVBench", read=papers.videollama2, published_fallback="third"),
    "videollama2_videomme": ChoiceRule(
        "VideoLLaMA2, Video-MME", read=papers.videollama2_videomme, published_fallback="third"
    ),
    "videollama2_egoschema": ChoiceRule(
        "VideoLLaMA2, EgoSchema", read=papers.videollama2_egoschema, published_fallback="third"
    ),
    "videollama2_perception_test": ChoiceRule(
        "VideoLLaMA2, Perception-Test", read=papers.videollama2_perception_test, published_fallback="third"
    ),
    "videollama2_av": ChoiceRule("VideoLLaMA2, TUT2017 and VocalSound", matches=papers.videollama2_av),
    "linvt_mvbench": ChoiceRule("LinVT and VideoChat2, MVBench", matches=papers.linvt_mvbench),
    "linvt_videovista": ChoiceRule("LinVT, VideoVista", matches=papers.linvt_videovista),
    "lmms_eval": ChoiceRule("lmms-eval, MVBench", read=papers.lmms_eval),
    "official_videomme": ChoiceRule("Video-MME's own scorer", read=papers.official_videomme),
    "videovista_official": ChoiceRule("VideoVista's own scorer", read=papers.videovista_official),
}


def _random(num_options: int, seed: int, key: str) -> int:
    if not key:
        raise ValueError(
            "fallback='random' needs `key`, the id of the item: without it, all items draw the same option."
        )
    return random.Random(f"{seed}:{key}").randrange(num_options)


# Fallback -> the option it takes: (number of options, seed, key) -> index.
FALLBACKS: dict[str, Callable[[int, int, str], int | None]] = {
    "none": lambda num_options, seed, key: None,
    "random": _random,
    # VideoLLaMA2's "C"; there is no such option among two.
    "third": lambda num_options, seed, key: 2 if num_options > 2 else None,
    "first": lambda num_options, seed, key: 0,
    "last": lambda num_options, seed, key: num_options - 1,
}


def parse_choice(
    text: str,
    options: Sequence[str],
    rule: str = "robust",
    fallback: str = "none",
    seed: int = 0,
    key: str = "",
) -> Choice:
    """The option that an answer names.

    Args:
        text: what the model wrote.
        options: texts of the options, without letters; the first has the letter A.
        rule: key of `CHOICE_RULES`.
        fallback: key of `FALLBACKS`; what to take when the rule cannot read the answer. The choice then has the rule
            `fallback:<name>` and keeps its `failure`.
        seed: of the random fallback.
        key: id of the item, from which the random fallback draws; the order of the items plays no part.

    Raises:
        ValueError: no such rule or fallback, fewer than one or more than 26 options, or a random fallback without key.
        TypeError: the answer is not a text.

    Example:
        >>> parse_choice("The answer is (B) a man", ["a dog", "a man"])
        Choice(index=1, rule='letter_and_text', failure='')
        >>> parse_choice("I cannot tell.", ["a dog", "a man", "a cat"], fallback="third")
        Choice(index=2, rule='fallback:third', failure='no_match')
    """
    if fallback not in FALLBACKS:
        raise ValueError(f"There is no fallback {fallback!r}: {did_you_mean(fallback, FALLBACKS)}")
    choice = _rule(rule).choice(rule, _checked(text, options), options)
    if not choice.parsed and not text.strip():
        choice = replace(choice, failure="empty")
    return choice if choice.parsed else fall_back(choice, len(options), fallback, seed, key)


def fall_back(choice: Choice, num_options: int, fallback: str, seed: int = 0, key: str = "") -> Choice:
    """What stands in for a choice that failed. The arguments are those of `parse_choice`."""
    if fallback == "none":
        return choice
    return Choice(FALLBACKS[fallback](num_options, seed, key), f"fallback:{fallback}", choice.failure)


def score_choice(
    text: str,
    options: Sequence[str],
    reference: int,
    rule: str = "robust",
    fallback: str = "none",
    seed: int = 0,
    key: str = "",
) -> tuple[Choice, bool]:
    """The option that an answer names, and whether it is right by that rule.

    Some of the papers' rules compare with the right option only, and let an answer that agrees with several of them
    count as right; comparing `parse_choice(...).index` would not.

    Args:
        reference: number of the right option, counted from 0.

    Raises:
        ValueError: as `parse_choice`, or no option has the number of the reference.

    Example:
        >>> score_choice("(A)/(B)", ["a dog", "a man"], 1, rule="pllava")
        (Choice(index=None, rule='pllava:several', failure=''), True)
    """
    if not 0 <= reference < len(options):
        raise ValueError(f"The right option has the number {reference}, but there are {len(options)} options.")
    choice = parse_choice(text, options, rule, fallback, seed, key)
    return choice, _rule(rule).is_correct(choice, text, options, reference)


def _rule(name: str) -> ChoiceRule:
    if name not in CHOICE_RULES:
        raise ValueError(f"There is no rule {name!r} for multiple choice: {did_you_mean(name, CHOICE_RULES)}")
    return CHOICE_RULES[name]


def _checked(text: str, options: Sequence[str]) -> str:
    if not isinstance(text, str):
        raise TypeError(f"An answer is a text, not {type(text).__name__}.")
    if isinstance(options, str) or not 1 <= len(options) <= 26:
        raise ValueError(f"A choice has 1 to 26 options, given as a list of texts, not {options!r}.")
    return text
