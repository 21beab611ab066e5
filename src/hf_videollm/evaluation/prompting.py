"""A question of a benchmark as a paper asks it: the text, the chat template, and how the answer is generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .items import Item

__all__ = ["LETTER_DIRECTLY", "Prompt", "PromptRule", "letter_of", "lettered", "raw_question"]

LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Prompt:
    """What is put to the model for one question of an item.

    Attributes:
        text: the text behind the media in the user's turn.
        system: a system message; the chat template's own when None.
        chat_template: Jinja template that takes the place of the processor's; the processor's own when None.
        answer_prefix: beginning of the answer, which the model continues. A `chat_template` of this prompt ends with
            it; behind the processor's own template, it is the text that the assistant's turn begins with.
        return_prefix: put before the generated text, because the answer prefix has taken it from the model
            (MVBench's `(`).
        stop: texts at which a generated answer is cut off.
        generate_kwargs: options of `model.generate`; a greedy answer of `max_new_tokens` where the style says no more.
    """

    text: str
    system: str | None = None
    chat_template: str | None = None
    answer_prefix: str = ""
    return_prefix: str = ""
    stop: tuple[str, ...] = ()
    generate_kwargs: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False, "max_new_tokens": 128})

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """The prompt as chat messages: the media of the item, the text, and the beginning of the answer, if any."""
        content = [medium.to_block() for medium in item.media]
        if self.text:
            content.append({"type": "text", "text": self.text})
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        if self.begins_answer:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": self.answer_prefix}]})
        return turns

    @property
    def begins_answer(self) -> bool:
        """Whether `messages` end with an assistant's turn that the model continues."""
        return bool(self.answer_prefix) and self.chat_template is None


# Item and one of its questions -> prompt.
PromptRule = Callable[[Item, str], Prompt]


def raw_question(item: Item, question: str) -> Prompt:
    """The bare question, and below it the options with letters where there are some."""
    text = question
    if item.options:
        text = "\n".join([question, *lettered(item.options), LETTER_DIRECTLY])
    return Prompt(text)


def letter_of(index: int) -> str:
    """The letter of an option: A for 0."""
    return chr(ord("A") + index)


def lettered(options: Sequence[str], form: str = "({letter}) {option}") -> list[str]:
    """Options with their letters.

    Example:
        >>> lettered(["a man", "a dog"])
        ['(A) a man', '(B) a dog']
    """
    return [form.format(letter=letter_of(index), option=option) for index, option in enumerate(options)]
