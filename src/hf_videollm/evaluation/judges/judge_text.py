"""A judge text: the messages that a judge gets, with places for question, right answer and prediction.

The texts themselves are in `texts_*.py`, and `texts.py` lists them by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["ChatMessage", "JudgeText", "ReplyForm", "Value"]

Value = str | Sequence[str]
# What the judge is asked to reply with:
#   verdict      a dictionary with yes or no, and a score
#   score        a dictionary with a score
#   first_value  a dictionary whose first value is the score, whatever its key is
#   number       a bare number
#   letter       a JSON object with the letter of an option
ReplyForm = Literal["verdict", "score", "first_value", "number", "letter"]


class ChatMessage(TypedDict):
    """One message of a chat: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class JudgeText:
    r"""The messages of one judge, byte for byte as the evaluation that it comes from sends them.

    Attributes:
        name: name in `texts.TEXTS`.
        messages: pairs of role and template. `{name}` is replaced by the value of a field, `{name!r}` by its Python
            representation. All other braces are text.
        fields: names of the values that the text needs.
        reply: what the judge is asked to reply with.
        predictions: those fields that hold what the judged model answered.
        verdict_key: key of yes or no in the reply, for the form `verdict`.
        highest_score: the largest score that the text allows; the smallest is 0.
        zero_when_empty: an empty prediction has the score 0, and the judge is not asked.

    Example:
        >>> text = JudgeText("x", (("user", "{question} Reply {'score': 1}."),), ("question",), "score")
        >>> text.render(question="Is {answer} right?")
        [{'role': 'user', 'content': "Is {answer} right? Reply {'score': 1}."}]
    """

    name: str
    messages: tuple[tuple[str, str], ...]
    fields: tuple[str, ...]
    reply: ReplyForm
    predictions: tuple[str, ...] = ("pred",)
    verdict_key: str = "pred"
    highest_score: int = 5
    zero_when_empty: bool = False

    def check(self, values: Mapping[str, Value], where: str = "") -> None:
        """Checks that every field has a value of the right type, and that there are no other values.

        Args:
            values: the values by the names of the fields.
            where: begins the message of an error, e.g. the id of the item.

        Raises:
            ValueError: a field has no value, or a value belongs to no field.
            TypeError: a value has the wrong type.
        """
        for name in values:
            if name not in self.fields:
                raise ValueError(f"{where}judge text {self.name} has no field {name!r}: {self._hint(name)}")
        for name in self.fields:
            if name not in values:
                raise ValueError(f"{where}judge text {self.name} needs the field {name!r}; give it a text.")
            _check_value(values[name], f"{where}field {name!r} of judge text {self.name}", self._takes_a_list(name))

    def render(self, **values: Value) -> list[ChatMessage]:
        """The messages with the values in their places.

        All places are filled in one pass, so that braces inside a value stay as they are.

        Args:
            values: one text for each of `fields`; a list of texts where the template has `{name!r}`.

        Raises:
            ValueError: a field has no value, or a value belongs to no field.
            TypeError: a value has the wrong type.
        """
        self.check(values)
        place = re.compile(rf"\{{({'|'.join(map(re.escape, self.fields))})(!r)?\}}")

        def fill(match: re.Match[str]) -> str:
            value = values[match[1]]
            return repr(value if isinstance(value, str) else list(value)) if match[2] else str(value)

        return [{"role": role, "content": place.sub(fill, template)} for role, template in self.messages]

    def _takes_a_list(self, name: str) -> bool:
        return any(f"{{{name}!r}}" in template for _, template in self.messages)

    def _hint(self, name: str) -> str:
        from ...models.video_llm_option_names import did_you_mean  # loads transformers

        return did_you_mean(name, self.fields)


def _check_value(value: object, place: str, may_be_list: bool) -> None:
    if isinstance(value, str):
        return
    is_list = isinstance(value, Sequence) and all(isinstance(entry, str) for entry in value)
    if not (is_list and may_be_list):
        wanted = "a text or a list of texts" if may_be_list else "a text"
        raise TypeError(f"{place} must be {wanted}, not {type(value).__name__}.")
