"""Records whose media lie in columns beside them, as in a dataset on the Hub, and the way back to paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import atomic_file, atomic_folder
from ..models.errors import MediaError
from ..models.media_frames import folder_pictures
from .parsed_files import DataError
from .record import BLOCK_KEYS, MEDIA, Record, check_record, record_features

__all__ = ["COLUMNS", "FRAMES", "embedded_features", "files_of", "first_medium", "unpack_media", "with_media"]

# Type of a medium -> its column.
COLUMNS = {"video": "videos", "image": "images", "audio": "audios"}
# The column of videos that are folders of pictures: a list of pictures for each.
FRAMES = "frames"
_FOLDERS = ("frames", "images")
_NOT_EMBEDDED = ("path", "root")


def embedded_features(decode: bool = True, has_frames: bool = True) -> Any:
    """The features of `record_features`, whose blocks have no paths, and columns of `Video`, `Image` and `Audio`.

    Args:
        decode: whether `datasets` decodes the media when a row is read; this package reads their bytes.
        has_frames: whether there is a column of folders of frames; older datasets have none.
    """
    from datasets import Audio, Image, List, Value, Video

    features = record_features()
    block = dict(features["messages"].feature["content"].feature)
    for name in _NOT_EMBEDDED:
        del block[name]
    features["messages"] = List({"role": Value("string"), "content": List(block)})
    for kind, feature in (("video", Video), ("image", Image), ("audio", Audio)):
        features[COLUMNS[kind]] = List(feature(decode=decode))
    if has_frames:
        features[FRAMES] = List(List(Image(decode=decode)))
    return features


def with_media(record: Mapping[str, Any], name_of: Mapping[str, str]) -> dict[str, Any]:
    """A record with the bytes of its media in columns.

    Args:
        record: a canonical record with whole paths.
        name_of: path -> name that the medium gets in the dataset.

    Raises:
        DataError: a medium is an address, a folder without pictures, or has no name in the dataset.
    """
    media: dict[str, list[dict[str, Any]]] = {kind: [] for kind in MEDIA}
    folders: list[list[dict[str, Any]]] = []
    messages = []
    for message in record["messages"]:
        content = []
        for block in message["content"]:
            # The sound of a video needs no file of its own.
            if block["type"] in MEDIA and block["path"] is not None:
                if block["kind"] in _FOLDERS:
                    folders.append(_folder(block, record["id"], name_of))
                else:
                    media[block["type"]].append(_file(block, record["id"], name_of))
            content.append({name: block[name] for name in BLOCK_KEYS if name not in _NOT_EMBEDDED})
        messages.append({"role": message["role"], "content": content})
    columns = {COLUMNS[kind]: files for kind, files in media.items()}
    return {**record, "messages": messages, **columns, FRAMES: folders}


def files_of(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The files in a row of `with_media`: their bytes and names."""
    for column in COLUMNS.values():
        yield from row[column]
    for folder in row[FRAMES]:
        yield from folder


def first_medium(record: Mapping[str, Any]) -> str:
    """The path of the first medium of a record; its id if it has none. Records about one video have the same."""
    paths = (block["path"] for message in record["messages"] for block in message["content"])
    return next((path for path in paths if path is not None), f"id {record['id']}")


def _folder(block: Mapping[str, Any], owner: str, name_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """The pictures of a folder of frames, in the order of their names."""
    path = block["path"]
    name = _name(path, owner, name_of)
    try:
        pictures = [Path(picture) for picture in folder_pictures(path)]
    except MediaError as error:
        raise DataError(f"{owner}: {error}") from error
    return [{"bytes": file.read_bytes(), "path": f"{name}/{file.name}"} for file in pictures]


def _file(block: Mapping[str, Any], owner: str, name_of: Mapping[str, str]) -> dict[str, Any]:
    path = block["path"]
    name = _name(path, owner, name_of)
    return {"bytes": Path(path).read_bytes(), "path": name}


def _name(path: str, owner: str, name_of: Mapping[str, str]) -> str:
    if "://" in path:
        raise DataError(f"{owner}: {path} is an address: download it, and name the file.")
    if path not in name_of:
        # A file of annotations that somebody else made must not publish other files of this machine.
        raise DataError(f"{owner}: {path} lies outside of the folder of media: name that folder as root.")
    return name_of[path]


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
        rows = rows.cast(embedded_features(decode=False, has_frames=FRAMES in rows.column_names))
    for number, row in enumerate(rows):
        where = f"row {number} ({row.get('id')!r})"
        left = {kind: list(row.get(column) or []) for kind, column in COLUMNS.items()}
        folders = list(row.get(FRAMES) or [])
        messages = []
        for message in row["messages"]:
            content: list[dict[str, Any]] = []
            for block in message["content"]:
                kind = block["type"]
                follows = bool(content) and content[-1]["type"] == "video"
                if kind == "video" and block.get("kind") in _FOLDERS:
                    if not folders:
                        raise DataError(f"{where}: a folder of frames has no entry in {FRAMES}.")
                    block = {**block, "path": _written_folder(folders.pop(0), Path(folder), where)}
                elif kind in MEDIA and (left[kind] or not (kind == "audio" and follows)):
                    if not left[kind]:
                        raise DataError(f"{where}: a {kind} block has no entry in {COLUMNS[kind]}.")
                    block = {**block, "path": _written(left[kind].pop(0), Path(folder), where)}
                content.append(block)
            messages.append({"role": message["role"], "content": content})
        if rest := next((name for name, files in [*_named(left), (FRAMES, folders)] if files), None):
            raise DataError(f"{where}: {rest} has more entries than its messages have blocks.")
        record = {name: value for name, value in row.items() if name not in (*COLUMNS.values(), FRAMES)}
        yield check_record({**record, "messages": messages}, where, training=False)


def _named(left: Mapping[str, list[Any]]) -> list[tuple[str, list[Any]]]:
    return [(COLUMNS[kind], files) for kind, files in left.items()]


def _written_folder(pictures: list[Mapping[str, Any]], folder: Path, where: str) -> str:
    """Write the pictures of a folder of frames into a folder that is named after their contents."""
    digest = hashlib.sha256()
    for picture in pictures:
        if not isinstance(picture.get("bytes"), bytes):
            raise DataError(f"{where}: a frame has no bytes: cast its column with decode=False.")
        digest.update(hashlib.sha256(picture["bytes"]).digest())
    path = folder / digest.hexdigest()[:32]
    if not path.exists():
        with atomic_folder(path) as temporary:
            for number, picture in enumerate(pictures):
                # Only the last part of a name is used, which leads nowhere else. Names give the order of frames.
                name = Path(str(picture.get("path") or "")).name or f"{number:06d}.png"
                (temporary / name).write_bytes(picture["bytes"])
    return str(path)


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
