"""Options that all converters share, and the checks of what they name."""

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
        name: what messages call it.
        path: where it is; `None` when the user named none.
        folder_of: whose folder it must be, for messages (`"the tokenizer"`); `None` for what may be a file.
    """

    name: str
    path: Path | None
    folder_of: str | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How a checkpoint is written.

    Attributes:
        destination: folder that will hold it.
        dtype: type that all weights are cast to; `None` keeps each as it is stored.
        max_shard_size: most bytes of one weight file.
        overwrite: whether a destination that holds something is replaced.
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
    """The options that every converter takes, checked before it reads anything.

    Raises:
        CheckpointError: an option has no meaning, a source is missing, or writing would remove a source.
    """
    parsed = parse_dtype(dtype)
    if max_shard_size < 1:
        raise CheckpointError(f"max_shard_size must be at least 1 byte, not {max_shard_size}.")
    for source in sources:
        if source.folder_of is not None and source.path is not None:
            require_folder(source.path, source.folder_of)
    check_places(Path(destination), {source.name: source.path for source in sources})
    return WriteOptions(Path(destination), parsed, max_shard_size, overwrite, progress)


def optional_path(path: str | os.PathLike[str] | None) -> Path | None:
    """The path, where the user named one."""
    return None if path is None else Path(path)


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type that weights are cast to; `None` keeps them.

    Raises:
        CheckpointError: a type that weights are not kept in.
    """
    if dtype is None:
        return None
    parsed = DTYPES.get(str(dtype).removeprefix("torch."))
    if parsed is None:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}.")
    return parsed


def check_places(destination: Path, inputs: Mapping[str, Path | None]) -> None:
    """Replacing the destination must not remove what is being read.

    Args:
        destination: folder to write.
        inputs: what is read (a folder or a file) by its name in messages.

    Raises:
        CheckpointError: the destination holds an input, or is the home or the working folder.
    """
    target = destination.resolve()
    for name, path in inputs.items():
        if path is not None and (path.resolve() == target or target in path.resolve().parents):
            raise CheckpointError(f"{destination} is, or contains, the {name} {path}: choose another destination.")
    if is_home_or_working_folder(destination):
        raise CheckpointError(f"{destination} is the home or the working folder: choose a folder of its own.")


def check_space(folder: Path, needed: int) -> None:
    """Raises `CheckpointError` when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder.parent} has {free:,} bytes free, but the converted weights need {needed:,}: make room first."
        )
