"""Digests of the content of media files. They are remembered, so that a file is read again only after a change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ...models.media_source import is_data_url, is_web_address, stored_media
from .folder import CacheFolder

__all__ = ["ContentDigests", "local_path"]

# A file that was changed so many seconds ago may change again without another time of change.
FRESH = 2.0
# A program remembers so many files.
REMEMBERED = 100_000


def local_path(text: Any) -> Any:
    """The path in a `file://` address; any other text unchanged."""
    if isinstance(text, str) and text[:7].lower() == "file://":
        return url2pathname(urlsplit(text).path)
    return text


class ContentDigests:
    """Digests of the content of sources: files, folders and lists of pictures, and bytes.

    A digest is remembered by the real path of the file, its size, its times of change and its inode: in this process,
    and in the folder of a cache.

    Args:
        folder: where digests are remembered.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, str]] = {}

    def of(self, source: Any) -> str | None:
        """The digest of a source; None if it is nothing that can be known by its content, or cannot be read.

        Args:
            source: anything that `load_video` or `load_audio` reads.
        """
        source = stored_media(source)
        try:
            if is_data_url(source):
                return hashlib.sha256(source.encode()).hexdigest()
            if isinstance(source, bytes | bytearray | memoryview):
                return hashlib.sha256(source).hexdigest()
            if isinstance(source, list | tuple):
                is_named = bool(source) and all(isinstance(part, str | os.PathLike) for part in source)
                return self._of_all([os.path.realpath(part) for part in source]) if is_named else None
            if not isinstance(source, str | os.PathLike) or is_web_address(source):
                return None
            path = os.path.realpath(local_path(os.fspath(source)))
            if os.path.isdir(path):
                # Pictures are read in the order of their names, so the names belong to the content.
                return self._of_all([os.path.join(path, name) for name in sorted(os.listdir(path))], with_names=True)
            return self._of_file(path)
        except (OSError, ValueError):
            # Whoever reads the source says what is wrong with it.
            return None

    def _of_all(self, paths: Sequence[str], with_names: bool = False) -> str:
        parts = [(os.path.basename(path) if with_names else "", self._of_file(path)) for path in paths]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _of_file(self, path: str) -> str:
        info = os.stat(path)
        # The system sets the time of status change (ctime), which programs cannot choose, at every change of content.
        facts = f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}"
        known = self._known.get(path)
        if known is not None and known[0] == facts:
            return known[1]
        key = hashlib.sha256(b"digest " + os.fsencode(path)).hexdigest()
        digest = self._stored(key, facts)
        if digest is None:
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if time.time() - max(info.st_mtime, info.st_ctime) < FRESH:
                return digest
            self._folder.put(key, json.dumps([facts, digest]).encode())
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[path] = (facts, digest)
        return digest

    def _stored(self, key: str, facts: str) -> str | None:
        content = self._folder.get(key)
        stored, digest = (None, None) if content is None else json.loads(bytes(content))
        return digest if stored == facts else None
