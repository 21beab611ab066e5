"""D: dialogs about videos, as in AVSD, where each question follows from the ones before it.

AVSD's `avsd_train.json` (https://github.com/batra-mlp-lab/avsd); the videos are those of Charades, which has its own
terms. VideoLLaMA2's audio-visual stage trains on it, one question at a time.

    {"dialogs": [{"image_id": "X", "caption": "...", "summary": "...",
                  "dialog": [{"question": "Who?", "answer": "A man."}]}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..columns import name_of
from ..conversation import assistant, lines_of, user
from ..reading import Format, Option, Source
from ..record import Record, meta_of
from ..rows import Row
from ..writing import write_json

__all__ = ["FORMAT"]

_CONTEXTS = ("caption", "summary")


def _read(source: Source) -> Iterator[Record]:
    for row in source.list_in("dialogs"):
        name = name_of(row, "image_id")
        video = source.medium("video", name, row, "image_id")
        turns = _turns(row)
        context = source.options["context"]
        shown = [video] if context == "none" else [video, row.get(context)]
        meta: dict[str, Any] = {"image_id": name}
        meta |= {field: row.values[field] for field in _CONTEXTS if field in row.values}
        if source.options["history"]:
            messages = [
                turn
                for position, (question, answer) in enumerate(turns)
                for turn in (user(*(shown if position == 0 else []), question), assistant(answer))
            ]
            yield source.record(row, name, messages, task="dialog", meta=meta)
            continue
        for position, (question, answer) in enumerate(turns):
            messages = [user(*shown, question), assistant(answer)]
            facts = {**meta, "turn": position}
            yield source.record(row, f"{name}-{position}", messages, task="dialog", meta=facts)


def _turns(row: Row) -> list[tuple[str, str]]:
    turns = row.parts("dialog", "question and answer", "at least a question and its answer")
    return [(turn.get("question"), turn.get("answer")) for turn in turns]


def _write(records: Iterable[Record], path: Path) -> None:
    dialogs: dict[str, dict[str, Any]] = {}
    for record in records:
        meta = meta_of(record)
        meta.pop("turn", None)
        dialog = dialogs.setdefault(meta["image_id"], {**meta, "dialog": []})
        questions, answers = record["messages"][::2], record["messages"][1::2]
        dialog["dialog"] += [
            {"question": _asked(question, meta), "answer": lines_of(answer)}
            for question, answer in zip(questions, answers, strict=False)
        ]
    write_json({"dialogs": list(dialogs.values())}, path)


def _asked(question: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The question without the text that the option `context` shows before it."""
    texts = [block["text"] for block in question["content"] if block["type"] == "text"]
    shown = [str(meta[name]).strip() for name in _CONTEXTS if name in meta]
    return "\n".join(texts[1:] if len(texts) > 1 and texts[0] in shown else texts)


def _fits(row: Row, path: Path) -> bool:
    return isinstance(row.values.get("dialogs"), list)


FORMAT = Format(
    letter="D",
    name="dialogs",
    title="AVSD",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json",),
    options={
        "history": Option(False, "Make one record of a dialog instead of one of each question."),
        "context": Option(
            "none", "Text that is shown before the question: none, caption or summary.", choices=("none", *_CONTEXTS)
        ),
    },
)
