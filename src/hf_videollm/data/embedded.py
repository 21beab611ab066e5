"""Records whose media lie in columns beside them, as in a dataset on the Hub, and the way back to paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from .parsed_files import DataError
from .record import BLOCK_KEYS, MEDIA, Record, check_record, record_features

__all__ = ["COLUMNS", "embedded_features", "unpack_media", "with_media"]

# Type of a medium -> its column.
COLUMNS = {"video": "videos", "image": "images", "audio": "audios"}
_NOT_EMBEDDED = ("path", "root")


def embedded_features(decode: bool = True) -> Any:
    """The features of `record_features`, whose blocks have no paths, and columns of `Video`, `Image` and `Audio`.

    Args:
        decode: whether `datasets` decodes the media when a row is read; this package reads their bytes.
    """
    from datasets import Audio, Image, List, Value, Video

    features = record_features()
    block = dict(features["messages"].feature["content"].feature)
    for name in _NOT_EMBEDDED:
        del block[name]
    features["messages"] = List({"role": Value("string"), "content": List(block)})
    for kind, feature in (("video", Video), ("image", Image), ("audio", Audio)):
        features[COLUMNS[kind]] = List(feature(decode=decode))
    return features


def with_media(record: Mapping[str, Any], name_of: Mapping[str, str]) -> dict[str, Any]:
    """A record with the bytes of its media in columns.

    Args:
        record: a canonical record with whole paths.
        name_of: path -> name that the medium gets in the dataset.

    Raises:
        DataError: a medium is an address, a folder of frames, or has no name in the dataset.
    """
    media: dict[str, list[dict[str, Any]]] = {kind: [] for kind in MEDIA}
    messages = []
    for message in record["messages"]:
        content = []
        for block in message["content"]:
            # The sound of a video needs no file of its own.
            if block["type"] in MEDIA and block["path"] is not None:
                media[block["type"]].append(_file(block, record["id"], name_of))
            content.append({name: block[name] for name in BLOCK_KEYS if name not in _NOT_EMBEDDED})
        messages.append({"role": message["role"], "content": content})
    return {**record, "messages": messages, **{COLUMNS[kind]: files for kind, files in media.items()}}


def _file(block: Mapping[str, Any], owner: str, name_of: Mapping[str, str]) -> dict[str, Any]:
    path = block["path"]
    if "://" in path:
        raise DataError(f"{owner}: {path} is an address: download it, and name the file.")
    if block["kind"] in ("frames", "images"):
        raise DataError(f"{owner}: {path} is a folder of pictures, which a Video column cannot hold: make it a video.")
    if path not in name_of:
        # A file of annotations that somebody else made must not publish other files of this machine.
        raise DataError(f"{owner}: {path} lies outside of the folder of media: name that folder as root.")
    return {"bytes": Path(path).read_bytes(), "path": name_of[path]}


def unpack_media(rows: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str]) -> Iterator[Record]:
    """Canonical records of rows with media in columns. The media are written into a folder, each once.

    Args:
        rows: rows of a dataset that `hf-videollm data push` has made.
        folder: gets the files, named after their contents.

    Raises:
        DataError: a block has no medium, or a medium no block.

    Example:
        >>> from datasets import load_dataset  # doctest: +SKIP
        >>> records = list(unpack_media(load_dataset("me/clips", split="train"), "media"))  # doctest: +SKIP
    """
    from datasets import Dataset, IterableDataset

    if isinstance(rows, Dataset | IterableDataset):
        rows = rows.cast(embedded_features(decode=False))
    for number, row in enumerate(rows):
        where = f"row {number} ({row.get('id')!r})"
        left = {kind: list(row.get(column) or []) for kind, column in COLUMNS.items()}
        messages = []
        for message in row["messages"]:
            content: list[dict[str, Any]] = []
            for block in message["content"]:
                kind = block["type"]
                follows = bool(content) and content[-1]["type"] == "video"
                if kind in MEDIA and (left[kind] or not (kind == "audio" and follows)):
                    if not left[kind]:
                        raise DataError(f"{where}: a {kind} block has no entry in {COLUMNS[kind]}.")
                    block = {**block, "path": _written(left[kind].pop(0), Path(folder), where)}
                content.append(block)
            messages.append({"role": message["role"], "content": content})
        if rest := next((COLUMNS[kind] for kind, files in left.items() if files), None):
            raise DataError(f"{where}: {rest} has more entries than its messages have blocks.")
        record = {name: value for name, value in row.items() if name not in COLUMNS.values()}
        yield check_record({**record, "messages": messages}, where, training=False)


def _written(medium: Mapping[str, Any], folder: Path, where: str) -> str:
    content = medium.get("bytes")
    if not isinstance(content, bytes):
        raise DataError(f"{where}: a medium has no bytes: cast its column with decode=False.")
    # The name comes from the content, so it can lead nowhere else, and equal media are one file.
    suffix = Path(str(medium.get("path") or "")).suffix
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix if suffix.isascii() else ''}"
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    return str(path)
