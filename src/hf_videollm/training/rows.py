"""Rows of datasets in the forms that people have, made into chats: `messages`, prompts with completions, LLaVA's turns.

Media are named in the messages, or stand in columns of their own (`videos`, `images`, `audios`). Then they belong, one
after the other, to the blocks of their type that name no source, or to tokens such as `<video>` in the texts. If there
are neither, they come first in the first question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.conversation import Turns
from ..data.reading import SUFFIXES
from ..data.rows import shown
from ..models.video_llm_messages import SOURCE_KEYS, without_none
from ..models.video_llm_option_names import did_you_mean, nearest

__all__ = ["MEDIA_COLUMNS", "TrainingRow", "check_answers", "check_parts", "read_row"]

# Type of a medium -> columns that hold it: several media of a row, or one.
MEDIA_COLUMNS = {"video": ("videos", "video"), "image": ("images", "image"), "audio": ("audios", "audio")}
# So similar to the name of a column of media is a name that was misspelt.
_NEAR = 0.8
# Names of speakers in LLaVA's form -> roles.
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class TrainingRow:
    """A chat to learn from.

    Attributes:
        messages: in the chat format of transformers; blocks of media name their sources.
        num_given_answers: so many answers at the beginning belong to the prompt, and are not learned.
    """

    messages: list[dict[str, Any]]
    num_given_answers: int = 0


def read_row(row: Mapping[str, Any], name: str) -> TrainingRow:
    """Make a chat of a row.

    Args:
        row: it has `messages`; or `prompt` and `completion`, both lists of messages; or `conversations`, a list of
            `{"from": "human" | "gpt" | "system", "value": text}`. Beside them it may have columns of media.
        name: of the row, for errors.

    Raises:
        ValueError: the row has none of these forms or several, or its media do not fit its messages.

    Example:
        >>> turns = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A dog."}]
        >>> chat = read_row({"messages": turns, "videos": ["a.mp4"]}, "row 0").messages
        >>> chat[0].get("content")
        [{'type': 'video', 'video': 'a.mp4'}, {'type': 'text', 'text': 'What?'}]
    """
    given = {key for key, value in row.items() if value is not None}
    _refuse_misspelt(given, name)
    forms = [form for form in ("messages", "prompt", "conversations") if form in given]
    if len(forms) != 1 or (("prompt" in given) != ("completion" in given)):
        found = ", ".join(sorted(given)) or "nothing"
        raise ValueError(
            f"{name} has {found}: give messages, or prompt and completion, or conversations in LLaVA's form, and only "
            "one of them."
        )
    if forms == ["prompt"]:
        prompt, completion = (_messages(row[key], f"{name}, {key}") for key in ("prompt", "completion"))
        if not any(message.get("role") == "assistant" for message in completion):
            raise ValueError(f"{name}: completion has no message of the assistant, so there is nothing to learn.")
        num_given = sum(message.get("role") == "assistant" for message in prompt)
        return TrainingRow(_with_media([*prompt, *completion], row, name), num_given)
    if forms == ["conversations"]:
        return TrainingRow(_with_media(_llava(row["conversations"], f"{name}, conversations"), row, name))
    return TrainingRow(_with_media(_messages(row["messages"], f"{name}, messages"), row, name))


def check_answers(messages: Sequence[Mapping[str, Any]], num_given: int, name: str) -> None:
    """Refuse a chat from which nothing can be learned.

    Args:
        messages: the chat.
        num_given: so many answers at its beginning are not learned.
        name: of the row, for errors.

    Raises:
        ValueError: there is no answer to learn, or a blank one.
    """
    places = [place for place, message in enumerate(messages) if message.get("role") == "assistant"][num_given:]
    if not places:
        raise ValueError(f"{name} has no answer (a message of the assistant), so there is nothing to learn: add one.")
    for place in places:
        texts = [text for block in _blocks(messages[place]) if isinstance(text := block.get("text"), str)]
        if not messages[place].get("tool_calls") and not "".join(texts).strip():
            raise ValueError(
                f"{name}: the answer in messages[{place}] is blank, so there is nothing to learn: write one, or leave "
                "the row out."
            )


def check_parts(messages: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse parts of media that end before they begin.

    Raises:
        ValueError: there is one; the message names the row and the message.
    """
    for place, message in enumerate(messages):
        for block in _blocks(message):
            start, end = (block.get(side) for side in ("start", "end"))
            for side, value in (("start", start), ("end", end)):
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise ValueError(f"{name}: {side} in messages[{place}] is {value!r}: give seconds, a number.")
            if end is not None and end <= (start or 0):
                raise ValueError(
                    f"{name}: in messages[{place}], end {end:g} is not behind start {start or 0:g}: correct them."
                )


def _refuse_misspelt(given: Iterable[str], name: str) -> None:
    """Refuse a column whose name is nearly that of a column of media, which would not be read."""
    columns = [column for pair in MEDIA_COLUMNS.values() for column in pair]
    for column in map(str, given):
        low = column.lower()
        # More facts may follow the name of one medium, as in video_id.
        is_more = any(low.startswith(one) for _, one in MEDIA_COLUMNS.values()) and low not in columns
        if column not in columns and not is_more and nearest(column, columns, _NEAR):
            raise ValueError(
                f"{name} has the column {column!r}, which is not read: {did_you_mean(column, columns)} Rename it."
            )


def _refuse_unread_media(row: Mapping[str, Any], name: str) -> None:
    """Refuse a row without media of which another column names a file of one."""
    for column, value in row.items():
        path = value.get("path") if isinstance(value, Mapping) else value
        path = path[0] if isinstance(path, list | tuple) and path else path
        if not isinstance(path, str) or "\n" in path:
            continue
        kind = next((kind for kind, endings in SUFFIXES.items() if path.lower().endswith(endings)), None)
        if kind is not None and column not in ("id", "source"):
            raise ValueError(
                f"{name} has no media, but the column {column!r} names {shown(path)}, which is not read: call it "
                f"{MEDIA_COLUMNS[kind][1]}, or take it out."
            )


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{where} must be a list of messages with role and content, not {shown(value)}.")
    return [
        without_none(message, f"{where} holds a {type(message).__name__}: give messages with role and content.")
        for message in value
    ]


def _llava(turns: Any, where: str) -> list[dict[str, Any]]:
    messages = []
    for number, turn in enumerate(_messages(turns, where)):
        speaker, text = turn.get("from"), turn.get("value")
        if speaker not in SPEAKERS or not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{where}[{number}] must have from (one of {', '.join(SPEAKERS)}) and value, a text, not {shown(turn)}."
            )
        messages.append({"role": SPEAKERS[speaker], "content": text})
    return messages


def _with_media(messages: list[dict[str, Any]], row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The messages with the media of the columns in them."""
    media = {kind: _column(row, kind, name) for kind in MEDIA_COLUMNS}
    if not any(media.values()):
        if not any(_num_blocks(messages, kind) for kind in MEDIA_COLUMNS):
            _refuse_unread_media(row, name)
        return messages
    bare = {kind: _num_bare(messages, kind) for kind in media}
    counts = {kind: len(entries) for kind, entries in media.items()}
    if any(bare.values()):
        # A sound block without a source means the sound of the video before it, unless there are sounds.
        if any(counts[kind] != bare[kind] for kind in media if counts[kind] or kind != "audio"):
            raise ValueError(f"{name}: {_unlike(bare, counts, 'blocks without a source')}")
        return [_filled(message, media) for message in messages]
    # Some data sets write <image> for their videos.
    alias = {"image": "video"} if media["video"] and not media["image"] else {}
    blocks = {kind: [_block(kind, entry) for entry in entries] for kind, entries in media.items()}
    turns = Turns(blocks, alias)
    split = [_split(message, turns, name) for message in messages]
    if turns.has_tokens:
        if left := turns.rest():
            raise ValueError(
                f"{name}: its texts have tokens for some of its media, but none for {len(left)} of type "
                f"{left[0]['type']}: their numbers must be the same."
            )
        return split
    if sourced := [kind for kind in media if media[kind] and _num_blocks(messages, kind)]:
        raise ValueError(
            f"{name} has media of type {sourced[0]} twice, in its messages and in a column: leave one of them out."
        )
    first = next((number for number, message in enumerate(messages) if message.get("role") == "user"), None)
    if first is None:
        raise ValueError(f"{name} has media, but no message of a user in which they could stand.")
    message = messages[first]
    return [*messages[:first], {**message, "content": [*turns.rest(), *_blocks(message)]}, *messages[first + 1 :]]


def _column(row: Mapping[str, Any], kind: str, name: str) -> list[Any]:
    """The media of a type, in their order."""
    several, one = MEDIA_COLUMNS[kind]
    if row.get(several) is not None and row.get(one) is not None:
        raise ValueError(f"{name} has both {several} and {one}: leave one of them out.")
    if row.get(one) is not None:
        return [row[one]]
    value = row.get(several)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: {several} must be a list of media, not {shown(value)}. One medium belongs in {one}.")
    if None in [entry if entry is None else 0 for entry in value]:
        raise ValueError(f"{name}: {several} holds an empty entry: name the {kind}, or leave it out.")
    return list(value)


def _blocks(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, list | tuple) else []


def _is_bare(block: Any, kind: str) -> bool:
    if not isinstance(block, Mapping) or block.get("type") != kind:
        return False
    return all(block.get(key) is None for key in SOURCE_KEYS[kind])


def _num_bare(messages: Sequence[Mapping[str, Any]], kind: str) -> int:
    return sum(_is_bare(block, kind) for message in messages for block in _blocks(message))


def _num_blocks(messages: Sequence[Mapping[str, Any]], kind: str) -> int:
    blocks = (block for message in messages for block in _blocks(message))
    return sum(isinstance(block, Mapping) and block.get("type") == kind for block in blocks)


def _filled(message: Mapping[str, Any], media: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A message whose blocks without a source have taken the next media; `media` gets shorter."""

    def fill(block: Any) -> Any:
        kind = next((kind for kind in media if media[kind] and _is_bare(block, kind)), None)
        # Options of the block, such as the start of a video, stay with it.
        return block if kind is None else {**without_none(block, ""), **_block(kind, media[kind].pop(0))}

    return {**message, "content": [fill(block) for block in _blocks(message)]}


def _split(message: Mapping[str, Any], turns: Turns, name: str) -> dict[str, Any]:
    """A message of the user whose tokens have become blocks with the next media."""
    if message.get("role") != "user":
        return dict(message)
    content: list[Any] = []
    for block in _blocks(message):
        is_text = isinstance(block, Mapping) and isinstance(block.get("text"), str)
        content += turns.content(block["text"], name) if is_text else [block]
    return {**message, "content": content}


def _block(kind: str, source: Any) -> dict[str, Any]:
    return {"type": kind, kind: source}


def _unlike(found: Mapping[str, int], counts: Mapping[str, int], what: str) -> str:
    kind = next(kind for kind in MEDIA_COLUMNS if found[kind] != counts[kind])
    return (
        f"there are {found[kind]} {what} of type {kind}, but {counts[kind]} media of this type in the columns "
        f"{' or '.join(MEDIA_COLUMNS[kind])}: their numbers must be the same."
    )
