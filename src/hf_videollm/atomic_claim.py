"""The temporary names of a run that writes to a destination, and how the next run finds out that this run is dead.

For a destination NAME, they are in the hidden folder `.NAME.partial` beside it, which is removed when it is empty. Each
run chooses a random TOKEN. It locks the file `TOKEN.lock` (flock) as long as it lives; when the process ends, however
that happens, the system releases the lock. The run writes its content to `TOKEN.new`. While a destination is replaced
in two steps, its old content is called `TOKEN.old`.

If a run can lock the file of another token, the run of that token is dead. If the file system has no locks, the process
id and start time in the file tell whether that process still exists.
"""

import errno
import hashlib
import os
import shutil
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claim", "exists", "is_same", "mode_of", "remove", "remove_dead_claims", "sync", "sync_tree", "try_lock"]

FOLDER, LOCK, CONTENT, ASIDE = ".partial", ".lock", ".new", ".old"
# Most file systems allow names of 255 bytes, and a dot and `.partial` are added to the name of the destination. A name
# that is longer than this is cut, and ends in 8 digits of its hash.
LONGEST_NAME = 255 - 10
# Errors of file systems that cannot sync a folder.
NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP}


@dataclass
class Claim:
    """The temporary names of one run. It is a context manager, which removes what has these names when it ends.

    Attributes:
        destination: what the run is going to write or replace.
        token: random text, which makes the names different from those of other runs.
    """

    destination: Path
    token: str
    _lock: int

    @classmethod
    def make(cls, destination: Path) -> Self:
        """Reserve names that no other run has.

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
                continue  # another run ended in this moment and removed the folder
            try:
                os.write(descriptor, _identity(os.getpid()).encode())
                # Another run may have removed the file, because it found the file before it was locked.
                if try_lock(descriptor) is not False and is_same(descriptor, path):
                    return cls(destination, token, descriptor)
            except BaseException:
                os.close(descriptor)
                _clear(destination, token)
                raise
            os.close(descriptor)

    @property
    def content(self) -> Path:
        """Where the run writes its content. After the death of the run, others may remove it."""
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
        """Remove what is left. If the destination was put aside and nothing replaced it, it is brought back."""
        try:
            _clear(self.destination, self.token)
        finally:
            os.close(self._lock)


def remove_dead_claims(destination: Path) -> None:
    """Remove what dead runs left beside a destination. If it was put aside and not replaced, it is brought back."""
    folder = _claims_folder(destination)
    try:
        names = [] if folder.is_symlink() else os.listdir(folder)
    except OSError:  # no run has left anything, or the folder cannot be read
        return
    for name in names:
        if name.endswith(LOCK):
            _remove_if_dead(destination, name.removesuffix(LOCK))
    _remove_folder(folder)


def _remove_if_dead(destination: Path, token: str) -> None:
    path = _named(destination, token, LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:  # it was removed meanwhile, or belongs to another user
        return
    try:
        locked = try_lock(descriptor)
        if locked is None:
            locked = _process_is_gone(os.read(descriptor, 4096).decode(errors="replace"))
        if locked and is_same(descriptor, path):
            _clear(destination, token)
    except OSError:  # this user may not change it, which is no reason to fail
        return
    finally:
        os.close(descriptor)


def _clear(destination: Path, token: str) -> None:
    """Remove everything that belongs to a token. The lock comes last, because other runs find the rest by it."""
    aside, content, lock = (_named(destination, token, suffix) for suffix in (ASIDE, CONTENT, LOCK))
    if exists(aside):
        _bring_back(aside, destination)
    remove(content)
    if not exists(aside) and not exists(content):
        remove(lock)
    _remove_folder(lock.parent)


def _bring_back(aside: Path, destination: Path) -> None:
    """Give the old content its name again, or remove it if another run has put newer content there."""
    try:
        if not exists(destination):
            os.rename(aside, destination)
            return
    except OSError:
        # Another run may have put its content there after the look. If not, the rename failed for another reason.
        if not exists(destination):
            raise
    remove(aside)


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
        # Nothing may be there by now, because the run that used the folder has removed it. The caller tries again.
        found = mode_of(folder)
        if found is not None and not stat.S_ISDIR(found):
            raise FileExistsError(f"{folder} must be a folder for temporary files, but is not: remove it.") from None


def _remove_folder(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # other runs still use it
        return


# Locks


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed. False if another process has locked it; `None` if locks are impossible."""
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
    """Text that identifies a process: where it runs (`_place`), its process id and its start time."""
    return f"{_place()} {pid} {_start_time(pid)}"


def _place() -> str:
    """Text that identifies the current boot of this machine, and the container: each has its own process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def _start_time(pid: int) -> str:
    try:
        # The start time is the 20th field after the name of the program, which is in brackets and may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "gone"


def _process_is_gone(identity: str) -> bool:
    """Whether a process has certainly ended. False if that is unknown, for example on another machine."""
    place, _, rest = identity.partition(" ")
    pid, _, start = rest.partition(" ")
    if place == "unknown" or place != _place() or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start


# Files


def mode_of(path: Path) -> int | None:
    """Mode of what is at `path`, a link not followed. `None` if nothing is there.

    This is one look. Two looks (`exists`, then `is_dir`) may see two states, because other runs rename what is there.
    """
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def exists(path: Path) -> bool:
    """Whether there is anything at `path`, a broken link included."""
    return os.path.lexists(path)


def remove(path: Path) -> None:
    """Remove a file or a folder. What cannot be removed is left without an error."""
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
        OSError: the content cannot be written to the disk, for example because the disk is full.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # pragma: no cover
        return
    try:
        # Windows can sync only files that are open for writing.
        descriptor = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    except PermissionError:  # the file cannot be read, so it cannot be synced
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
