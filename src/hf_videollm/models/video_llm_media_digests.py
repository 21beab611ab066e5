"""Digests of media, which tell whether encoded media were made from given files, arrays or bytes.

A digest has to be that of the media when they were read. What is in memory has its digest taken then, which costs
little beside the vision tower. A large file takes longer (about 1 GB a second), so only its size, times and number are
noted. Its digest is taken when it is needed, and refused if the file has changed between.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .media_pictures import file_of_gif
from .media_source import is_data_url, is_seekable, stored_media

# What shows that a file has changed: device, number, size, and the times of its content and of its entry. A program can
# set the time of the content, but not that of the entry.
FileStamp = tuple[int, int, int, int, int]


class MediaChangedError(ValueError):
    """A file or folder is no longer what it was when it was read."""


@dataclass
class _File:
    """A file that was looked at, but not read."""

    path: str
    stamp: FileStamp
    digest: str | None = None

    def settle(self) -> str:
        """The digest of the bytes that the file had when it was looked at.

        Raises:
            MediaChangedError: the file is gone, or was written to since.
        """
        try:
            if self.digest is None:
                with open(self.path, "rb") as file:
                    self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            # After the bytes, as the file may be written to while it is read.
            if _file_stamp(self.path) == self.stamp:
                return self.digest
        except OSError:
            pass
        raise MediaChangedError(f"{self.path} has changed or is gone since it was read: open it again.")


@dataclass
class _Folder:
    """A folder of frames that was looked at, but not read."""

    path: str
    stamp: FileStamp
    files: list[_File]

    def settle(self) -> str:
        parts = [[os.path.basename(file.path), file.settle()] for file in self.files]
        try:
            if _file_stamp(self.path) == self.stamp:
                return digest_of(parts)
        except OSError:
            pass
        raise MediaChangedError(f"{self.path} has changed or is gone since it was read: open it again.")


# A digest, something that can be read later, parts of a list, or `None` for what nobody can tell from others.
_Seen = str | _File | _Folder | list[Any] | None


class MediaSources:
    """The media that somebody is about to read. Make it before they are read.

    It holds no media, so that arrays and bytes can be freed.
    """

    def __init__(self, blocks: Iterable[Mapping[str, Any]]) -> None:
        """Args:
        blocks: the media, as blocks of a message.
        """
        self._seen: list[tuple[str, _Seen, dict[str, Any]]] = []
        for block in blocks:
            kind = str(block["type"])
            options = {name: value for name, value in block.items() if name not in ("type", kind)}
            self._seen.append((kind, _look_at(block[kind]), options))

    def digests(self) -> list[str] | None:
        """A digest of the bytes that each medium had when this object was made, with the options in its block.

        Returns:
            `None` if the bytes of a medium are not at hand: an address, or an object of another kind.

        Raises:
            MediaChangedError: a file has changed since.
        """
        digests = []
        for kind, seen, options in self._seen:
            digest = _settled(seen)
            if digest is None:
                return None
            digests.append(digest_of([kind, digest, options]))
        return digests

    def digests_if_unchanged(self) -> list[str] | None:
        """As `digests`, and `None` if a file has changed since."""
        try:
            return self.digests()
        except MediaChangedError:
            return None


def media_identity(blocks: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """A digest of the bytes that each medium of a message has now; see `MediaSources.digests`."""
    return MediaSources(blocks).digests_if_unchanged()


def digest_of(value: Any) -> str:
    """SHA-256 of a value that JSON can hold; other values are written as text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _look_at(source: Any) -> _Seen:
    try:
        return _look(source)
    except Exception:  # the medium is damaged or of a wrong kind; reading it raises an error that says so
        return None


def _look(source: Any) -> _Seen:
    source = stored_media(source)
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return hashlib.sha256(source.encode()).hexdigest() if is_data_url(source) else _look_at_path(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        # NumPy has no bfloat16.
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if isinstance(source, Image.Image):
        return _picture_digest(source)
    if isinstance(source, np.ndarray):
        return _array_digest(source)
    if isinstance(source, Mapping):
        return [_look(part) for part in (list(source), *source.values())]
    if isinstance(source, Sequence):
        is_numbers = all(isinstance(part, int | float) for part in source)
        return digest_of(list(source)) if is_numbers else [_look(part) for part in source]
    return digest_of(source) if isinstance(source, int | float) else _stream_digest(source)


def _settled(seen: _Seen) -> str | None:
    if isinstance(seen, _File | _Folder):
        return seen.settle()
    if isinstance(seen, list):
        parts = [_settled(part) for part in seen]
        return None if None in parts else digest_of(parts)
    return seen


def _look_at_path(path: str) -> _Seen:
    # The working folder may be another one when the digest is taken.
    path = os.path.abspath(path)
    try:
        if os.path.isfile(path):
            return _File(path, _file_stamp(path))
        if os.path.isdir(path):
            stamp = _file_stamp(path)
            files = sorted(item.path for item in os.scandir(path) if item.is_file())
            return _Folder(path, stamp, [_File(file, _file_stamp(file)) for file in files])
    except (OSError, ValueError):
        return None
    return None


def _file_stamp(path: str) -> FileStamp:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _stream_digest(source: Any) -> str | None:
    """The digest of all bytes of an opened file, whose position does not change; `None` for other objects.

    Objects that may read from the web are left out, because they would be downloaded twice.
    """
    if not (isinstance(source, io.BytesIO) or hasattr(source, "fileno")) or not is_seekable(source):
        return None
    try:
        position = source.tell()
        source.seek(0)
        digest = hashlib.sha256()
        while chunk := source.read(1 << 20):
            digest.update(chunk)
        source.seek(position)
        return digest.hexdigest()
    except (OSError, ValueError, TypeError):  # closed, or opened as text: reading the medium says so
        return None


def _picture_digest(picture: Image.Image) -> str | None:
    if (data := file_of_gif(picture)) is not None:
        return hashlib.sha256(data).hexdigest()
    if getattr(picture, "n_frames", 1) > 1:
        return None
    return digest_of([picture.mode, picture.size, picture.info.get("exif"), _array_digest(np.asarray(picture))])


def _array_digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size and array.ndim else array.tobytes())
    return digest.hexdigest()


__all__ = ["MediaChangedError", "MediaSources", "digest_of", "media_identity"]
