"""Mirrors of MSVD-QA, MSRVTT-QA and TGIF-QA on the Hub, which other people have made. There is no official one.

Three layouts are read:

- a Parquet table with one question in each row, as lmms-lab packs ActivityNet-QA: video_name, question_id, question,
  answer, type;
- morpheushoc's Parquet tables with one video in each row: `qa`, a list of pairs of question and answer, `video_path`,
  and the frames of the video as bytes;
- ShareGPTVideo's JSON lines with conversations about folders of frames (about 5,000 questions of each set).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...atomic import atomic_folder
from ..data_files import DataError, DataFiles, Row
from ..packed_media import FOLDER
from ..row_joins import check_new, medium_in, text_id

__all__ = ["HUB_NOTE", "has_mirror", "mirror_rows"]

# Question and answer in the fields of the original files, and where the video is.
Mirrored = tuple[str, Row, Path]

HUB_NOTE = (
    "The mirrors on the Hub are not the authors': ShareGPTVideo's holds about 5,000 questions of each set, and folders "
    "of frames; morpheushoc's holds a few frames of each second."
)
_TABLES = ("test-*.parquet", "data/test-*.parquet", "*/test-*.parquet")
_FLAT = ("video_name", "question_id", "question", "answer")
_PACKED = ("video_path", "qa", "binary_frames", "num_frames", "height", "width", "channels")
_TAGS = ("<video>", "<image>")


def _line_files(data: DataFiles, name: str) -> list[str]:
    places = ("", "video_instruction/test/", "test/")
    return [file for place in places if (data.root / (file := f"{place}{name}.qa.official.jsonl")).exists()]


def has_mirror(data: DataFiles, name: str, originals: Sequence[str]) -> bool:
    """Whether a folder holds a mirror, and none of the original files, which count more.

    Args:
        name: of the set in ShareGPTVideo's files: `msvd`, `msrvtt` or `tgif`.
        originals: names of the original files.
    """
    if any((data.root / file).exists() for file in originals):
        return False
    return bool(_line_files(data, name)) or any(True for pattern in _TABLES for _ in data.root.glob(pattern))


def mirror_rows(data: DataFiles, name: str, folders: Sequence[str], suffixes: Sequence[str]) -> Iterator[Mirrored]:
    """All questions of a mirror: (id, row with question, answer and perhaps type, path of the video).

    Args:
        name: of the set, as in `has_mirror`.
        folders: where the videos are.
        suffixes: of the videos.

    Raises:
        DataError: a row is not as it should be, or an id stands twice.
    """
    rows = _of_lines(data, name) if _line_files(data, name) else _of_tables(data, folders, suffixes)
    seen: dict[str, str] = {}
    for id, row, path in rows:
        check_new(seen, id, row.where)
        yield id, row, path


def _of_lines(data: DataFiles, name: str) -> Iterator[Mirrored]:
    for row in data.jsonl_rows(*_line_files(data, name)):
        turns = row.get("conversations", list)
        if len(turns) != 2 or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
            raise DataError(f"{row.where}: conversations should be a question and its answer, each with a `value`.")
        question, answer = (turn["value"] for turn in turns)
        for tag in _TAGS:
            question = question.replace(tag, "")
        folders = ("video_data", "video_data/test", "videos", "")
        path = medium_in(data, folders, row.get("video"), ("", ".mp4", ".avi", ".gif"))
        yield text_id(row, "id" if "id" in row.values else "idx"), _row(row, question.strip(), answer), path


def _of_tables(data: DataFiles, folders: Sequence[str], suffixes: Sequence[str]) -> Iterator[Mirrored]:
    for row in data.parquet_rows(*_TABLES, columns=()):
        if "qa" in row.values:
            yield from _of_video(data, row, folders, suffixes)
            continue
        data.check_columns(list(row.values), _FLAT, row.where)
        path = medium_in(data, folders, row.get("video_name"), suffixes)
        yield text_id(row, "question_id"), row, path


def _of_video(data: DataFiles, row: Row, folders: Sequence[str], suffixes: Sequence[str]) -> Iterator[Mirrored]:
    """The questions about one video. They are numbered, because they have no ids."""
    data.check_columns(list(row.values), _PACKED, row.where)
    stem = PurePosixPath(row.get("video_path")).stem
    path = medium_in(data, folders, stem, suffixes)
    if not path.exists():
        path = _unpacked_frames(data, row, stem)
    for number, pair in enumerate(row.get("qa", list)):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"{row.where}: qa should hold pairs of question and answer, not {pair!r}.")
        yield f"{stem}_{number}", _row(row, *pair), path


def _unpacked_frames(data: DataFiles, row: Row, stem: str) -> Path:
    """A folder with the frames that a row holds as the bytes of one array. It is written when it is not there yet."""
    from PIL import Image

    folder = data.medium(f"{FOLDER}/{stem}")
    if folder.exists():
        return folder
    import numpy as np

    shape = tuple(row.get(field, int) for field in ("num_frames", "height", "width", "channels"))
    content = row.get("binary_frames", bytes)
    if min(shape) < 1 or shape[3] != 3 or len(content) != np.prod(shape, dtype=np.int64):
        raise DataError(f"{row.where}: binary_frames has {len(content):,} bytes, which are no frames {shape} in RGB.")
    frames = np.frombuffer(content, dtype=np.uint8).reshape(shape)
    with atomic_folder(folder) as place:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{number:05d}.png")
    return folder


def _row(row: Row, question: str, answer: str) -> Row:
    values: dict[str, Any] = {"question": question, "answer": answer}
    return Row(values, row.where)
