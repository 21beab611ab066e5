"""A: captions of sounds.

WavCaps (`cvssp/WavCaps`, for research alone; one object in JSON with a list `data`), AudioCaps (MIT), Clotho (Zenodo
4783391; five captions in a row) and MusicCaps (`google/MusicCaps`, CC BY-SA 4.0), as tables. VideoLLaMA2's audio stages
train on them. WavCaps lists sounds of test sets to be left out (`blacklist`).

    {"num_captions_per_audio": 1, "data": [{"id": "1", "caption": "A dog barks.", "duration": 3.2}]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..columns import TABLE_OPTIONS, Columns, chosen_rows, name_of, part_of, path_of, rest_of
from ..conversation import assistant, question_of, user
from ..instructions import DESCRIBE, INSTRUCTION_OPTIONS, instruction
from ..parsed_files import DataError, read_json
from ..reading import Format, Option, Source, drawn
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]

_KNOWN = {
    "caption": ("caption",),
    "audio": ("audio", "file_name", "youtube_id", "ytid", "id"),
    "id": ("audiocap_id", "id", "ytid", "file_name"),
    "start": ("start", "start_s", "start_time", "start_seconds"),
    "end": ("end", "end_s", "end_time", "end_seconds"),
}
_AUDIOCAPS_SECONDS = 10.0
_CAPTION = re.compile(r"caption(?:_(\d+))?")


def _read(source: Source) -> Iterator[Record]:
    columns = Columns(source, _KNOWN)
    excluded = _blacklist(source)
    rows = source.list_in("data") if source.path.suffix.lower() == ".json" and _is_wavcaps(source) else source.rows()
    for number, row in chosen_rows(source, rows):
        column, identity = columns.need(row, "audio"), columns.find(row, "id")
        native = str(number) if identity is None else name_of(row, identity)
        if native in excluded:
            source.dropped["in the blacklist"] += 1
            continue
        names, captions = _captions(row, columns)
        bounds = {name: columns.find(row, name) for name in ("start", "end")}
        part = part_of(row, bounds) if source.options["cut"] else {}
        if part and bounds["end"] is None and "audiocap_id" in row.values:
            # AudioCaps names only where its sounds of ten seconds begin.
            part["end"] = (part["start"] or 0.0) + _AUDIOCAPS_SECONDS
        block = source.medium("audio", path_of(source, row, column), row, column, **part)
        # What is cut off is a part of the block already.
        meta = rest_of(row, *names, column, identity, "instruction", *(bounds.values() if part else ()))
        chosen = range(len(captions))
        if source.options["multi"] == "random":
            chosen = range(at := drawn(chosen, source.options["seed"], native), at + 1)
        asked = instruction(source, row, native, DESCRIBE["audio"])
        for at in chosen:
            name = native if len(chosen) == 1 else f"{native}-{at}"
            yield source.record(
                row,
                name,
                [user(block, asked), assistant(captions[at])],
                task="caption",
                answer=captions[at],
                references=[captions[at], *(text for other, text in enumerate(captions) if other != at)],
                meta=meta,
            )


def _captions(row: Row, columns: Columns) -> tuple[list[str], list[str]]:
    """The columns of the captions, and the captions."""
    if "caption" in columns.given:
        names = [columns.need(row, "caption")]
    else:
        names = [name for name in row.values if isinstance(name, str) and _CAPTION.fullmatch(name)]
    if not names:
        columns.need(row, "caption")
    names.sort(key=lambda name: int((match[1] or 0) if (match := _CAPTION.fullmatch(name)) else 0))
    return names, [row.get(name).strip() for name in names]


def _blacklist(source: Source) -> set[str]:
    """The ids that the option `blacklist` leaves out: those of one part of WavCaps, or all of its file."""
    if (name := source.options["blacklist"]) is None:
        return set()
    path = source.beside("blacklist", name)
    parts = source.row(read_json(path), str(path))
    chosen = parts.values if source.options["blacklist_part"] is None else [source.options["blacklist_part"]]
    return {str(value).removesuffix(".wav") for part in chosen for value in parts.get(part, list)} | {
        str(value) for part in chosen for value in parts.get(part, list)
    }


def _is_wavcaps(source: Source) -> bool:
    with source.path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def _write(records: Iterable[Record], path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        block = media_of(record)[0]
        native = record["id"].removeprefix(f"{record['source']}/{record['split']}/")
        several = len(record["references"])
        at = 0
        if several > 1:
            native, _, number = native.rpartition("-")
            if not number.isdigit() or int(number) >= several:
                raise DataError(
                    f"record {record['id']!r} has {several} references, so its id must end with -0, -1, ..."
                )
            at = int(number)
        part = {name: block[name] for name in ("start", "end") if block[name] is not None}
        row = rows.setdefault(native, {"id": native, "audio": block["path"], **part, **meta_of(record)})
        row["instruction"] = question_of(record)
        row["caption" if several == 1 else f"caption_{at + 1}"] = record["answer"]
    write_rows(rows.values(), path)


def _fits(row: Row, path: Path) -> bool:
    if isinstance(row.values.get("data"), list) and "num_captions_per_audio" in row.values:
        return True
    has_caption = any(_CAPTION.fullmatch(name) for name in row.values if isinstance(name, str))
    return has_caption and (
        any(name in row.values for name in ("audio", "audiocap_id", "ytid")) or "caption_1" in row.values
    )


FORMAT = Format(
    letter="A",
    name="audio_captions",
    title="WavCaps, AudioCaps, Clotho, MusicCaps",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".json", ".csv", ".tsv", ".jsonl", ".parquet"),
    options={
        **TABLE_OPTIONS,
        **INSTRUCTION_OPTIONS,
        "multi": Option(
            "all",
            "all makes a record of each caption of a sound; random draws one of them.",
            choices=("all", "random"),
        ),
        "cut": Option(False, "The files hold more than the sound: start and end of the rows cut it out."),
        "blacklist": Option(None, "File of WavCaps with the ids of sounds that are in test sets.", (str,)),
        "blacklist_part": Option(None, "The part of that file which belongs to this list.", (str,)),
    },
)
