"""Folders that appear complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder next to `folder` that takes its place when the block ends without an error.

    Args:
        folder: destination.
        overwrite: replace a destination that holds something.

    Raises:
        FileExistsError: the destination holds something and `overwrite` is not set; also checked at the end.
    """
    destination = Path(folder).absolute()
    _refuse_occupied(destination, overwrite)
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    try:
        yield temporary
        _refuse_occupied(destination, overwrite)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        _replace(temporary, destination)
    finally:
        # Also on KeyboardInterrupt; nothing is left to remove after a success.
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_occupied(destination: Path, overwrite: bool) -> None:
    if destination.is_file() or destination.is_symlink():
        raise FileExistsError(f"{destination} is a file, not a folder: choose another destination.")
    if destination.is_dir() and any(destination.iterdir()) and not overwrite:
        raise FileExistsError(f"{destination} is not empty: choose another destination, or allow to overwrite it.")


def _replace(temporary: Path, destination: Path) -> None:
    if not destination.exists():
        temporary.rename(destination)
        return
    # Two renames, so that the old folder is whole until the new one stands.
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
    destination.rename(old / destination.name)
    try:
        temporary.rename(destination)
    except OSError:
        (old / destination.name).rename(destination)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
