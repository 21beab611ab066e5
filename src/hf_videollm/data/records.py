"""The format of records: conversations about videos, in the chat format of transformers.

All generators write these records, and training reads them, as JSON Lines:

    {"id": "clip7-colour", "messages": [
        {"role": "user", "content": [{"type": "video", "path": "videos/clip7.mp4"},
                                     {"type": "text", "text": "What colour is the shape?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]}],
     "metadata": {"kind": "colour"}}

Relative media paths are relative to the folder of the JSON Lines file. Canonical records (`record.py`), with parts of
media (`start`, `end`) and more facts, are read, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

from ..atomic import atomic_file
from ..models.video_llm_option_names import did_you_mean
from .parsed_files import DataError

__all__ = [
    "ContentBlock",
    "Message",
    "RecordError",
    "VideoQARecord",
    "drop_none",
    "iter_jsonl",
    "make_record",
    "read_jsonl",
    "write_jsonl",
]

ROLES = ("system", "user", "assistant")
# Types of blocks that hold media. A medium is named by a local path or by a URL.
MEDIA_TYPES = ("video", "image", "audio")
RECORD_KEYS = ("id", "messages", "metadata")
# Fields that canonical records have beside these, and those of their blocks that say which part of a medium is shown.
_CANONICAL = {"source", "split", "task", "options", "answer", "answer_index", "references", "meta"}
_PARTS = {"start", "end", "kind"}


class RecordError(DataError):
    """A record does not follow the format. The message names the file and line (or row), and says what to change."""


class ContentBlock(TypedDict, total=False):
    """One part of a message: text, or a medium with its `path` or `url`.

    An audio block after a video may have neither; it then means the sound track of this video.
    """

    type: Literal["text", "video", "image", "audio"]
    text: str
    path: str
    url: str


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: list[ContentBlock]


@dataclass(frozen=True)
class VideoQARecord:
    """A conversation about one or more videos.

    Attributes:
        id: unique name of the record within its file.
        messages: turns in chat format: an optional system turn, then user and assistant in alternation.
        metadata: additional facts (kind of question, source, seed, ...) that the model does not get.
    """

    id: str
    messages: list[Message]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, row: Any, where: str = "record") -> VideoQARecord:
        """Validate `row` (as read from JSON or from a `datasets` row) and build a record.

        Raises:
            RecordError: the message starts with `where` and says what is wrong.
        """
        if not isinstance(row, Mapping):
            raise RecordError(f"{where}: expected an object with the keys {RECORD_KEYS}, got {type(row).__name__}.")
        # Arrow gives every block the keys of all blocks, with None for the keys that a block does not have.
        row = drop_none(row)
        if _is_canonical(row):
            return cls(*_of_canonical(row, where))
        unknown = sorted(set(row) - set(RECORD_KEYS))
        if unknown:
            hint = did_you_mean(unknown[0], RECORD_KEYS)
            raise RecordError(f"{where}: unknown keys {unknown}: {hint} Additional facts belong in 'metadata'.")
        record_id = row.get("id")
        if not isinstance(record_id, str) or not record_id:
            raise RecordError(f"{where}: 'id' must be a non-empty string, got {record_id!r}.")
        metadata = row.get("metadata", {})
        if not isinstance(metadata, Mapping):
            raise RecordError(f"{where}: 'metadata' must be an object, got {type(metadata).__name__}.")
        messages = _check_messages(row.get("messages"), where)
        return cls(id=record_id, messages=messages, metadata=dict(metadata))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return {"id": self.id, "messages": self.messages, "metadata": self.metadata}

    @property
    def answer(self) -> str | None:
        """Text of the last turn if the assistant speaks last, else None."""
        last = self.messages[-1]
        if last["role"] != "assistant":
            return None
        return " ".join(block["text"] for block in last["content"] if block["type"] == "text")

    def prompt_messages(self) -> list[Message]:
        """Return the conversation without a final assistant turn. This is what a model gets in a test."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else list(self.messages)

    def media(self, kind: str = "video") -> list[str]:
        """Return the paths or URLs of all blocks of one kind, in reading order."""
        blocks = (block for message in self.messages for block in message["content"] if block["type"] == kind)
        return [block.get("path") or block.get("url") or "" for block in blocks]

    def with_media_root(self, root: str | os.PathLike[str]) -> VideoQARecord:
        """Return a copy whose relative media paths are joined to `root`."""
        messages: list[Message] = [
            {"role": message["role"], "content": [_join_path(block, Path(root)) for block in message["content"]]}
            for message in self.messages
        ]
        return VideoQARecord(id=self.id, messages=messages, metadata=dict(self.metadata))


def make_record(
    record_id: str,
    video: str,
    turns: Iterable[tuple[str, str]],
    metadata: Mapping[str, Any] | None = None,
) -> VideoQARecord:
    """Build a record of one video and one or more (question, answer) turns.

    Args:
        record_id: unique name.
        video: path of the video.
        turns: pairs of question and answer. The video comes before the first question.
        metadata: additional facts.

    Raises:
        RecordError: no turn, or an empty question or answer.
    """
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        content: list[dict[str, str]] = [{"type": "text", "text": question}]
        if not messages:
            content.insert(0, {"type": "video", "path": video})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    row = {"id": record_id, "messages": messages, "metadata": dict(metadata or {})}
    return VideoQARecord.from_dict(row, where=f"record {record_id!r}")


def drop_none(value: Any) -> Any:
    """Remove keys whose value is None from nested mappings (Arrow tables add them)."""
    if isinstance(value, Mapping):
        return {key: drop_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [drop_none(item) for item in value]
    return value


def iter_jsonl(path: str | os.PathLike[str], resolve_media: bool = True) -> Iterator[VideoQARecord]:
    """Yield the records of a JSON Lines file one by one.

    Args:
        path: the file, UTF-8; blank lines are skipped.
        resolve_media: join relative media paths to the folder of the file.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: a line is not a valid record; the message names the file and the line number.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    with _opened(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise RecordError(f"{where}: not valid UTF-8 JSON ({error}).") from error
            record = VideoQARecord.from_dict(row, where)
            if record.id in seen:
                raise RecordError(f"{where}: id {record.id!r} was already used on line {seen[record.id]}.")
            seen[record.id] = number
            yield record.with_media_root(path.parent) if resolve_media else record


def _opened(path: Path) -> BinaryIO:
    """Open the file of records. If this fails, the error says what to do."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of records; check the path.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder: give the file of records (JSON Lines) in it.") from None
    except PermissionError:
        raise PermissionError(f"{path}: cannot be read; check the permissions of the file of records.") from None


def read_jsonl(path: str | os.PathLike[str], resolve_media: bool = True) -> list[VideoQARecord]:
    """Read a whole JSON Lines file; see `iter_jsonl`. An empty file is an error."""
    records = list(iter_jsonl(path, resolve_media))
    if not records:
        raise RecordError(f"{path}: the file holds no records.")
    return records


def write_jsonl(records: Iterable[VideoQARecord], path: str | os.PathLike[str]) -> Path:
    """Write records as JSON Lines. The file appears complete or not at all.

    Raises:
        RecordError: a record is invalid; the message names its position. Nothing is written then.
    """
    path = Path(path)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for row, record in enumerate(records):
            VideoQARecord.from_dict(record.to_dict(), where=f"row {row}")
            handle.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
    return path


def _join_path(block: ContentBlock, root: Path) -> ContentBlock:
    joined = block.copy()
    if "path" in joined:
        joined["path"] = str(root / joined["path"])
    return joined


def _is_canonical(row: Mapping[str, Any]) -> bool:
    """Whether a record has fields that only canonical records (`record.py`) have, such as a part of a video."""
    messages = row.get("messages")
    contents = (
        [message.get("content") for message in messages or () if isinstance(message, Mapping)]
        if isinstance(messages, list)
        else []
    )
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return bool(_CANONICAL & set(row)) or any(isinstance(block, Mapping) and _PARTS & set(block) for block in blocks)


def _of_canonical(row: Mapping[str, Any], where: str) -> tuple[str, list[Message], dict[str, Any]]:
    """Id, messages and metadata of a canonical record. Its task is the kind of question unless `meta` says another."""
    # That file imports the errors of this one.
    from .record import check_record, meta_of

    values = dict(row)
    if "metadata" in values:
        if "meta" in values:
            raise RecordError(f"{where}: it has meta and metadata: leave one of them out.")
        values["meta"] = values.pop("metadata")
    if isinstance(values.get("messages"), list):
        values["messages"] = [_with_paths(message, where) for message in values["messages"]]
    record = check_record(values, where, training=False)
    meta = meta_of(record)
    messages: list[Any] = [
        {"role": message["role"], "content": [_short_block(block) for block in message["content"]]}
        for message in record["messages"]
    ]
    kind = meta.get("kind") or meta.get("type") or ("task" in row and record["task"])
    return record["id"], messages, {**meta, **({"kind": kind} if kind else {})}


def _with_paths(message: Any, where: str) -> Any:
    """A message in which addresses of blocks are paths, as canonical records have them."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    content = []
    for block in message["content"]:
        if isinstance(block, Mapping) and "url" in block:
            if "path" in block:
                raise RecordError(f"{where}: a block has a path and a url: leave one of them out.")
            block = {("path" if name == "url" else name): value for name, value in block.items()}
        content.append(block)
    return {**message, "content": content}


def _short_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block with the fields that it has. A file is the usual kind of video, which needs no word."""
    short = {name: value for name, value in block.items() if value is not None and (name, value) != ("kind", "file")}
    if "://" in short.get("path", ""):
        short["url"] = short.pop("path")
    elif "root" in short:
        short["path"] = str(Path(short.pop("root")) / short["path"])
    return short


def _check_messages(messages: Any, where: str) -> list[Message]:
    """Check the turns of one record, and turn contents that are plain strings into blocks."""
    if not isinstance(messages, list) or not messages:
        raise RecordError(f"{where}: 'messages' must be a non-empty list of turns.")
    checked: list[Message] = []
    for position, message in enumerate(messages):
        place = f"{where}, message {position}"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise RecordError(f"{place}: expected exactly the keys 'role' and 'content'.")
        role = message["role"]
        if role not in ROLES:
            raise RecordError(f"{place}: role {role!r} is not one of {ROLES}: {did_you_mean(role, ROLES)}")
        checked.append({"role": role, "content": _check_content(message["content"], role, place)})
    _check_turn_order([message["role"] for message in checked], where)
    return checked


def _check_turn_order(roles: list[str], where: str) -> None:
    turns = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[position % 2] for position in range(len(turns))]
    if not turns or turns != expected:
        raise RecordError(
            f"{where}: the turns are {roles}; expected an optional system turn, then user and assistant in "
            "alternation, beginning with user."
        )


def _check_content(content: Any, role: str, where: str) -> list[ContentBlock]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise RecordError(f"{where}: 'content' must be a string or a non-empty list of blocks.")
    return [_check_block(block, role, f"{where}, block {position}") for position, block in enumerate(content)]


def _check_block(block: Any, role: str, where: str) -> ContentBlock:
    if not isinstance(block, Mapping):
        raise RecordError(f"{where}: a block must be an object, got {type(block).__name__}.")
    kind = block.get("type")
    if kind == "text":
        allowed = {"text"}
        if not isinstance(block.get("text"), str) or not block["text"].strip():
            raise RecordError(f"{where}: a text block needs a non-empty 'text'.")
    elif kind in MEDIA_TYPES:
        allowed = {"path", "url"}
        if role != "user":
            raise RecordError(f"{where}: a {kind} block is allowed in a user turn only, not in a {role} turn.")
        sources = [key for key in ("path", "url") if isinstance(block.get(key), str) and block[key]]
        # An audio block without a name means the sound track of the video before it.
        if len(sources) != 1 and not (kind == "audio" and not set(block) & allowed):
            raise RecordError(f"{where}: a {kind} block needs exactly one of 'path' and 'url', a non-empty string.")
    else:
        raise RecordError(
            f"{where}: type {kind!r} is not one of {('text', *MEDIA_TYPES)}: "
            f"{did_you_mean(kind, ('text', *MEDIA_TYPES))}"
        )
    unknown = sorted(set(block) - allowed - {"type"})
    if unknown:
        raise RecordError(
            f"{where}: unknown keys {unknown} in a {kind} block; its keys are {', '.join(sorted(allowed))}, "
            "and start and end for a part of a medium."
        )
    return dict(block)  # type: ignore[return-value]
