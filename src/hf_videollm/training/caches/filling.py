"""Decodes the media of a data set ahead of a training, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.progress import track

from ...models.errors import MediaError
from .broken import FAULTS_OF_SETUP, OnBroken

__all__ = ["CLIPS_AHEAD", "DECODERS", "fill"]

# A decoder mostly waits for its own threads.
DECODERS = 4
# At most this many results are in memory.
CLIPS_AHEAD = 64


def fill(
    paths: Sequence[str], read: Callable[[str], Any], what: str, progress: bool, on_broken: OnBroken | None
) -> list[str]:
    """Read all files once, through a cache that keeps them.

    Args:
        paths: the files.
        read: reads one of them.
        what: is being done, for the progress bar.
        progress: show a progress bar.
        on_broken: called with path and reason for each file that cannot be decoded. Without it, the first is an error.

    Returns:
        The files that can be decoded.

    Raises:
        MediaError: a file cannot be decoded, and there is no `on_broken`.
        ValueError: none of them can be decoded.
    """
    broken: dict[str, str] = {}

    def attempt(path: str) -> None:
        try:
            read(path)
        except FAULTS_OF_SETUP:
            raise
        except MediaError as error:
            if on_broken is None:
                raise
            broken[path] = str(error)

    with ThreadPoolExecutor(max_workers=DECODERS) as pool:
        for start in track(range(0, len(paths), CLIPS_AHEAD), what, disable=not progress):
            list(pool.map(attempt, paths[start : start + CLIPS_AHEAD]))
    whole = [path for path in paths if path not in broken]
    for path in paths:
        if on_broken is not None and path in broken:
            on_broken(path, broken[path])
    if not whole:
        raise ValueError(f"None of the {len(paths)} files can be decoded: {broken[paths[0]]}")
    return whole
