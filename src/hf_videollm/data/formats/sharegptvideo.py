"""S: ShareGPTVideo's conversations about folders of frames, as JSON lines.

`ShareGPTVideo/train_video_and_instruction` on the Hub (terms there): 900,000 captions, and instructions. LinVT's first
stage trains on the captions. The frames were chosen by its makers, so all of them belong to the video, and nobody
knows how many there are in a second.

    {"id": "v_1_caption", "video": "v_1", "conversations": [{"from": "human", "value": "<video>\\nDescribe it."}, ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..conversation import Turns, begins_with_answer, read_turns, written_turns
from ..reading import VIDEO_SUFFIXES, Format, Source
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]


def _read(source: Source) -> Iterator[Record]:
    for number, row in enumerate(source.rows()):
        if begins_with_answer(row):
            source.dropped["begins with gpt"] += 1
            continue
        video = source.medium("video", row.get("video"), row, "video", kind="frames")
        messages = read_turns(row, Turns({"video": [video]}, {"image": "video"}))
        meta = {name: value for name, value in row.values.items() if name not in ("video", "conversations")}
        native = row.get("id", (str, int), number)
        yield source.record(row, native, messages, task="instruct", meta={**meta, "presampled": True})


def _write(records: Iterable[Record], path: Path) -> None:
    rows = []
    for record in records:
        meta = {name: value for name, value in meta_of(record).items() if name != "presampled"}
        turns = written_turns(record["messages"])
        rows.append({**meta, "video": media_of(record)[0]["path"], "conversations": turns})
    write_rows(rows, path)


def _fits(row: Row, path: Path) -> bool:
    video = row.values.get("video")
    is_folder = isinstance(video, str) and Path(video).suffix not in VIDEO_SUFFIXES
    return path.suffix == ".jsonl" and is_folder and isinstance(row.values.get("conversations"), list)


FORMAT = Format(
    letter="S",
    name="sharegptvideo",
    title="ShareGPTVideo",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".jsonl", ".json"),
)
