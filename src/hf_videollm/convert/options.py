"""Options that all converters share, and their checks."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..atomic import is_home_or_working_folder
from ..models.errors import CheckpointError
from . import MAX_SHARD_SIZE
from .stream import require_folder

Progress = Callable[[int, int], None]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """One of the folders or files that a converter reads.

    Attributes:
        name: its name in messages.
        path: its path; `None` if the user did not pass it.
        folder_of: what must be in this folder, for messages (`"the tokenizer"`); `None` if the source may be a file.
        needs_config: whether the folder is a model, which always has a config.json.
    """

    name: str
    path: Path | None
    folder_of: str | None = None
    needs_config: bool = False


@dataclass(frozen=True)
class WriteOptions:
    """How a checkpoint is written.

    Attributes:
        destination: folder that will hold the checkpoint.
        dtype: type of all weights; `None` keeps the stored types.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).
    """

    destination: Path
    dtype: torch.dtype | None
    max_shard_size: int
    overwrite: bool
    progress: Progress | None = None


def check_write_options(
    destination: str | os.PathLike[str],
    sources: Sequence[Source],
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WriteOptions:
    """Check the options that all converters have, before anything is read.

    Raises:
        CheckpointError: an option is invalid, a source is missing, or writing the destination would remove a source.
    """
    parsed = parse_dtype(dtype)
    if max_shard_size < 1:
        raise CheckpointError(f"max_shard_size must be at least 1 byte, not {max_shard_size}.")
    for source in sources:
        if source.folder_of is not None and source.path is not None:
            require_folder(source.path, source.folder_of, source.needs_config)
    check_places(Path(destination), {source.name: source.path for source in sources})
    return WriteOptions(Path(destination), parsed, max_shard_size, overwrite, progress)


def optional_path(path: str | os.PathLike[str] | None) -> Path | None:
    """The path as a `Path`; `None` stays `None`."""
    return None if path is None else Path(path)


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type for the weights; `None` keeps the stored types.

    Raises:
        CheckpointError: the type is not one in which weights can be stored.
    """
    if dtype is None:
        return None
    parsed = DTYPES.get(str(dtype).removeprefix("torch."))
    if parsed is None:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}.")
    return parsed


def check_places(destination: Path, inputs: Mapping[str, Path | None]) -> None:
    """Check that replacing the destination cannot remove an input.

    Args:
        destination: folder to write.
        inputs: maps the name of each input in messages to its folder or file.

    Raises:
        CheckpointError: the destination contains an input, or is the home folder or the working folder.
    """
    target = destination.resolve()
    for name, path in inputs.items():
        if path is not None and (path.resolve() == target or target in path.resolve().parents):
            raise CheckpointError(f"{destination} is, or contains, the {name} {path}: choose another destination.")
    if is_home_or_working_folder(destination):
        raise CheckpointError(f"{destination} is the home or the working folder: choose another destination.")


def check_space(folder: Path, needed: int) -> None:
    """Raise `CheckpointError` if the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder.parent} has {free:,} bytes free, but the converted weights need {needed:,}: free some space."
        )
