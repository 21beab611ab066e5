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

    After a failure (an interrupt is one, too) the disk is as it was before, parents of the destination included.

    Args:
        folder: destination.
        overwrite: replace a destination that holds something.

    Raises:
        FileExistsError: the destination holds something and `overwrite` is not set, or it is, or lies below, a file;
            also checked at the end.
    """
    destination = Path(folder).absolute()
    _refuse_occupied(destination, overwrite)
    made = _make_parents(destination.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    succeeded = False
    try:
        yield temporary
        _refuse_occupied(destination, overwrite)
        _make_public(temporary)
        _replace(temporary, destination)
        succeeded = True
    finally:
        # Also on KeyboardInterrupt; nothing is left to remove after a success.
        shutil.rmtree(temporary, ignore_errors=True)
        if not succeeded:
            _remove_empty(made)


def is_home_or_working_folder(folder: Path) -> bool:
    """Whether replacing `folder` would remove what the user stands in, or owns."""
    return folder.resolve() in (Path.home().resolve(), Path.cwd(), *Path.cwd().parents)


def _refuse_occupied(destination: Path, overwrite: bool) -> None:
    if destination.is_file() or destination.is_symlink():
        raise FileExistsError(f"{destination} is a file or a link, not a folder: choose another destination.")
    for parent in destination.parents:
        if parent.exists() and not parent.is_dir():
            raise FileExistsError(f"{destination} lies below {parent}, which is a file: choose another destination.")
    if is_home_or_working_folder(destination):
        raise FileExistsError(f"{destination} is the home or the working folder: choose a folder of its own.")
    if destination.is_dir() and any(destination.iterdir()) and not overwrite:
        raise FileExistsError(f"{destination} is not empty: choose another destination, or allow to overwrite it.")


def _make_public(folder: Path) -> None:
    """Usual permissions: mkdtemp makes the folder private, and safetensors its files."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and return what did not exist before, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # somebody else put something there
            return


def _replace(temporary: Path, destination: Path) -> None:
    if not destination.exists():
        temporary.rename(destination)
        return
    # Two renames, so that the old folder is whole until the new one stands.
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
    moved = old / destination.name
    try:
        destination.rename(moved)
        temporary.rename(destination)
    except BaseException:
        if moved.exists() and not destination.exists():
            moved.rename(destination)
        raise
    finally:
        # The old folder is dropped only when there is something in its place.
        if destination.exists():
            shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
