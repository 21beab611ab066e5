"""G: names of classes for videos, sounds or images.

Kinetics, Something-Something v2 (`train.json`), VGGSound (`vggsound.csv`, without a header, CC BY 4.0), UrbanSound8K
and ESC-50 (both CC BY-NC 3.0); most media have licences of their own. VideoLLaMA2 trains on them. Underscores of labels
become blanks.

    filename,fold,target,category
    1-100032-A-0.wav,1,0,dog_bark
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..choices import MOST_OPTIONS, with_options, without_options
from ..columns import TABLE_OPTIONS, Columns, chosen_rows, name_of, part_of, path_of, rest_of
from ..conversation import answer_of, assistant, question_of, user
from ..instructions import IDENTIFY, INSTRUCTION_OPTIONS, instruction
from ..parsed_files import DataError
from ..reading import AUDIO_SUFFIXES, IMAGE_SUFFIXES, Format, Option, Source, drawn
from ..record import Record, media_of, meta_of
from ..rows import Row
from ..writing import write_rows

__all__ = ["FORMAT"]

_KNOWN = {
    "label": ("label", "class", "category"),
    "media": (
        *("video", "audio", "image", "slice_file_name", "filename", "file_name", "path"),
        *("youtube_id", "video_id", "id"),
    ),
    "id": ("id",),
    "start": ("start", "time_start", "start_time", "start_seconds"),
    "end": ("end", "time_end", "end_time", "end_seconds"),
}


def _read(source: Source) -> Iterator[Record]:
    columns = Columns(source, _KNOWN)
    labels = _labels(source, columns)
    for number, row in chosen_rows(source, source.rows()):
        label, column, identity = columns.need(row, "label"), columns.need(row, "media"), columns.find(row, "id")
        path = path_of(source, row, column)
        kind = _kind(source, column, path)
        native = str(number) if identity is None else name_of(row, identity)
        bounds = {name: columns.find(row, name) for name in ("start", "end")}
        part = part_of(row, bounds) if source.options["cut"] else {}
        block = source.medium(kind, path, row, column, **part)
        answer = _spoken(row, label)
        options = _options(source, labels, answer, native)
        asked = instruction(source, row, native, IDENTIFY[kind])
        yield source.record(
            row,
            native,
            [user(block, with_options(asked, options)), assistant(answer)],
            task="classification",
            options=options,
            answer=answer,
            answer_index=options.index(answer) if options else -1,
            references=[answer],
            meta=rest_of(row, label, column, identity, "instruction", "options", *(bounds.values() if part else ())),
        )


def _kind(source: Source, column: str, path: str) -> str:
    if (given := source.options["media"]) != "auto":
        return str(given)
    if column in ("audio", "slice_file_name") or path.lower().endswith(AUDIO_SUFFIXES):
        return "audio"
    return "image" if column == "image" or path.lower().endswith(IMAGE_SUFFIXES) else "video"


def _spoken(row: Row, column: str) -> str:
    return row.get(column).replace("_", " ").strip()


def _labels(source: Source, columns: Columns) -> list[str]:
    """All labels of the file, if some of them are shown with each question."""
    if not (wanted := source.options["num_options"]):
        return []
    labels = sorted({_spoken(row, columns.need(row, "label")) for row in source.rows()})
    if not 2 <= wanted <= min(len(labels), MOST_OPTIONS):
        raise DataError(
            f"{source.path}: num_options is {wanted}, but the file has {len(labels)} labels: give a number from 2 to "
            f"that and at most {MOST_OPTIONS}, as there are letters, or 0 for none."
        )
    return labels


def _options(source: Source, labels: list[str], answer: str, native: str) -> list[str]:
    """The right label among others, in an order that is drawn."""
    if not labels:
        return []
    seed, left = source.options["seed"], [label for label in labels if label != answer]
    chosen = [answer]
    while len(chosen) < source.options["num_options"]:
        chosen.append(left.pop(left.index(drawn(left, seed, native, len(chosen)))))
    return sorted(chosen, key=lambda label: drawn(range(2**32), seed, native, label))


def _write(records: Iterable[Record], path: Path) -> None:
    write_rows((_row(record) for record in records), path)


def _row(record: Record) -> dict[str, Any]:
    block = media_of(record)[0]
    native = record["id"].removeprefix(f"{record['source']}/{record['split']}/")
    asked = without_options(question_of(record), record["options"])
    part = {name: block[name] for name in ("start", "end") if block[name] is not None}
    row = {"id": native, block["type"]: block["path"], **part, "label": answer_of(record), "instruction": asked}
    return {**row, **meta_of(record)}


def _fits(row: Row, path: Path) -> bool:
    has = {meaning: any(name in row.values for name in _KNOWN[meaning]) for meaning in ("label", "media")}
    is_asked = any(name in row.values for name in ("question", "q", "question_text", "conversations", "QA", "messages"))
    return has["label"] and has["media"] and not is_asked


FORMAT = Format(
    letter="G",
    name="labels",
    title="Kinetics, Something-Something v2, VGGSound, UrbanSound8K, ESC-50",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"),
    options={
        **TABLE_OPTIONS,
        **INSTRUCTION_OPTIONS,
        "media": Option("auto", "What the files are.", choices=("auto", "video", "audio", "image")),
        "num_options": Option(0, "Show so many labels of the file with each question, the right one among them."),
        "cut": Option(False, "The files hold more than the labelled part: start and end of the rows cut it out."),
    },
)
