"""Tells whether the files of a medium are there. Nothing is read or decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..models.media_source import is_data_url
from .media_cache.digests import local_path

__all__ = ["missing_file"]


def missing_file(source: Any) -> str | None:
    """The first file or folder of a medium that does not exist; None if there is none, or nobody can tell.

    Paths mean what they mean to `load_video`: `~` is no folder of a user.

    Args:
        source: anything that `load_video`, `load_audio` or `load_image` reads, such as a path, a list of paths, or what
            is in a column of `datasets`.
    """
    if isinstance(source, Mapping):
        return None if source.get("bytes") is not None else missing_file(source.get("path"))
    if isinstance(source, list | tuple):
        return next((path for part in source if (path := missing_file(part)) is not None), None)
    if not isinstance(source, str | os.PathLike) or is_data_url(source):
        return None
    path = os.fspath(local_path(source))
    # What is behind an address is known only when it is fetched.
    return None if "://" in str(path) or os.path.exists(path) else os.fspath(source)
