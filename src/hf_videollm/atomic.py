"""Folders and files that appear complete or not at all, and of which a killed run leaves nothing for good.

What is written grows beside the destination, reaches the disk (fsync), and then takes its place in one step of the
file system. A destination that is replaced changes places with the new content, so that there is always one of the
two. Where a file system cannot do that, the old content is put aside for a moment: should the run be killed in that
moment, the next one that writes here, or `restore`, brings it back.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic_claim import Claim, exists, remove, remove_dead_claims, sync, sync_tree
from .atomic_exchange import exchange
from .disk_full import DiskFullError, name_full_disk

__all__ = ["DiskFullError", "atomic_file", "atomic_files", "atomic_folder", "is_home_or_working_folder", "restore"]


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder next to `folder` that takes its place when the block ends without an error.

    After a failure (an interrupt is one, too) the disk is as it was before, parents of the destination included. What
    killed runs of the same destination have left is removed first; what live ones write is left alone.

    Args:
        folder: destination.
        overwrite: replace a destination that holds something.

    Raises:
        FileExistsError: the destination holds something and `overwrite` is not set, or it is, or lies below, a file;
            also checked at the end.
        DiskFullError: there is no room for the new content; the old one is kept.
    """
    destination = Path(folder).absolute()
    _refuse_impossible(destination)
    restore(destination)
    _refuse_occupied(destination, overwrite)
    made = _make_parents(destination.parent)
    succeeded = False
    try:
        with name_full_disk(destination), Claim.make(destination) as claim:
            claim.content.mkdir()
            yield claim.content
            _refuse_impossible(destination)
            _refuse_occupied(destination, overwrite)
            _give_usual_modes(claim.content)
            sync_tree(claim.content)
            _put_folder(claim, destination, overwrite)
            sync(destination.parent)
            succeeded = True
    finally:
        if not succeeded:
            _remove_empty(made)


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: int | None = None) -> Iterator[Path]:
    """An empty temporary file next to `path` that takes its place when the block ends without an error.

    Args:
        path: destination; its folder is made if need be.
        mode: permissions; those of every new file of this process (its umask) when `None`.

    Raises:
        DiskFullError: there is no room for the new content; the old one is kept.
    """
    destination = Path(path).absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_dead_claims(destination)
    with name_full_disk(destination), Claim.make(destination) as claim:
        # The system applies the umask itself; to ask for it would change it, for all threads, for a moment.
        os.close(os.open(claim.content, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        usual = stat.S_IMODE(claim.content.stat().st_mode)
        yield claim.content
        # Whoever wrote the file may have put a private one in its place.
        claim.content.chmod(usual if mode is None else mode)
        sync(claim.content)
        os.replace(claim.content, destination)
        sync(destination.parent)


@contextmanager
def atomic_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder whose files take their places in `folder`, each in one step, when the block ends well.

    Unlike with `atomic_folder`, all else in `folder` stays. No file takes its place before all are on the disk.

    Args:
        folder: destination; made if need be.

    Raises:
        DiskFullError: there is no room for the new files; the old ones are kept.
    """
    destination = Path(folder).absolute()
    destination.mkdir(parents=True, exist_ok=True)
    # Inside, since the folder above may be another disk, or not be ours to write in.
    name = destination / "files"
    remove_dead_claims(name)
    with name_full_disk(destination), Claim.make(name) as claim:
        claim.content.mkdir()
        yield claim.content
        _give_usual_modes(claim.content)
        sync_tree(claim.content)
        for file in sorted(path for path in claim.content.rglob("*") if not path.is_dir()):
            place = destination / file.relative_to(claim.content)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
        sync(destination)


def restore(folder: str | os.PathLike[str]) -> None:
    """Bring back the content of a destination whose replacement was cut off, and remove what dead runs have left.

    Costs a look into the folder above. Nothing happens where that cannot be read or changed, or where the run that
    replaces the folder is still at work.
    """
    remove_dead_claims(Path(folder).absolute())


def is_home_or_working_folder(folder: Path) -> bool:
    """Whether replacing `folder` would remove what the user stands in, or owns."""
    return folder.resolve() in (Path.home().resolve(), Path.cwd(), *Path.cwd().parents)


def _refuse_impossible(destination: Path) -> None:
    if destination.is_file() or destination.is_symlink():
        raise FileExistsError(f"{destination} is a file or a link, not a folder: choose another destination.")
    for parent in destination.parents:
        if parent.exists() and not parent.is_dir():
            raise FileExistsError(f"{destination} lies below {parent}, which is a file: choose another destination.")
    if is_home_or_working_folder(destination):
        raise FileExistsError(f"{destination} is the home or the working folder: choose a folder of its own.")


def _refuse_occupied(destination: Path, overwrite: bool) -> None:
    if not overwrite and destination.is_dir() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty: choose another destination, or pass overwrite=True.")


def _give_usual_modes(folder: Path) -> None:
    """Permissions that mkdir and open would have given: safetensors makes private files, temporary folders are private.

    The system gave the folder itself what the umask allows; everything in it follows.
    """
    usual = stat.S_IMODE(folder.stat().st_mode) & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(usual if path.is_dir() else usual & 0o666)


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


def _put_folder(claim: Claim, destination: Path, overwrite: bool) -> None:
    """Let the content take the place of the destination.

    Another run may do the same at the same time: who comes last stands there in the end, whole.
    """
    while True:
        try:
            # Takes a free place, and that of an empty folder.
            os.rename(claim.content, destination)
            return
        except OSError as error:
            if not _is_occupied(error):
                raise
            if not exists(destination):
                # Another run has just moved the old folder away, to put its own there.
                continue
            if not destination.is_dir() or destination.is_symlink():
                raise
        _refuse_occupied(destination, overwrite)
        if _swap(claim, destination):
            return


def _is_occupied(error: OSError) -> bool:
    return error.errno in (errno.ENOTEMPTY, errno.EEXIST) or (os.name == "nt" and error.errno == errno.EACCES)


def _swap(claim: Claim, destination: Path) -> bool:
    """Put the content in the place of a destination that is there, and drop that; False if it changed meanwhile."""
    if exchange(claim.content, destination):
        # The content is the old one now, and goes with the claim.
        return True
    try:
        os.rename(destination, claim.aside)
    except FileNotFoundError:
        return False
    try:
        os.rename(claim.content, destination)
    except BaseException as error:
        if not exists(destination):
            os.rename(claim.aside, destination)
            raise
        # Another run has put its content there meanwhile: what was put aside is older.
        remove(claim.aside)
        if isinstance(error, OSError):
            return False
        raise
    sync(destination.parent)
    # From here on it must not come back; what has the name of the content is only ever removed.
    os.rename(claim.aside, claim.content)
    return True
