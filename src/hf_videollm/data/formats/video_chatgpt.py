"""C: Video-ChatGPT's list of questions and answers, with the id of each video.

`MBZUAI/VideoInstruct-100K` on the Hub (CC BY-SA 4.0), `VideoInstruct100K.json`; the videos are ActivityNet's. All five
papers train on it. Its official converter puts the video behind the question in even rows of the file, and before it in
odd ones.

    [{"q": "What is it?", "a": "A dog.", "video_id": "v_1"}]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..columns import name_of
from ..conversation import answer_of, assistant, question_of, user
from ..reading import Format, Source
from ..record import Record, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]


def _read(source: Source) -> Iterator[Record]:
    for number, row in enumerate(source.rows()):
        video = source.medium("video", name_of(row, "video_id"), row, "video_id")
        question, answer = row.get("q"), row.get("a")
        asked = user(question, video) if number % 2 == 0 else user(video, question)
        meta = {name: value for name, value in row.values.items() if name not in ("q", "a")}
        yield source.record(row, number, [asked, assistant(answer)], task="instruct", meta=meta)


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    return {"q": question_of(record), "a": answer_of(record), **meta_of(record)}


def _fits(row: Row, path: Path) -> bool:
    return {"q", "a", "video_id"} <= row.values.keys()


FORMAT = Format(
    letter="C",
    name="video_chatgpt",
    title="VideoInstruct-100K of Video-ChatGPT",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".jsonl"),
)
