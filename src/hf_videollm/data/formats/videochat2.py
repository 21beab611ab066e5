"""V: VideoChat2-IT's questions about one video or image, with an instruction and perhaps a part of the video.

`OpenGVLab/VideoChat2-IT` on the Hub (gated; each part has its source's licence): `video/{task}/{name}/train.json`.
PLLaVA trains on its video part, LinVT and VideoLLaMA2 on pieces, FTFV compares its six types (Table 6).

    [{"video": "a.mp4", "start": 3.0, "end": 9.0, "QA": [{"i": "Answer in a word.", "q": "Who?", "a": "A dog."}]}]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..conversation import assistant, lines_of, user
from ..parsed_files import DataError
from ..reading import Format, Source
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]

# Folders of the data set -> what their questions are.
_TASKS = {"caption": "caption", "classification": "classification", "conversation": "instruct"}
_QUESTIONS = ("reasoning", "vqa")
_TYPES = (*_TASKS, *_QUESTIONS)
# A list of options inside a question, such as "Options: (A) red (B) blue".
_OPTIONS = re.compile(r"\(A\).*\(B\)|(?:^|\n)A[.)] .*\nB[.)] ", re.DOTALL)


def _read(source: Source) -> Iterator[Record]:
    folder = next((part for part in reversed(source.path.parts[:-1]) if part in _TYPES), None)
    for number, row in enumerate(source.rows()):
        kind = folder or row.get("type", str, None)
        medium = next((name for name in ("video", "image") if name in row.values), "video")
        part = {name: row.get(name, (int, float)) for name in ("start", "end") if row.values.get(name) is not None}
        block = source.medium(medium, row.get(medium), row, medium, **part)
        turns = _turns(row)
        messages = [{"role": "system", "content": instruction}] if (instruction := turns[0][0]) else []
        for position, (_, question, answer) in enumerate(turns):
            shown = [block] if position == 0 else []
            if not shown and not question:
                raise DataError(f"{row.where}, QA[{position}]: q is blank, but a caption is the first of its row.")
            messages += [user(*shown, question), assistant(answer)]
        meta = {name: value for name, value in row.values.items() if name not in (medium, "start", "end", "QA")}
        if kind is not None:
            meta["type"] = kind
        # The first instruction alone is shown; others are rare, and kept.
        others = {str(at): found for at, (found, _, _) in enumerate(turns) if at and found and found != instruction}
        if others:
            meta["instructions"] = others
        yield source.record(row, number, messages, task=_task(kind, turns[0][1]), meta=meta)


def _turns(row: Row) -> list[tuple[str, str, str]]:
    """Instruction, question and answer of each turn; the first two may be empty."""
    turns = []
    for turn in row.parts("QA", "q and a", "at least one answer"):
        instruction, question = (turn.get(name, str, "").strip() for name in ("i", "q"))
        turns.append((instruction, question, turn.get("a").strip()))
    return turns


def _task(kind: str | None, question: str) -> str:
    if kind in _QUESTIONS or (kind is None and question):
        return "mc_qa" if _OPTIONS.search(question) else "open_qa"
    return _TASKS.get(kind or "", "caption")


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    block, meta = media_of(record)[0], meta_of(record)
    messages = list(record["messages"])
    instruction = lines_of(messages.pop(0)) if messages[0]["role"] == "system" else ""
    others = meta.pop("instructions", {})
    questions, answers = messages[::2], messages[1::2]
    turns = [
        {
            "i": others.get(str(position), instruction),
            "q": lines_of(question),
            "a": lines_of(answer),
        }
        for position, (question, answer) in enumerate(zip(questions, answers, strict=False))
    ]
    part = {name: block[name] for name in ("start", "end") if block[name] is not None}
    return {block["type"]: block["path"], **part, "QA": turns, **meta}


def _fits(row: Row, path: Path) -> bool:
    return isinstance(row.values.get("QA"), list) and ("video" in row.values or "image" in row.values)


FORMAT = Format(
    letter="V",
    name="videochat2",
    title="VideoChat2-IT",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".jsonl"),
)
