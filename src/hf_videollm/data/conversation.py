"""Makes messages of texts in which tokens such as `<video>` stand for media, and such texts of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .parsed_files import DataError
from .rows import Row

__all__ = [
    "Turns",
    "answer_of",
    "assistant",
    "begins_with_answer",
    "lines_of",
    "media_first",
    "question_of",
    "read_turns",
    "text",
    "user",
    "written_turns",
]

_TOKEN = re.compile(r"<(image|video|audio)>")
_SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}
_NAMES = {role: name for name, role in _SPEAKERS.items()}


def text(value: str) -> dict[str, Any]:
    """A block of text; blanks around it are cut."""
    return {"type": "text", "text": value.strip()}


def user(*blocks: Mapping[str, Any] | str) -> dict[str, Any]:
    """A turn of the user, of media and texts. Blank texts are left out."""
    content = [text(block) if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": [block for block in content if block["type"] != "text" or block["text"]]}


def assistant(answer: str) -> dict[str, Any]:
    """A turn of the assistant."""
    return {"role": "assistant", "content": [text(answer)]}


def begins_with_answer(row: Row) -> bool:
    """Whether the first turn of `conversations` is that of the assistant, to which nobody has asked anything."""
    turns = row.values.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(first, Mapping) and first.get("from") == "gpt"


def lines_of(message: Mapping[str, Any]) -> str:
    """The texts of a message, one below the other."""
    return "\n".join(block["text"] for block in message["content"] if block["type"] == "text")


def question_of(record: Mapping[str, Any]) -> str:
    """The texts of the first turn of the user."""
    return next(lines_of(message) for message in record["messages"] if message["role"] == "user")


def answer_of(record: Mapping[str, Any]) -> str:
    """The text of the last turn."""
    return lines_of(record["messages"][-1])


class Turns:
    """The media of one row, which the tokens of its texts take one after the other.

    Args:
        media: type -> blocks.
        aliases: type of a token -> type of the medium that it means.
    """

    def __init__(self, media: Mapping[str, Sequence[Mapping[str, Any]]], aliases: Mapping[str, str]) -> None:
        self.left = {kind: list(blocks) for kind, blocks in media.items()}
        self.aliases = aliases
        self.has_tokens = False

    def content(self, value: str, where: str) -> list[Mapping[str, Any]]:
        """The blocks of a text with tokens.

        Raises:
            DataError: a token has no medium.
        """
        blocks: list[Mapping[str, Any]] = []
        # `split` with one group gives a text, a type, a text, a type, ..., a text.
        for number, part in enumerate(_TOKEN.split(value)):
            if number % 2 == 0:
                blocks += [text(part)] if part.strip() else []
                continue
            self.has_tokens = True
            kind = self.aliases.get(part, part)
            if not self.left.get(kind):
                raise DataError(
                    f"{where} has more <{part}> than the row has media of this type: add it or cut the token."
                )
            blocks.append(self.left[kind].pop(0))
        return blocks

    def rest(self) -> list[Mapping[str, Any]]:
        """The media that no token has taken."""
        return [block for blocks in self.left.values() for block in blocks]


def read_turns(row: Row, media: Turns, replace: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The messages of `conversations`, a list of `{"from": "human" | "gpt" | "system", "value": text}`.

    Args:
        row: the row with this field.
        media: its media.
        replace: texts -> texts that take their place, such as marks of times.

    Raises:
        DataError: a turn has a wrong form, is blank, or speaks out of turn; tokens and media do not fit each other.
    """
    messages: list[dict[str, Any]] = []
    for part in row.parts("conversations", "from and value", "at least a question and its answer"):
        where = part.where
        if (name := part.get("from")) not in _SPEAKERS:
            raise DataError(f"{where}: from is {name!r}, which is none of {', '.join(_SPEAKERS)}.")
        value = part.get("value", str, "")
        for old, new in (replace or {}).items():
            value = value.replace(old, new)
        role = _SPEAKERS[name]
        content = media.content(value, f"{where}: value") if role == "user" else [text(value)]
        messages.append({"role": role, "content": content})
    _add_rest(messages, media, row.where)
    for number, message in enumerate(messages):
        if not message["content"] or message["content"] == [text("")]:
            raise DataError(f"{row.where}, conversations[{number}]: value is blank: write one, or leave the turn out.")
    return messages


def _add_rest(messages: Sequence[dict[str, Any]], media: Turns, where: str) -> None:
    if not (rest := media.rest()):
        return
    if media.has_tokens:
        raise DataError(
            f"{where}: conversations has no token for {rest[0]['path']!r}, but tokens for other media: add the token."
        )
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is None:
        raise DataError(f"{where}: conversations has no turn of a human, who would show the {rest[0]['type']}.")
    first["content"] = [*rest, *first["content"]]


def media_first(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose media stand before the texts of their turn."""
    return [
        {**message, "content": sorted(message["content"], key=lambda block: block["type"] == "text")}
        for message in messages
    ]


def written_turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The messages in the form that `read_turns` reads."""
    return [
        {
            "from": _NAMES[message["role"]],
            "value": "\n".join(
                block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in message["content"]
            ),
        }
        for message in messages
    ]
