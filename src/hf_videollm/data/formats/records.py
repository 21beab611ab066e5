"""R: records of this package, as JSON lines.

A line is a whole canonical record (`record.py`), or the short form that the generators write, with `metadata`:

    {"id": "1", "messages": [{"role": "user", "content": [{"type": "video", "path": "a.mp4"},
                                                           {"type": "text", "text": "What is it?"}]},
                             {"role": "assistant", "content": "a dog"}], "metadata": {"kind": "animal"}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..parsed_files import DataError
from ..reading import Format, Source
from ..record import Record, check_record
from ..records import drop_none
from ..rows import Row
from ..writing import write_json_lines

__all__ = ["FORMAT"]


def _read(source: Source) -> Iterator[Record]:
    seen: dict[str, str] = {}
    for row in source.rows():
        values = dict(drop_none(row.values))
        if "metadata" in values:
            values["meta"] = values.pop("metadata")
        values.setdefault("source", source.name)
        values.setdefault("split", source.split)
        values["messages"] = _messages(values.get("messages"), row)
        if isinstance(values.get("id"), int) and not isinstance(values["id"], bool):
            values["id"] = str(values["id"])
        if "task" not in values:
            values["task"] = "instruct" if _has_media(values["messages"]) else "text"
        record = check_record(values, row.where)
        if record["id"] in seen:
            raise DataError(
                f"{row.where}: id {record['id']!r} stands already in {seen[record['id']]}; keep one of them."
            )
        seen[record["id"]] = row.where
        yield record


def _messages(messages: Any, row: Row) -> Any:
    """The messages, with addresses as paths."""
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": [_block(block, row) for block in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _block(block: Any, row: Row) -> Any:
    if not isinstance(block, Mapping) or "url" not in block:
        return block
    if "path" in block:
        raise DataError(f"{row.where}: a block has a path and a url: leave one of them out.")
    return {("path" if name == "url" else name): value for name, value in block.items()}


def _has_media(messages: Any) -> bool:
    contents = [message.get("content") for message in messages or () if isinstance(message, Mapping)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return any(isinstance(block, Mapping) and block.get("type") != "text" for block in blocks)


def _write(records: Iterable[Record], path: Path) -> None:
    write_json_lines((drop_none(record) for record in records), path)


def _fits(row: Row, path: Path) -> bool:
    return isinstance(row.values.get("messages"), list) and "id" in row.values


FORMAT = Format(
    letter="R",
    name="records",
    title="this package's own",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".jsonl", ".json", ".parquet"),
)
