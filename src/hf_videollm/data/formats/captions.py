"""K: tables of captions of videos or images.

WebVid (`TempoFunk/webvid-10M`; its site is closed), InternVid (`OpenGVLab/InternVid`, gated, CC BY-NC-SA), Panda-70M
(https://github.com/snap-research/Panda-70M, for research alone), VIDAL-10M, DCI, GRIT, LAION. LinVT, IVA, FTFV and
VideoLLaMA2 train on them. InternVid and Panda-70M name parts of videos; Panda-70M has several in one row.

    videoid,contentUrl,duration,page_dir,name
    1,https://example.org/1.mp4,PT00H00M05S,000001_000050,a dog barks

A field `instruction` holds the question; without it, one of a list is drawn for each record.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..columns import TABLE_OPTIONS, Columns, chosen_rows, name_of, path_of, rest_of
from ..conversation import answer_of, assistant, question_of, user
from ..instructions import DESCRIBE, INSTRUCTION_OPTIONS, instruction
from ..parsed_files import DataError
from ..reading import Format, Option, Source, clock
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]

_KNOWN = {
    "caption": ("caption", "Caption", "name"),
    "video": ("video", "video_path", "videoid", "video_id", "videoID", "YoutubeID"),
    "image": ("image", "image_path", "file_name"),
    "id": ("id",),
    "start": ("start", "Start_timestamp"),
    "end": ("end", "End_timestamp"),
    "spans": ("timestamp",),
}


def _read(source: Source) -> Iterator[Record]:
    columns = Columns(source, _KNOWN)
    for number, row in chosen_rows(source, source.rows()):
        caption = columns.need(row, "caption")
        kind = _kind(source, row, columns)
        column = columns.need(row, kind)
        identity = columns.find(row, "id")
        native = str(number) if identity is None else name_of(row, identity)
        used = (caption, column, identity, "instruction", *(columns.find(row, name) for name in ("start", "end")))
        path = _path(source, row, column)
        spans = columns.find(row, "spans")
        parts = (
            [(native, row.get(caption), _part(row, columns))]
            if spans is None
            else list(_spans(row, spans, caption, native))
        )
        for name, text, part in parts:
            block = source.medium(kind, path, row, column, **(part if kind == "video" else {}))
            asked = instruction(source, row, name, DESCRIBE[kind])
            yield source.record(
                row,
                name,
                [user(block, asked), assistant(text)],
                task="caption",
                answer=text.strip(),
                references=[text.strip()],
                meta=rest_of(row, *used, spans),
            )


def _kind(source: Source, row: Row, columns: Columns) -> str:
    if (given := source.options["media"]) != "auto":
        return str(given)
    return "image" if columns.find(row, "video") is None and columns.find(row, "image") is not None else "video"


def _path(source: Source, row: Row, column: str) -> str:
    """WebVid's own downloader has a folder for each page of its list."""
    if source.options["pattern"] is None and column == "videoid" and row.values.get("page_dir"):
        return f"{row.get('page_dir')}/{name_of(row, column)}"
    return path_of(source, row, column)


def _part(row: Row, columns: Columns) -> dict[str, float]:
    part = {name: clock(row, column) for name in ("start", "end") if (column := columns.find(row, name)) is not None}
    return {name: value for name, value in part.items() if value is not None}


def _spans(row: Row, spans: str, caption: str, native: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Id, caption and part of each part of a video."""
    times, texts = _list(row, spans), _list(row, caption)
    if len(times) != len(texts):
        raise DataError(f"{row.where}: {spans} names {len(times)} parts, but {caption} has {len(texts)} texts.")
    for number, (time, text) in enumerate(zip(times, texts, strict=True)):
        if not isinstance(time, list | tuple) or len(time) != 2:
            raise DataError(f"{row.where}: {spans}[{number}] must hold a start and an end, not {time!r}.")
        part = Row({f"{spans}[{number}][{at}]": value for at, value in enumerate(time)}, row.where)
        start, end = (clock(part, name) for name in part.values)
        said = Row({f"{caption}[{number}]": text}, row.where).get(f"{caption}[{number}]")
        yield f"{native}-{number}", said, {"start": start, "end": end}


def _list(row: Row, column: str) -> list[Any]:
    """A list, which tables hold as the text of one in Python or JSON."""
    value = row.get(column, (list, str))
    if isinstance(value, str):
        try:
            # Literals alone are read: nothing is run.
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.where}: {column} is {json.dumps(str(row.values[column])[:80])}, which is no list.")
    return value


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    block = media_of(record)[0]
    part = {name: block[name] for name in ("start", "end") if block[name] is not None}
    native = record["id"].removeprefix(f"{record['source']}/{record['split']}/")
    asked = {"instruction": question_of(record), "caption": answer_of(record)}
    return {"id": native, block["type"]: block["path"], **part, **asked, **meta_of(record)}


def _fits(row: Row, path: Path) -> bool:
    has = {meaning: any(name in row.values for name in names) for meaning, names in _KNOWN.items()}
    is_sound = any(name in row.values for name in ("audiocap_id", "ytid", "audio"))
    is_label = any(name in row.values for name in ("label", "category"))
    return (
        has["caption"] and (has["video"] or has["image"]) and not is_sound and not (is_label and "name" in row.values)
    )


FORMAT = Format(
    letter="K",
    name="captions",
    title="WebVid, InternVid, Panda-70M, VIDAL, DCI, GRIT",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".csv", ".tsv", ".jsonl", ".json", ".parquet"),
    options={
        **TABLE_OPTIONS,
        **INSTRUCTION_OPTIONS,
        "media": Option("auto", "Whether the media are videos or images.", choices=("auto", "video", "image")),
    },
)
