"""How multiple-choice questions are asked by several benchmarks alike; what only one asks stands in its task."""

from __future__ import annotations

from typing import Any

from .items import Item
from .paper_prompts import greedy
from .prompting import LETTER_DIRECTLY, Prompt, PromptRule, lettered
from .prompts_pllava import mvbench_query

__all__ = ["BEST_OPTION", "LINVT_GENERATION", "bare_question", "letters_rule", "linvt_block", "linvt_mvbench"]

BEST_OPTION = "Only give the best option."

# LinVT's scripts (gls0425/LinVT @ 22485e0) generate with these; beams and temperature are off.
LINVT_GENERATION: dict[str, Any] = {**greedy(1000), "min_new_tokens": 1}


def bare_question(item: Item, question: str) -> Prompt:
    """The question without its options. The answer names one of them by its words; or the options are ranked."""
    return Prompt(question)


def letters_rule(suffix: str = LETTER_DIRECTLY, max_new_tokens: int = 16) -> PromptRule:
    r"""The question, a line for each option such as "A. a dog", and a last line: most tasks of lmms-eval.

    Args:
        suffix: the last line.
        max_new_tokens: of the answer.

    Example:
        >>> from pathlib import Path
        >>> from hf_videollm.evaluation.items import Medium
        >>> item = Item("1", (Medium(Path("a.mp4")),), ("Who left?",), ("a dog", "a man"))
        >>> letters_rule("Which one?")(item, item.question).text
        'Who left?\nA. a dog\nB. a man\nWhich one?'
    """

    def rule(item: Item, question: str) -> Prompt:
        lines = [question.strip(), *lettered([option.strip() for option in item.options], "{letter}. {option}"), suffix]
        return Prompt("\n".join(lines), generate_kwargs=greedy(max_new_tokens))

    return rule


_WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


def linvt_mvbench(item: Item, question: str) -> Prompt:
    """LinVT's template of MVBench, with which it also asks MLVU."""
    # Two line breaks: one ends the text, one joins it to the question.
    text = f"{_WATCH}\n{mvbench_query(question, item.options)}\n{BEST_OPTION}"
    return Prompt(text, generate_kwargs=LINVT_GENERATION)


def linvt_block(item: Item, question: str) -> Prompt:
    """The question of MVBench's form without a word around it, as LinVT's released script asks MLVU."""
    return Prompt(mvbench_query(question, item.options), generate_kwargs=LINVT_GENERATION)
