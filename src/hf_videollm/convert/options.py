"""Options that all converters share, and the checks of what they name."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..atomic import is_home_or_working_folder
from ..models.errors import CheckpointError

Progress = Callable[[int, int], None]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
