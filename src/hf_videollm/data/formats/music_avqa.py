"""M: MUSIC-AVQA's questions about the sound and the picture of people who make music, with places to be filled.

https://github.com/GeWu-Lab/MUSIC-AVQA, `json_update/avqa-train.json` (terms there). VideoLLaMA2's audio-visual
stage trains on it. The misspelt name of the field `anser` is the data set's own.

    [{"video_id": "1", "question_id": 7, "type": "[\\"Audio\\", \\"Counting\\"]", "question_deleted": 0,
      "question_content": "How many <Object>?", "templ_values": "[\\"flutes\\"]", "anser": "two"}]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..columns import name_of
from ..conversation import answer_of, assistant, question_of, user
from ..filled_questions import filled_question, question_kinds
from ..parsed_files import DataError
from ..reading import Format, Source
from ..record import Record, meta_of
from ..rows import Row
from ..writing import write_json

__all__ = ["FORMAT"]

_USED = ("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser")


def _read(source: Source) -> Iterator[Record]:
    seen: dict[str, str] = {}
    for row in source.rows():
        if row.get("question_deleted", int, 0):
            source.dropped["deleted"] += 1
            continue
        native = name_of(row, "question_id")
        if native in seen:
            raise DataError(f"{row.where}: question_id {native} stands already in {seen[native]}; keep one of the two.")
        seen[native] = row.where
        kinds = question_kinds(row)
        name = name_of(row, "video_id")
        video = source.medium("video", name, row, "video_id", use_audio=True)
        answer = row.get("anser")
        meta = {field: value for field, value in row.values.items() if field not in _USED}
        meta |= {"modality": kinds[0], "qtype": kinds[1] if len(kinds) > 1 else None, "question_id": native}
        yield source.record(
            row,
            native,
            [user(video, filled_question(row)), assistant(answer)],
            task="open_qa",
            answer=answer.strip(),
            references=[answer.strip()],
            meta={**meta, "video_id": name},
        )


def _write(records: Iterable[Record], path: Path) -> None:
    write_json([_row(record) for record in records], path)


def _row(record: Record) -> dict[str, Any]:
    meta = meta_of(record)
    kinds = [kind for kind in (meta.pop("modality"), meta.pop("qtype")) if kind is not None]
    return {
        "video_id": meta.pop("video_id"),
        "question_id": meta.pop("question_id"),
        "type": json.dumps(kinds),
        "question_content": question_of(record),
        "templ_values": "[]",
        "question_deleted": 0,
        "anser": answer_of(record),
        **meta,
    }


def _fits(row: Row, path: Path) -> bool:
    return {"question_content", "templ_values", "anser"} <= row.values.keys()


FORMAT = Format(
    letter="M",
    name="music_avqa",
    title="MUSIC-AVQA",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".jsonl"),
)
