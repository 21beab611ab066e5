"""Fetches the files of a benchmark from the Hub, where datasets have moved and have several names."""

from __future__ import annotations

from pathlib import Path

from .data_files import DataFiles, MissingFilesError
from .task import Task

__all__ = ["ARCHIVES", "archives", "download", "missing_files_message"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


def download(task: Task, folder: Path) -> str:
    """Fetch a benchmark into a folder; a download that was stopped goes on where it was.

    Args:
        task: the benchmark.
        folder: destination.

    Returns:
        The id of the dataset that was fetched.

    Raises:
        ValueError: the benchmark is not on the Hub.
        OSError: none of its ids can be fetched; the message has the reason of each.
    """
    from huggingface_hub import snapshot_download

    if not task.hub_ids:
        raise ValueError(
            f"{task.title} is not on the Hub, so it cannot be downloaded. It comes from {task.source}; put into "
            f"{folder}: {'; '.join(task.files)}."
        )
    reasons = []
    for name in task.hub_ids:
        try:
            snapshot_download(name, repo_type="dataset", local_dir=folder)
        # The Hub's client passes on errors of several libraries.
        except Exception as error:
            reasons.append(f"{name}: {_short(error)}")
        else:
            return name
    raise OSError(f"{task.title} cannot be downloaded ({'; '.join(reasons)}). It comes from {task.source}.")


def archives(folder: Path) -> list[Path]:
    """Packed files in a folder, which the loader of a benchmark does not open."""
    return sorted(path for path in folder.rglob("*") if path.name.lower().endswith(ARCHIVES))


def missing_files_message(task: Task, data: DataFiles, error: MissingFilesError) -> str:
    """What to do when files of a benchmark are missing."""
    message = f"{error} {task.title} needs in {data.root}: {'; '.join(task.files)}. They come from {task.source}."
    if packed := archives(data.root) if data.root.is_dir() else []:
        names = ", ".join(str(path.relative_to(data.root)) for path in packed[:3])
        message += f" Packed files are there and may have to be unpacked: {names}{', ...' if len(packed) > 3 else ''}."
    elif task.hub_ids:
        message += f" --download fetches them from the Hub ({' or '.join(task.hub_ids)})."
    return message


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
