"""L: LLaVA's list of conversations, in which `<image>`, `<video>` and `<audio>` stand for media.

LLaVA-Pretrain, LLaVA-Instruct-150K and LLaVA-665K (https://huggingface.co/liuhaotian, CC BY 4.0 and the terms of
OpenAI), ShareGPT4V (CC BY-NC 4.0), Valley (https://huggingface.co/luoruipu1), Video-LLaVA's mixes and the private lists
of VideoLLaMA2. IVA, LinVT, FTFV and VideoLLaMA2 train on some of them.

    [{"id": "1", "video": "v/1.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat is it?"},
                                                       {"from": "gpt", "value": "A dog."}]}]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..conversation import Turns, begins_with_answer, media_first, read_turns, written_turns
from ..parsed_files import DataError
from ..reading import VIDEO_SUFFIXES, Format, Option, Source
from ..record import MEDIA, Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]


def _read(source: Source) -> Iterator[Record]:
    for number, row in enumerate(source.rows()):
        if begins_with_answer(row):
            source.dropped["begins with gpt"] += 1
            continue
        media = {kind: _media(source, row, kind) for kind in MEDIA}
        # Many data sets of videos write <image> for the video.
        aliases = {"image": "video"} if media["video"] and not media["image"] else {}
        messages = read_turns(row, Turns(media, aliases))
        if source.options["order"] == "media_first":
            messages = media_first(messages)
        has_media = any(media.values())
        meta = {name: value for name, value in row.values.items() if name not in (*MEDIA, "conversations")}
        native = row.get("id", (str, int), number)
        yield source.record(row, native, messages, task="instruct" if has_media else "text", meta=meta)


def _media(source: Source, row: Row, kind: str) -> list[dict[str, Any]]:
    given = row.get(kind, (str, list), [])
    names = [given] if isinstance(given, str) else given
    if given == "":
        raise DataError(f"{row.where}: {kind} is blank: name the file, or leave the field out.")
    return [source.medium(kind, name, row, kind) for name in names]


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    media: dict[str, list[str]] = {}
    for block in media_of(record):
        media.setdefault(block["type"], []).append(block["path"])
    named = {kind: paths[0] if len(paths) == 1 else paths for kind, paths in media.items()}
    return {**meta_of(record), **named, "conversations": written_turns(record["messages"])}


def _fits(row: Row, path: Path) -> bool:
    # VTimeLLM has times of marks in `meta`, and ShareGPTVideo names folders in JSON lines.
    meta, video = row.values.get("meta"), row.values.get("video")
    has_marks = isinstance(meta, Mapping) and "duration" in meta
    is_folder = path.suffix == ".jsonl" and isinstance(video, str) and Path(video).suffix not in VIDEO_SUFFIXES
    return isinstance(row.values.get("conversations"), list) and not has_marks and not is_folder


FORMAT = Format(
    letter="L",
    name="llava",
    title="LLaVA, ShareGPT4V, Valley, Video-LLaVA, VideoLLaMA2",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".jsonl"),
    options={
        "order": Option(
            "as_is",
            "as_is keeps media where their tokens stand; media_first puts them before the texts, as VideoLLaMA2 does.",
            choices=("as_is", "media_first"),
        ),
    },
)
