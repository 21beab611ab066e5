"""A folder of entries on disk: bounded in size, shared by processes, and whole after a kill at any moment.

Every entry is a file of its own, which appears in one step (rename) and never changes. Its checksum is verified when it
is read: an entry that is damaged, or that lost its content when the machine went down, is removed and is missing then.

Processes take turns at one lock (flock, which the system releases when a process dies) to make room and to begin an
entry. The file of the lock holds how many bytes are in the folder. Whoever adds an entry counts it before it exists,
and nobody takes bytes off: so after a kill, the number can be too large, but never too small. When it reaches the
bound, the folder is counted anew, and the entries that were not read for the longest time are removed.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ...atomic_claim import try_lock
from ...disk_full import full_disk_reason

__all__ = ["CacheFolder"]

logger = logging.getLogger(__name__)

LOCK, TAG, TEMPORARY = "lock", "CACHEDIR.TAG", ".new-"
# By this file, programs that make backups know that the folder can be left out (https://bford.info/cachedir/).
TAG_CONTENT = "Signature: 8a477f597d28d172789f06886806bc55\n# Frames and sounds that hf_videollm has decoded.\n"
# Before the content: a mark of this format, the checksum and the length of the content.
HEADER = struct.Struct("<8sIQ")
MARK = b"hfvllm01"
# File systems give whole blocks to files.
BLOCK = 4096
# The blocks of the lock, the tag and the folders, one for each first letter of the keys.
FIXED = 18 * BLOCK
LEAST = 2**20
# When room is made, this share of the bound is left free, so that the folder is rarely counted.
FREED = 0.1
# Where the system has no locks, an unfinished file of this age in seconds has no writer any more.
UNFINISHED_AGE = 24 * 3600


class CacheFolder:
    """Maps keys to bytes, in files of a folder.

    Objects hold no open file, so they may be used by several threads, and copied into other processes.

    Args:
        folder: it is made if it does not exist.
        max_bytes: bound for all files in it together.

    Raises:
        OSError: the folder cannot be made or written to.
        ValueError: the bound is too small for anything.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder).absolute(), max_bytes
        if max_bytes < LEAST:
            raise ValueError(f"A cache of {max_bytes:,} bytes can hold nothing: give at least {LEAST:,}.")
        self._has_warned = False
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / TAG).exists():
            (self.folder / TAG).write_text(TAG_CONTENT, encoding="utf-8")
        # The folder may be larger than this bound, or hold what a killed process left.
        with self._locked() as lock:
            self._make_room(lock, 0, anew=True)

    def get(self, key: str) -> memoryview | None:
        """The content of an entry; None if there is none, or if it is damaged. It is used now: others are older.

        Args:
            key: 64 hexadecimal digits.
        """
        path = self._path(key)
        try:
            with open(path, "rb", buffering=0) as file:
                # NumPy does not fill the memory with zeros first.
                content = np.empty(os.fstat(file.fileno()).st_size, np.uint8).data
                filled = 0
                while filled < len(content) and (count := file.readinto(content[filled:])):
                    filled += count
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"an entry cannot be read ({error})")
            return None
        if filled < len(content) or not _is_whole(content):
            logger.warning("%s: an entry is damaged, and is made again.", path)
            path.unlink(missing_ok=True)
            return None
        # Another process may have removed it, or it belongs to another user.
        with suppress(OSError):
            os.utime(path)
        return content[HEADER.size :]

    def put(self, key: str, *parts: bytes | memoryview) -> bool:
        """Store an entry; whether that worked. What does not fit, or cannot be written, is not stored.

        A cache must never end a training. So problems of the disk are told once, as a warning.

        Args:
            key: 64 hexadecimal digits.
            parts: the content, one part after another, so that large ones need not be joined in memory.
        """
        length, checksum = sum(map(len, parts)), 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        size = HEADER.size + length
        if FIXED + _blocks(size) > self.max_bytes:
            self._warn(f"an entry of {size:,} bytes does not fit into {self.max_bytes:,} bytes")
            return False
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            with self._locked() as lock:
                self._make_room(lock, _blocks(size))
                temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}")
                descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
                # As long as this process lives, others see by this lock that the file is being written.
                try_lock(descriptor)
                os.truncate(descriptor, size)
            try:
                for part in (HEADER.pack(MARK, checksum, length), *parts):
                    _write(descriptor, part)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
                os.close(descriptor)
        except OSError as error:
            reason = "the disk is full" if full_disk_reason(error) else str(error)
            self._warn(f"an entry cannot be written ({reason})")
            return False
        return True

    def size(self) -> int:
        """Bytes of all files in the folder, in whole blocks."""
        return FIXED + sum(_blocks(info.st_size) for _, info in self._files())

    def __len__(self) -> int:
        """Number of entries."""
        return sum(not path.name.startswith(TEMPORARY) for path, _ in self._files())

    def _path(self, key: str) -> Path:
        return self.folder / key[0] / key

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """All entries and unfinished files, with what the system knows about them."""
        for part in os.scandir(self.folder):
            if not part.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(part.path):
                try:
                    yield Path(file.path), file.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process has removed it
                    continue

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Wait for the lock of the folder; gives the open file of the lock."""
        descriptor = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _wait_for_lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_room(self, lock: int, wanted: int, anew: bool = False) -> None:
        """Count `wanted` more bytes. If they would be too many, count the folder anew, and remove old entries.

        Args:
            lock: file of the lock, which this process holds.
            wanted: bytes that this process is going to use.
            anew: count in any case.
        """
        text = os.read(lock, 32)
        counted = int(text) if text.strip().isdigit() else None
        if anew or counted is None or counted + wanted > self.max_bytes:
            counted = self._remove_old(wanted)
        os.lseek(lock, 0, os.SEEK_SET)
        # Always of the same length, so that the number is never half of another one.
        os.write(lock, b"%032d" % (counted + wanted))

    def _remove_old(self, wanted: int) -> int:
        """Remove what dead processes left and, if there is no room, the entries that were not used for longest.

        Returns:
            The bytes that are left.
        """
        total, entries = FIXED, []
        for path, info in self._files():
            if path.name.startswith(TEMPORARY):
                if _is_abandoned(path, info):
                    path.unlink(missing_ok=True)
                    continue
            else:
                entries.append((info.st_mtime_ns, path, _blocks(info.st_size)))
            total += _blocks(info.st_size)
        if total + wanted <= self.max_bytes:
            return total
        goal = int(self.max_bytes * (1 - FREED)) - wanted
        for _, path, size in sorted(entries):
            if total <= goal:
                break
            try:
                # Who is reading it has it open, and reads on.
                path.unlink(missing_ok=True)
                total -= size
            except OSError:  # Windows does not remove files that are open
                continue
        return total

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            logger.warning("%s: %s; training goes on without it.", self.folder, problem)
        self._has_warned = True


def _is_whole(content: memoryview) -> bool:
    if len(content) < HEADER.size:
        return False
    mark, checksum, length = HEADER.unpack(content[: HEADER.size])
    payload = content[HEADER.size :]
    return bool(mark == MARK and length == len(payload) and checksum == zlib.crc32(payload))


def _write(descriptor: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _is_abandoned(path: Path, info: os.stat_result) -> bool:
    """Whether the process that was writing a file is dead."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        locked = try_lock(descriptor)
    finally:
        os.close(descriptor)
    return time.time() - info.st_mtime > UNFINISHED_AGE if locked is None else locked


def _wait_for_lock(descriptor: int) -> None:
    """Wait until this process has the lock. Where the system has no locks, there is nothing to wait for."""
    while try_lock(descriptor) is False:
        time.sleep(0.001)
