"""Converts messages with media from several formats into one common format, and refuses what it does not know.

In the common format, a block is `{"type": "text", "text": ...}`, or it is one medium: `{"type": "video", "path": ...}`.
Instead of `path` it may have `url`, or `video` with frames or bytes. Blocks of type `image` and `audio` work likewise.
Blocks in OpenAI's format (`image_url`, `video_url`, `audio_url`, `input_audio`) are converted. A block of a video may
also hold options for this video, such as `start`; Qwen's names of these options are accepted, too.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .video_llm_option_names import did_you_mean

SOURCE_KEYS = {
    "image": ("image", "url", "path", "base64"),
    "video": ("video", "url", "path"),
    "audio": ("audio", "url", "path"),
}
# Maps OpenAI's types of blocks to the types of this package.
FOREIGN_TYPES = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}
BLOCK_TYPES = ("text", *SOURCE_KEYS, *FOREIGN_TYPES)
# Maps the names of options in qwen-vl-utils to the names of this package.
OTHER_NAMES = {"video_start": "start", "video_end": "end", "nframes": "num_frames"}
# End of errors about placeholders without media. The trainers of TRL hand no videos on.
TRAINERS_HINT = (
    " To train with TRL, make the trainer by hf_videollm.make_trainer, make_dpo_trainer or make_grpo_trainer."
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Keys that a message may have. All but the first two are for models that call tools or write down their thoughts.
MESSAGE_KEYS = (
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning",
    "reasoning_content",
    "thinking",
)


@dataclass(frozen=True)
class BlockRules:
    """What a processor accepts in messages.

    Args:
        options: maps the type of a block to the names of the options that it may have.
        call_options: names of options that must be passed to the call, and that a block may not have.
        template: text of the chat template. Roles, types and keys that occur in it are accepted.
    """

    options: Mapping[str, Collection[str]]
    call_options: Collection[str] = ()
    template: str = ""

    def template_says(self, word: str) -> bool:
        """Whether a role, or a type of a block, occurs in the chat template in quotes."""
        return f"'{word}'" in self.template or f'"{word}"' in self.template

    def template_reads(self, key: str) -> bool:
        """Whether the chat template reads this key of a message."""
        pattern = rf"\b(?:message|msg|m)(?:\.|\[['\"]|\.get\(['\"]){re.escape(key)}\b"
        return re.search(pattern, self.template) is not None


def read_chats(conversation: Any, rules: BlockRules) -> tuple[list[list[dict[str, Any]]], bool]:
    """Convert one or several conversations into the common format, without changing the argument.

    Args:
        conversation: a list of messages, or a list of such lists.
        rules: what the processor accepts in messages.

    Returns:
        Converted copies of the messages, one list per conversation (blocks of videos still hold their options); and
        whether the argument was a list of conversations.

    Raises:
        ValueError: something is empty, or a type, role or key is unknown; the message names the place in the input.
    """
    conversation = getattr(conversation, "messages", conversation)
    _refuse_no_list(conversation, "The conversation")
    if not conversation:
        raise ValueError("The conversation is empty: give a list of messages with 'role' and 'content'.")
    is_batched = isinstance(conversation[0], list | tuple) or hasattr(conversation[0], "messages")
    if not is_batched:
        return [_messages(conversation, rules, "")], False
    return [_messages(chat, rules, f"conversation {index}, ") for index, chat in enumerate(conversation)], True


def take_video_options(
    chats: Sequence[Sequence[Mapping[str, Any]]], names: Collection[str]
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]] | None]:
    """Separate the options of videos from the messages.

    Args:
        chats: the conversations of `read_chats`.
        names: names of the options.

    Returns:
        The messages without these options; and the options of each video, in the order in which the videos occur, or
        `None` if no video has any.
    """
    video_options: list[dict[str, Any]] = []

    def bare(block: Mapping[str, Any]) -> dict[str, Any]:
        if block["type"] != "video":
            return dict(block)
        video_options.append({name: value for name, value in block.items() if name in names})
        return {name: value for name, value in block.items() if name not in names}

    stripped = [
        [
            {**message, "content": [bare(block) for block in message["content"]]}
            if isinstance(message.get("content"), list)
            else dict(message)
            for message in chat
        ]
        for chat in chats
    ]
    return stripped, video_options if any(video_options) else None


def media_blocks(chats: Sequence[Sequence[Mapping[str, Any]]], kind: str) -> Iterator[Mapping[str, Any]]:
    """The blocks of one type, `"image"`, `"video"` or `"audio"`, in the order in which they occur."""
    for chat in chats:
        for message in chat:
            content = message.get("content")
            for block in content if isinstance(content, list | tuple) else ():
                if block["type"] == kind:
                    yield block


def source_of(block: Mapping[str, Any]) -> Any:
    """The path, address or data of the medium in a converted block; `None` if the block has none."""
    return next((block[key] for key in SOURCE_KEYS[block["type"]] if key in block), None)


def _refuse_no_list(chat: Any, name: str) -> None:
    """Raise an error if `chat` is not a list of messages, but for example a single message."""
    if isinstance(chat, Mapping) or callable(getattr(chat, "model_dump", None)):
        raise ValueError(f"{name} is one message, but must be a list of messages: pass [message].")
    if isinstance(chat, str):
        raise ValueError(f"{name} is a string, but must be a list: pass [{{'role': 'user', 'content': ...}}].")
    if not isinstance(chat, list | tuple):
        raise ValueError(f"{name} is a {type(chat).__name__}: give a list of messages with 'role' and 'content'.")


def _messages(chat: Any, rules: BlockRules, where: str) -> list[dict[str, Any]]:
    messages = getattr(chat, "messages", chat)
    _refuse_no_list(messages, where.removesuffix(", ").capitalize())
    if not messages:
        raise ValueError(f"{where}there are no messages: give a list of them, with 'role' and 'content'.")
    return [_message(message, rules, f"{where}message {index}") for index, message in enumerate(messages)]


def _message(item: Any, rules: BlockRules, where: str) -> dict[str, Any]:
    message = without_none(item, f"{where} is a {type(item).__name__}: give {{'role': ..., 'content': ...}}.")
    for key in message:
        if key not in MESSAGE_KEYS and not rules.template_reads(key):
            raise ValueError(f"{where} has the unknown key {key!r}: {did_you_mean(key, MESSAGE_KEYS)}")
    role = message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"{where} has no role: give one of {', '.join(ROLES)}.")
    if role not in ROLES and not rules.template_says(role):
        raise ValueError(f"{where} has the unknown role {role!r}: {did_you_mean(role, ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return message
    if not content and "tool_calls" in message:
        return message
    if not isinstance(content, list | tuple) or not content:
        raise ValueError(f"{where} has no content: give a string, or a list of blocks that is not empty.")
    message["content"] = [_block(block, rules, f"{where}, block {index}") for index, block in enumerate(content)]
    return message


def _block(item: Any, rules: BlockRules, where: str) -> dict[str, Any]:
    block = without_none(item, f"{where} is a {type(item).__name__}: give {{'type': 'text', 'text': ...}} or a medium.")
    kind = block.get("type")
    if kind not in BLOCK_TYPES:
        if isinstance(kind, str) and rules.template_says(kind):
            return block
        if kind is None:
            raise ValueError(f"{where} has no type: give one of {', '.join(BLOCK_TYPES)}.")
        raise ValueError(f"{where} has the unknown type {kind!r}: {did_you_mean(kind, BLOCK_TYPES)}")
    if kind in FOREIGN_TYPES:
        block = _as_ours(block, where)
    if block["type"] == "text":
        _refuse_keys(block, {"type", "text"}, "text", where, rules)
        if not isinstance(block.get("text"), str):
            raise ValueError(f"{where} is a text block without a string as its text.")
        return block
    return _medium(block, rules, where)


def _medium(block: dict[str, Any], rules: BlockRules, where: str) -> dict[str, Any]:
    """Check a block of one medium, and rename Qwen's options. It may have one source (path, address or data)."""
    kind = block["type"]
    options = rules.options.get(kind, ())
    renamed: dict[str, Any] = {}
    for key, value in block.items():
        name = OTHER_NAMES.get(key, key) if OTHER_NAMES.get(key) in options else key
        if name in renamed:
            raise ValueError(f"{where} says {name} twice, the second time under the name {key!r}: leave one out.")
        renamed[name] = value
    known = {"type", *SOURCE_KEYS[kind], *options}
    _refuse_keys(renamed, known, kind, where, rules)
    sources = [key for key in SOURCE_KEYS[kind] if key in renamed]
    if len(sources) > 1:
        raise ValueError(f"{where} names its {kind} twice, by {' and by '.join(sources)}: leave one out.")
    if sources and isinstance(renamed[sources[0]], list | tuple | str | bytes) and not renamed[sources[0]]:
        raise ValueError(f"{where}: {sources[0]} is empty: name the {kind}, or leave the block out.")
    if "base64" in renamed:
        renamed["image"] = _data_url(renamed.pop("base64"), "image/png", where)
    return renamed


def _as_ours(block: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert a block from OpenAI's format; other keys of the block, such as options of a video, are kept."""
    key = block["type"]
    kind = FOREIGN_TYPES[key]
    others = {name: value for name, value in block.items() if name not in ("type", key)}
    inner = block.get(key)
    if isinstance(inner, str):
        inner = {"url": inner}
    if not isinstance(inner, Mapping) and inner is not None:
        inner = without_none(inner, f"{where}: {key} is a {type(inner).__name__}: give a dict or a string.")
    known = ("data", "format") if key == "input_audio" else ("url", "detail") if key == "image_url" else ("url",)
    inner = {} if inner is None else dict(inner)
    for name in inner:
        if name not in known:
            raise ValueError(f"{where} has the unknown key {name!r} in {key}: {did_you_mean(name, known)}")
    if inner.get("detail") not in (None, "auto"):
        raise ValueError(f"{where}: detail={inner['detail']!r} is not supported, images have one size: leave it out.")
    source = inner.get("data" if key == "input_audio" else "url")
    if not isinstance(source, str) or not source:
        raise ValueError(f"{where} needs {key}: {{{known[0]!r}: ...}}, a string.")
    if key == "input_audio":
        source = _data_url(source, f"audio/{inner.get('format', 'wav')}", where)
        return {"type": kind, "audio": source, **others}
    return {"type": kind, "url": source, **others}


def _data_url(text: Any, media_type: str, where: str) -> str:
    """Turn base64 text into a data URL, so that it is read and checked by the same code as files."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where}: base64 data must be a string that is not empty.")
    return text if text.startswith("data:") else f"data:{media_type};base64,{text}"


def _refuse_keys(block: Mapping[str, Any], known: Collection[str], kind: str, where: str, rules: BlockRules) -> None:
    for key in block:
        if key in known:
            continue
        if key in rules.call_options:
            raise ValueError(f"{where}: {key} applies to a whole call, not to one {kind}: pass it to the call.")
        hints = {*known, *(name for name, ours in OTHER_NAMES.items() if ours in known)} - {"type"}
        raise ValueError(f"{where}: a {kind} block has no option {key!r}: {did_you_mean(key, hints)}")


def without_none(item: Any, message: str) -> dict[str, Any]:
    """Turn a mapping, or an object of OpenAI's client, into a dict without the keys whose value is `None`.

    Such keys come from data sets in Arrow's format, in which all rows have the same keys.

    Raises:
        ValueError: `item` is neither; the text of the error is `message`.
    """
    if callable(getattr(item, "model_dump", None)):
        item = item.model_dump()
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        item = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if not isinstance(item, Mapping):
        raise ValueError(message)
    return {key: value for key, value in item.items() if value is not None}


__all__ = [
    "FOREIGN_TYPES",
    "OTHER_NAMES",
    "BlockRules",
    "media_blocks",
    "read_chats",
    "source_of",
    "take_video_options",
    "without_none",
]
