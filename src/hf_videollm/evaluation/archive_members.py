"""The files in an archive, checked before anything is written: no name leads out, nothing is a link, sizes are bounded.

    with opened(archive) as members:
        for member in members:
            with member.open() as file: ...

Parts of a cut archive are read one after the other, so that no joined copy takes room on the disk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .archives import NOTES, Archive, ArchiveError

__all__ = ["ArchiveLimits", "Member", "opened"]

# What the libraries raise for damaged archives. zipfile raises NotImplementedError for unknown methods, and
# RuntimeError for encrypted files.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)
# More bytes than this in one header of a tar file are an attack: the library reads headers into memory as a whole.
MOST_HEADER_BYTES = 16 << 20
# Small archives may become so large, whatever they hold.
FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may become.

    Attributes:
        files: most files in it.
        bytes: most bytes that they take unpacked.
        ratio: most bytes unpacked for each byte packed, beyond the first gigabyte. Videos and pictures are packed
            already, and texts become a few times larger; the worst case that a file can be made to reach is over 1000.
    """

    files: int = 2_000_000
    bytes: int = 4 << 40
    ratio: float = 100.0


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path below the folder of the archive.
        size: unpacked.
        open: opens it for reading. The members of a tar file are read in their order.
    """

    name: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def opened(archive: Archive, limits: ArchiveLimits = ArchiveLimits()) -> Iterator[list[Member]]:
    """The files in an archive, in its order. Folders are left out: they are made when a file needs them.

    Raises:
        ArchiveError: the archive is damaged, holds a link or another thing that is no file, a name that leads out of
            its folder, the same file twice, or more than the limits allow.
    """
    with _Joined(archive.parts) as joined, named_errors(archive):
        if archive.is_zip:
            with zipfile.ZipFile(joined) as packed:
                yield _checked(archive, _zip_members(packed), limits)
        else:
            with _decompressed(archive, joined) as plain, _tar(plain) as tar:
                yield _checked(archive, _tar_members(tar), limits)


@contextmanager
def named_errors(archive: Archive) -> Iterator[None]:
    """Raise errors of the libraries as an `ArchiveError` that names the archive."""
    try:
        yield
    except ArchiveError:
        raise
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The disk, not the archive.
            raise
        from ..models.errors import one_line

        raise ArchiveError(
            f"{archive.name} is damaged or incomplete ({one_line(error, 200)}); fetch it again."
        ) from error


def _zip_members(packed: zipfile.ZipFile) -> Iterator[Member]:
    for entry in packed.infolist():
        # The name as it stands in the file: `entry.filename` ends at a zero byte, and has other separators on Windows.
        name, mode = entry.orig_filename, entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{name!r} in it is a link or a device, which no benchmark needs")
        if entry.flag_bits & 1:
            raise ArchiveError(f"{name!r} in it is encrypted")
        if not entry.is_dir() and not stat.S_ISDIR(mode):
            yield Member(_safe_name(name), entry.file_size, lambda entry=entry: packed.open(entry))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    for entry in tar:
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise ArchiveError(f"{entry.name!r} in it is a link, a device or a file with holes, which is not unpacked")
        yield Member(_safe_name(entry.name), entry.size, lambda entry=entry: _tar_file(tar, entry))  # type: ignore[misc]


def _tar(plain: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=_SmallReads(plain), mode="r:")  # type: ignore[call-overload]


def _tar_file(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(entry)
    assert file is not None
    return file


def _safe_name(name: str) -> PurePosixPath:
    r"""A name in an archive as a path below a folder.

    Raises:
        ArchiveError: it leads out of the folder, on this system or on another one (`C:\x`, `\\server\x`).
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_absolute = name.startswith("/") or (len(name) > 1 and name[1] == ":")
    if (
        not parts
        or is_absolute
        or ".." in parts
        or NOTES in parts
        or "\\" in name
        or any(ord(letter) < 32 for letter in name)
    ):
        raise ArchiveError(f"the name {name!r} in it is not safe")
    return PurePosixPath(*parts)


def _checked(archive: Archive, members: Iterator[Member], limits: ArchiveLimits) -> list[Member]:
    """All members, read as far as the limits allow.

    Raises:
        ArchiveError: see `opened`.
    """
    most = min(limits.bytes, int(archive.size * limits.ratio) + FREE_BYTES)
    found: dict[PurePosixPath, Member] = {}
    total = 0
    try:
        for member in members:
            total += member.size
            if len(found) >= limits.files or total > most:
                raise ArchiveError(f"it would become more than {len(found):,} files of {most / 1e9:,.1f} GB")
            if member.name in found:
                raise ArchiveError(f"it holds {str(member.name)!r} twice")
            found[member.name] = member
        for name in found:
            if inner := next((parent for parent in name.parents if parent in found), None):
                raise ArchiveError(f"{str(inner)!r} in it is a file and a folder")
    except ArchiveError as error:
        raise ArchiveError(
            f"{archive.name} is not unpacked: {error}. Look into it before you unpack it yourself."
        ) from None
    return list(found.values())


def _decompressed(archive: Archive, joined: io.RawIOBase) -> Any:
    """The content of a tar file that may be compressed."""
    name, file = archive.name.name.lower(), io.BufferedReader(joined)
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=file)
    if name.endswith(".bz2"):
        return bz2.BZ2File(file)
    if name.endswith(".xz"):
        return lzma.LZMAFile(file)
    return file


class _SmallReads:
    """A file that refuses to be read in large pieces, as tarfile reads headers."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise ArchiveError(f"a header in it claims {size:,} bytes")
        content: bytes = self._file.read(size)
        return content


class _Joined(io.RawIOBase):
    """Several files, one after the other, as one file that can only be read."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.stat().st_size)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        for number, file in enumerate(self._files):
            if self._starts[number] <= self._place < self._starts[number + 1]:
                file.seek(self._place - self._starts[number])
                count = file.readinto(buffer)
                self._place += count
                return count
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
