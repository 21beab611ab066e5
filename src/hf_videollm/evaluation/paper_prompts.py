"""The prompts of the papers as rules of a task: the texts of `prompts_pllava.py` and `prompts_videollama2.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .items import Item
from .prompting import Prompt, PromptRule
from .prompts import to_chat_template
from .prompts_pllava import SETTINGS, Benchmark, ModelSize, mvbench_query, prompt_style
from .prompts_videollama2 import GENERATION, instruction

__all__ = ["greedy", "pllava_rules", "videollama2_rule"]


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Options of `generate` for the likeliest answer of so many tokens."""
    return {"do_sample": False, "max_new_tokens": max_new_tokens}


def pllava_rules(benchmark: Benchmark) -> dict[str, PromptRule]:
    """How PLLaVA asks: "pllava" for the 7b and 13b models, "pllava_34b" for the 34b model.

    The chat template puts the paper's texts around the question, so the text of the prompt is the bare question; with
    options, question and options in MVBench's form.

    Args:
        benchmark: key of `prompts_pllava.SETTINGS`.

    Example:
        >>> sorted(pllava_rules("videoqabench"))
        ['pllava', 'pllava_34b']
    """
    return {"pllava": _pllava_rule(benchmark, "7b"), "pllava_34b": _pllava_rule(benchmark, "34b")}


def _pllava_rule(benchmark: Benchmark, size: ModelSize) -> PromptRule:
    style, settings = prompt_style(benchmark, size), SETTINGS[benchmark]
    template = to_chat_template(style)

    def rule(item: Item, question: str) -> Prompt:
        return Prompt(
            mvbench_query(question, item.options) if item.options else question,
            chat_template=template,
            answer_prefix=style.answer_prefix,
            return_prefix=settings.return_prefix,
            stop=settings.stop_keywords,
            generate_kwargs=settings.generation_kwargs(),
        )

    return rule


def videollama2_rule(benchmark: str, generate_kwargs: Mapping[str, Any] | None = None) -> PromptRule:
    """How VideoLLaMA2 asks, with the options of an item that has some; the checkpoint's chat template does the rest.

    Args:
        benchmark: name that `prompts_videollama2.instruction` knows.
        generate_kwargs: options of `generate` other than those of the released code.

    Example:
        >>> from pathlib import Path
        >>> from hf_videollm.evaluation.items import Item, Medium
        >>> item = Item("1", (Medium(Path("a.wav"), "audio"),), ("Does it rain?",))
        >>> videollama2_rule("clotho_aqa")(item, item.question).text
        'Question: Does it rain?\\nAnswer the question using a single word.'
    """
    options = GENERATION if generate_kwargs is None else generate_kwargs

    def rule(item: Item, question: str) -> Prompt:
        return Prompt(instruction(benchmark, question, item.options), generate_kwargs=options)

    return rule
