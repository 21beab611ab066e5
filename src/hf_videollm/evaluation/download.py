"""Fetches the files of a benchmark from the Hub, where datasets have moved and have several names, and unpacks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..models.errors import one_line
from .archives import Archive, ArchiveError, unreadable_archives
from .data_files import DataFiles, MissingFilesError
from .task import Task
from .unpack import OnProgress, packed, unpack_all

__all__ = ["download", "missing_files_message"]

MOST_SHOWN = 3


def download(task: Task, folder: Path, progress: Callable[[Archive], OnProgress] | None = None) -> str:
    """Fetch a benchmark into a folder, and unpack its archives there; what was stopped goes on where it was.

    Args:
        task: the benchmark.
        folder: destination.
        progress: gives for an archive a function that is told how far it is unpacked.

    Returns:
        The id of the dataset that was fetched.

    Raises:
        ValueError: the benchmark is not on the Hub.
        OSError: none of its ids can be fetched; the message has the reason of each. Or the disk is full.
        ArchiveError: an archive is damaged or not safe.
    """
    from huggingface_hub import snapshot_download

    if not task.download_ids:
        raise ValueError(
            f"{task.title} is not on the Hub, so it cannot be downloaded. It comes from {task.source}; put into "
            f"{folder}: {'; '.join(task.files)}."
        )
    reasons = []
    for name in task.download_ids:
        try:
            snapshot_download(name, repo_type="dataset", local_dir=folder)
        # The Hub's client passes on errors of several libraries.
        except Exception as error:
            reasons.append(f"{name}: {_short(error)}")
        else:
            unpack_all(folder, progress)
            return name
    raise OSError(f"{task.title} cannot be downloaded ({'; '.join(reasons)}). It comes from {task.source}.")


def missing_files_message(task: Task, data: DataFiles, error: MissingFilesError) -> str:
    """What to do when files of a benchmark are missing."""
    message = f"{error} {task.title} needs in {data.root}: {'; '.join(task.files)}. They come from {task.source}."
    if there := _packed_names(data.root):
        names = f"{', '.join(there[:MOST_SHOWN])}{', ...' if len(there) > MOST_SHOWN else ''}"
        message += f" Packed files are there and may have to be unpacked: {names}."
    if task.download_ids:
        message += f" --download fetches and unpacks them from the Hub ({' or '.join(task.download_ids)})."
    return message


def _packed_names(folder: Path) -> list[str]:
    """Archives that nobody has unpacked, as paths in the folder."""
    try:
        readable = [archive.name for archive in packed(folder)]
    except ArchiveError as error:
        return [str(error)]
    return [str(path.relative_to(folder)) for path in (*readable, *unreadable_archives(folder))]


def _short(error: Exception) -> str:
    return one_line(error, 160)
