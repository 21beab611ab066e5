"""Folders and files that appear complete or not at all. What a killed run leaves is removed by the next run.

New content is written beside the destination, then flushed to the disk (fsync), and then moved to the destination in
one step of the file system. If the destination exists, it is exchanged with the new content, so that one of the two is
there at any time. Some file systems cannot exchange two names. There, the old content is renamed for a moment. If the
run is killed in this moment, the next run that writes to this destination, or `restore`, brings the old content back.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .atomic_claim import Claim, exists, mode_of, remove, remove_dead_claims, sync, sync_tree
from .atomic_exchange import exchange
from .disk_full import DiskFullError, name_full_disk

__all__ = ["DiskFullError", "atomic_file", "atomic_files", "atomic_folder", "is_home_or_working_folder", "restore"]


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder, which becomes `folder` when the block ends without an error.

    After an error or an interrupt, the disk is as it was before; parents of the destination that did not exist are
    removed again. At the beginning, everything that killed runs left for the same destination is removed. What other
    runs are still writing is not touched.

    Args:
        folder: destination.
        overwrite: replace a destination that is not empty.

    Raises:
        FileExistsError: the destination is not empty and `overwrite` is not set; or it is a file, a link, the home or
            the working folder; or one of its parents is a file. This is checked at the beginning and at the end.
        DiskFullError: there is no room for the new content; the old content is kept.
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
    """Give an empty temporary file, which becomes `path` when the block ends without an error.

    Args:
        path: destination. Its folder is made if it does not exist.
        mode: permissions of the file; `None` gives those of every new file of this process (its umask).

    Raises:
        FileExistsError: the destination is a folder, a device, a pipe or a socket, which is never replaced.
        DiskFullError: there is no room for the new content; the old content is kept.
    """
    destination = Path(path).absolute()
    _refuse_other_than_file(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_dead_claims(destination)
    with name_full_disk(destination), Claim.make(destination) as claim:
        # The system applies the umask to this file. A program cannot read its umask without changing it for a moment,
        # which would affect all threads.
        os.close(os.open(claim.content, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        usual = stat.S_IMODE(claim.content.stat().st_mode)
        yield claim.content
        # The code of the block may have replaced the file by one that other users cannot read.
        claim.content.chmod(usual if mode is None else mode)
        sync(claim.content)
        os.replace(claim.content, destination)
        sync(destination.parent)


@contextmanager
def atomic_files(
    folder: str | os.PathLike[str], *, last: Sequence[str] = (), obsolete: re.Pattern[str] | None = None
) -> Iterator[Path]:
    """Give a temporary folder, whose files are moved into `folder` when the block ends without an error.

    Each file is moved in one step, and none before all are on the disk. Unlike `atomic_folder`, this keeps the other
    files of `folder`.

    Args:
        folder: destination. It is made if it does not exist.
        last: names of files without which nobody reads the others. Old ones are removed before the first file is moved,
            and new ones are moved after all others, so that a killed run never leaves a mixture that can be read.
        obsolete: pattern of the names of old files that are removed before the first file is moved.

    Raises:
        DiskFullError: there is no room for the new files; the old files are kept.
    """
    destination = Path(folder).absolute()
    destination.mkdir(parents=True, exist_ok=True)
    # The temporary folder is inside the destination, because the parent may be on another disk or not be writable.
    name = destination / "files"
    remove_dead_claims(name)
    with name_full_disk(destination), Claim.make(name) as claim:
        claim.content.mkdir()
        yield claim.content
        _give_usual_modes(claim.content)
        sync_tree(claim.content)
        for path in sorted(destination.iterdir(), key=lambda path: path.name not in last):
            if path.name in last or (obsolete is not None and obsolete.fullmatch(path.name)):
                path.unlink()
        files = sorted(path for path in claim.content.rglob("*") if not path.is_dir())
        for file in sorted(files, key=lambda path: path.name in last):
            place = destination / file.relative_to(claim.content)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
        sync(destination)


def restore(folder: str | os.PathLike[str]) -> None:
    """Bring back the old content of a destination that a killed run was replacing, and remove what killed runs left.

    This takes little time: it lists one folder beside the destination. If that folder cannot be read or changed, or the
    run that replaces the destination is still alive, this function does nothing.
    """
    remove_dead_claims(Path(folder).absolute())


def is_home_or_working_folder(folder: Path) -> bool:
    """Whether `folder` is the user's home folder, or the working folder or one of its parents."""
    return folder.resolve() in (Path.home().resolve(), Path.cwd(), *Path.cwd().parents)


def _refuse_impossible(destination: Path) -> None:
    if destination.is_file() or destination.is_symlink():
        raise FileExistsError(f"{destination} is a file or a link, not a folder: choose another destination.")
    for parent in destination.parents:
        if (mode := mode_of(parent.resolve())) is not None and not stat.S_ISDIR(mode):
            raise FileExistsError(f"{destination} lies below {parent}, which is a file: choose another destination.")
    if is_home_or_working_folder(destination):
        raise FileExistsError(f"{destination} is the home or the working folder: choose another destination.")


def _refuse_other_than_file(destination: Path) -> None:
    """Refuse to replace anything but a file. A link counts as what it leads to."""
    if destination.exists() and not destination.is_file():
        what = "a folder" if destination.is_dir() else "a device, a pipe or a socket"
        raise FileExistsError(f"{destination} is {what}, not a regular file: choose another destination.")


def _refuse_occupied(destination: Path, overwrite: bool) -> None:
    if not overwrite and _has_content(destination):
        raise FileExistsError(f"{destination} is not empty: choose another destination, or pass overwrite=True.")


def _has_content(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # also if another run has just renamed it
        return False


def _give_usual_modes(folder: Path) -> None:
    """Give everything in a folder the usual permissions, because libraries such as safetensors make private files.

    The folder itself has the usual permissions: the system made it by the umask.
    """
    usual = stat.S_IMODE(folder.stat().st_mode) & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(usual if path.is_dir() else usual & 0o666)


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and its parents, and return those of them that did not exist before, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # another program has put something there
            return


def _put_folder(claim: Claim, destination: Path, overwrite: bool) -> None:
    """Move the new content to the destination.

    Another run may do the same at the same time. Then the content of the run that comes last remains, and is complete.
    """
    while True:
        try:
            # This works if the destination does not exist, or is an empty folder.
            os.rename(claim.content, destination)
            return
        except OSError as error:
            if not _is_occupied(error):
                raise
            # One look at it, because another run may rename it at any moment.
            if (mode := mode_of(destination)) is None:
                # Another run has just renamed the old folder, and is about to move its own content there.
                continue
            if not stat.S_ISDIR(mode):
                raise
        _refuse_occupied(destination, overwrite)
        if _swap(claim, destination):
            return


def _is_occupied(error: OSError) -> bool:
    return error.errno in (errno.ENOTEMPTY, errno.EEXIST) or (os.name == "nt" and error.errno == errno.EACCES)


def _swap(claim: Claim, destination: Path) -> bool:
    """Replace a destination that exists by the new content. False if another run changed the destination meanwhile."""
    if exchange(claim.content, destination):
        # The temporary name now holds the old content, which is removed together with the claim.
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
        # Another run has moved its content there meanwhile. It is newer than what was put aside.
        remove(claim.aside)
        if isinstance(error, OSError):
            return False
        raise
    sync(destination.parent)
    # From here on, the old content must never be brought back. So it gets the name of unfinished content, which other
    # runs only remove.
    os.rename(claim.aside, claim.content)
    return True
