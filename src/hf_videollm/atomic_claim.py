"""The names that one run writes to before its content takes its place, and how the next run knows that it is dead.

Beside a destination NAME they lie in the hidden folder `.NAME.partial`, which goes with the last of them. A run takes
`TOKEN.lock` there and holds it (flock) as long as it lives; the system lets go of it when the process ends in whatever
way. `TOKEN.new` is what it writes, and `TOKEN.old` the former destination for the moment in which it is replaced.
Whoever gets the lock of another token knows that its run is dead. Where the file system has no locks, the lock file
tells the process by its number and its time of start.
"""

import errno
import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claim", "exists", "is_same", "remove", "remove_dead_claims", "sync", "sync_tree", "try_lock"]

FOLDER, LOCK, CONTENT, ASIDE = ".partial", ".lock", ".new", ".old"
# Longest name that file systems take, less the dot and the word of the folder, and room for 8 digits of a hash.
LONGEST_NAME = 255 - 10
# What file systems say that cannot sync a folder.
NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP}


@dataclass
class Claim:
    """Names of one run; a context manager that removes what is left of them at its end.

    Attributes:
        destination: what the run is going to replace.
        token: tells its names from those of other runs.
    """

    destination: Path
    token: str
    _lock: int

    @classmethod
    def make(cls, destination: Path) -> Self:
        """Claim names that nobody has.

        Raises:
            OSError: the folder of the destination cannot be written to.
        """
        while True:
            token = uuid.uuid4().hex[:12]
            path = _named(destination, token, LOCK)
            try:
                _make_folder(path.parent)
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            except FileNotFoundError:
                if not destination.parent.is_dir():
                    raise
                continue  # another run was done and took the folder away
            try:
                os.write(descriptor, _identity(os.getpid()).encode())
                # Another run may have found the file before it was locked, and removed it as one of a dead run.
                if try_lock(descriptor) is not False and is_same(descriptor, path):
                    return cls(destination, token, descriptor)
            except BaseException:
                os.close(descriptor)
                _clear(destination, token)
                raise
            os.close(descriptor)

    @property
    def content(self) -> Path:
        """What is being written; never more than litter once the run is dead."""
        return _named(self.destination, self.token, CONTENT)

    @property
    def aside(self) -> Path:
        """Where the old destination is kept while it is replaced in two steps."""
        return _named(self.destination, self.token, ASIDE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is left; a destination that was put aside and has no successor comes back."""
        try:
            _clear(self.destination, self.token)
        finally:
            os.close(self._lock)


def remove_dead_claims(destination: Path) -> None:
    """Remove what dead runs have left of `destination`; one that was put aside and has no successor comes back."""
    folder = _claims_folder(destination)
    try:
        names = [] if folder.is_symlink() else os.listdir(folder)
    except OSError:  # nobody is, or was, at work; or it is not ours to read
        return
    for name in names:
        if name.endswith(LOCK):
            _remove_if_dead(destination, name.removesuffix(LOCK))
    _remove_folder(folder)


def _remove_if_dead(destination: Path, token: str) -> None:
    path = _named(destination, token, LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:  # gone meanwhile, or another user's
        return
    try:
        locked = try_lock(descriptor)
        if locked is None:
            locked = _process_is_gone(os.read(descriptor, 4096).decode(errors="replace"))
        if locked and is_same(descriptor, path):
            _clear(destination, token)
    except OSError:  # not ours to change: it is no reason to fail
        return
    finally:
        os.close(descriptor)


def _clear(destination: Path, token: str) -> None:
    """Remove all names of a token, the lock last: as long as there is anything, it can be found."""
    aside, content, lock = (_named(destination, token, suffix) for suffix in (ASIDE, CONTENT, LOCK))
    if exists(aside):
        if exists(destination):
            remove(aside)
        else:
            os.rename(aside, destination)
    remove(content)
    if not exists(aside) and not exists(content):
        remove(lock)
    _remove_folder(lock.parent)


def _named(destination: Path, token: str, suffix: str) -> Path:
    return _claims_folder(destination) / f"{token}{suffix}"


def _claims_folder(destination: Path) -> Path:
    name = os.fsencode(destination.name)
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 8] + hashlib.sha256(name).hexdigest()[:8].encode()
    return destination.with_name(f".{os.fsdecode(name)}{FOLDER}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            raise FileExistsError(f"{folder} is in the way and no folder of an earlier run: remove it.") from None


def _remove_folder(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # others are at work in it
        return


# Locks


def try_lock(descriptor: int) -> bool | None:
    """Whether the lock of a file was free and is now ours, until it is closed; `None` if there are no locks here."""
    if fcntl is None:  # pragma: no cover
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_same(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one that has the name `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _identity(pid: int) -> str:
    """A process of this machine: where it runs, its number, and when it began."""
    return f"{_place()} {pid} {_start_time(pid)}"


def _place() -> str:
    """This start of this machine, and the space of process numbers (containers have their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def _start_time(pid: int) -> str:
    try:
        # After the name of the program, which may hold spaces, the 20th field.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "gone"


def _process_is_gone(identity: str) -> bool:
    """Whether the process of an identity has certainly ended: False in doubt, for one of another machine say."""
    place, _, rest = identity.partition(" ")
    pid, _, start = rest.partition(" ")
    if place == "unknown" or place != _place() or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start


# Files


def exists(path: Path) -> bool:
    """Whether there is anything at `path`, a broken link included."""
    return os.path.lexists(path)


def remove(path: Path) -> None:
    """Remove a file or a folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all that is in it are on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink() and (path.is_dir() or path.is_file()):
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk.

    Raises:
        OSError: the disk refuses them, because it is full say.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # pragma: no cover
        return
    try:
        # Windows syncs only what is open for writing.
        descriptor = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    except PermissionError:  # a file without the right to read it: nothing can be done
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
