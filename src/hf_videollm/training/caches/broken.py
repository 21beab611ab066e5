"""Files that a cache could not decode. They stand in a list beside the cache, so that they are tried once only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ...models.errors import CorruptMedia, MediaError, MissingBackend, UnsafeURL

__all__ = ["FAULTS_OF_SETUP", "BrokenFiles", "OnBroken"]

T = TypeVar("T")
# Called with the path of a file that cannot be decoded, and with the reason.
OnBroken = Callable[[str, str], None]
# What is wrong with the machine or the settings, not with one file.
FAULTS_OF_SETUP = (MissingBackend, UnsafeURL)


class BrokenFiles:
    """The files of one cache that cannot be decoded.

    Args:
        path: the list.
        on_broken: called for each of them; without it, the first of them is an error.
    """

    def __init__(self, path: Path, on_broken: OnBroken | None) -> None:
        self.path, self.on_broken = path, on_broken
        self.reasons: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def decode(self, function: Callable[[str], T], path: str) -> T | None:
        """The result of a function for a file; `None` if the file is broken.

        Raises:
            MediaError: it is broken, and there is no `on_broken`.
        """
        try:
            return function(path)
        except FAULTS_OF_SETUP:
            raise
        except MediaError as error:
            if self.on_broken is None:
                raise
            self.reasons[path] = str(error)
            return None

    def save(self) -> None:
        """Write the list, before the cache appears. Without broken files there is none."""
        if not self.reasons:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.reasons), encoding="utf-8")
        os.replace(temporary, self.path)

    def report(self) -> None:
        """Call `on_broken` for all files of the list.

        Raises:
            CorruptMedia: there is one, and no `on_broken`.
        """
        for path, reason in self.reasons.items():
            if self.on_broken is None:
                raise CorruptMedia(reason)
            self.on_broken(path, reason)
