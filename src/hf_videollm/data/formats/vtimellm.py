"""T: VTimeLLM's conversations, whose marks `<s0>`, `<e0>`, ... stand for moments of the video.

The lists of its stages 2 and 3 are on https://github.com/huangb23/VTimeLLM (terms there); the videos are those of
ActivityNet and InternVid, named after the ids. LinVT names it among its data.

    [{"id": "v_1", "conversations": [{"from": "human", "value": "<image>\\nWhen does it bark?"},
                                     {"from": "gpt", "value": "From <s0> to <e0>."}],
      "meta": {"split": [0, 60], "duration": 60.0, "token": {"<s0>": 12.0, "<e0>": 30.0}}}]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..conversation import Turns, read_turns, written_turns
from ..parsed_files import FETCH, DataError
from ..reading import Format, Option, Source
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]

_MARK = re.compile(r"<[se]\d+>")
_LAST_PERCENT = 99


def _read(source: Source) -> Iterator[Record]:
    for number, row in enumerate(source.rows()):
        name = "video" if "video" in row.values else "id"
        facts = Row(row.get("meta", Mapping), f"{row.where}, meta")
        part = _part(facts)
        video = source.medium("video", str(row.get(name, (str, int))), row, name, **part)
        # <image> means the video in these files.
        messages = read_turns(row, Turns({"video": [video]}, {"image": "video"}), _times(source, facts))
        if left := next((mark for turn in messages for mark in _MARK.findall(str(turn["content"]))), None):
            raise DataError(f"{facts.where}: token has no time for {left}, which conversations names: add it.")
        meta = {name: value for name, value in row.values.items() if name not in ("video", "conversations", "meta")}
        yield source.record(
            row, row.get("id", (str, int), number), messages, task="grounding", meta={**meta, **facts.values}
        )


def _part(facts: Row) -> dict[str, float]:
    """`start` and `end` of the part that is shown."""
    ends = facts.get("split", list, [])
    if not ends:
        return {}
    if len(ends) != 2:
        raise DataError(f"{facts.where}: split must hold the start and the end in seconds, not {ends!r}.")
    parts = Row({"split[0]": ends[0], "split[1]": ends[1]}, facts.where)
    return {"start": parts.get("split[0]", (int, float)), "end": parts.get("split[1]", (int, float))}


def _times(source: Source, facts: Row) -> dict[str, str]:
    """Mark -> what is written in its place."""
    seconds = Row(facts.get("token", Mapping, {}), f"{facts.where}, token")
    found = {mark: float(seconds.get(mark, (int, float))) for mark in seconds.values}
    if not found:
        return {}
    if early := next((mark for mark, time in found.items() if time < 0), None):
        raise DataError(f"{seconds.where}: {early} is {found[early]:g}, before the video begins: {FETCH}.")
    duration = float(facts.get("duration", (int, float)))
    if duration <= 0:
        raise DataError(f"{facts.where}: duration is {duration:g}: give the length of the video in seconds.")
    if source.options["time_format"] == "seconds":
        return {mark: f"{time:g}" for mark, time in found.items()}
    return {mark: f"{min(round(time / duration * 100), _LAST_PERCENT):02d}" for mark, time in found.items()}


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    meta = meta_of(record)
    facts = {name: meta.pop(name) for name in ("split", "duration", "token") if name in meta}
    block = media_of(record)[0]
    return {
        **meta,
        "video": block["path"],
        # The times are numbers in the texts now, so nothing is left to be replaced.
        "conversations": written_turns(record["messages"]),
        "meta": facts,
    }


def _fits(row: Row, path: Path) -> bool:
    meta = row.values.get("meta")
    return isinstance(row.values.get("conversations"), list) and isinstance(meta, Mapping) and "duration" in meta


FORMAT = Format(
    letter="T",
    name="vtimellm",
    title="VTimeLLM",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".jsonl"),
    options={
        "time_format": Option(
            "percent",
            "percent writes moments as two digits of the length, from 00 to 99, as VTimeLLM does; seconds as seconds.",
            choices=("percent", "seconds"),
        ),
    },
)
