"""Unpacks the archives of a benchmark beside themselves; an unpacking that was killed goes on where it was.

Every file is written under another name and gets its own in one step, so a file that is there is complete. The folder
`.unpacked` holds one note for each archive: which of them are done, so that nothing is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from ..atomic_claim import try_lock
from ..disk_full import DiskFullError, name_full_disk
from .archive_members import ArchiveLimits, Member, named_errors, opened
from .archives import NOTES, SUFFIXES, Archive, ArchiveError, find_archives

__all__ = ["packed", "unpack_all"]

CHUNK = 1 << 20
# Room that stays free: other programs write, too, and folders take some.
RESERVE = 64 << 20

# (bytes that are unpacked, bytes to unpack) of one archive.
OnProgress = Callable[[int, int], None]


def packed(folder: Path) -> list[Archive]:
    """The archives in a folder that `unpack_all` has not unpacked yet.

    Raises:
        ArchiveError: see `find_archives`.
    """
    inner = {Path(name) for note in _all_notes(folder) for name in note.get("inner", [])}
    return [
        archive
        for archive in find_archives(folder)
        if not _Note(folder, archive).is_done and not {part.relative_to(folder) for part in archive.parts} <= inner
    ]


def unpack_all(
    folder: Path,
    progress: Callable[[Archive], OnProgress] | None = None,
    limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008 (frozen)
) -> list[Archive]:
    """Unpack all archives in a folder, each into the folder in which it stands. The archives are kept.

    Archives that were inside of archives are not unpacked. Several processes may call this at once: one of them works,
    and the others wait for it.

    Args:
        folder: of the benchmark.
        progress: gives for an archive a function that is told how far it is.
        limits: what an archive may become.

    Returns:
        The archives that were unpacked now.

    Raises:
        ArchiveError: an archive is damaged, incomplete or not safe, or a file of it is there with another size.
        DiskFullError: there is not enough room. It is checked before anything of an archive is written.
    """
    done = []
    for archive in packed(folder):
        note = _Note(folder, archive)
        with note.turn():
            if not note.is_done:
                _unpack(archive, note, None if progress is None else progress(archive), limits)
                done.append(archive)
    return done


def _unpack(archive: Archive, note: _Note, tell: OnProgress | None, limits: ArchiveLimits) -> None:
    place = archive.name.parent
    with opened(archive, limits) as members:
        waiting = [member for member in members if not _is_there(place, member, archive, note.was_begun)]
        _check_room(place, archive, sum(member.size for member in waiting))
        inner = [member for member in members if member.name.name.lower().endswith(SUFFIXES)]
        note.write(is_done=False, inner=[_relative(place / member.name, note.root) for member in inner])
        total = sum(member.size for member in members)
        written = total - sum(member.size for member in waiting)
        for member in waiting:
            if tell is not None:
                tell(written, total)
            with name_full_disk(place / member.name):
                _write(place / member.name, member, archive, note.temporary)
            written += member.size
        if tell is not None:
            tell(total, total)
    note.write(is_done=True, inner=note.content.get("inner", []))


def _write(path: Path, member: Member, archive: Archive, temporary: Path) -> None:
    """Write a file under another name, and give it its own name when it is complete.

    `atomic_file` would wait for the disk after each file, which takes hours for folders of frames.
    """
    size = 0
    with temporary.open("wb") as file, named_errors(archive), member.open() as source:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            file.write(chunk)
    if size != member.size:
        raise ArchiveError(
            f"{archive.name}: {str(member.name)!r} has {size:,} bytes, not {member.size:,}: fetch it again."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, path)


def _is_there(place: Path, member: Member, archive: Archive, was_begun: bool) -> bool:
    """Whether a file was unpacked before.

    Raises:
        ArchiveError: something else stands at its place.
    """
    path = place / member.name
    _refuse_links(place, path, archive)
    if not path.exists():
        return False
    if path.is_dir():
        raise ArchiveError(
            f"{archive.name} holds the file {str(member.name)!r}, where {path} is a folder: move it away."
        )
    if path.stat().st_size == member.size:
        return True
    if not was_begun:
        raise ArchiveError(
            f"{archive.name} holds another {str(member.name)!r} than {path} ({member.size:,} and "
            f"{path.stat().st_size:,} bytes): move that file away, or the archive."
        )
    return False


def _refuse_links(place: Path, path: Path, archive: Archive) -> None:
    """Refuse a path that goes through a link, which may lead anywhere, or through a file."""
    for part in (path, *path.parents):
        if part == place:
            return
        if part.is_symlink():
            raise ArchiveError(f"{archive.name} would be unpacked through the link {part}: remove the link.")
        if part != path and part.exists() and not part.is_dir():
            raise ArchiveError(f"{archive.name} needs the folder {part}, which is a file: move it away.")


def _check_room(place: Path, archive: Archive, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed + RESERVE > free:
        words = f"{archive.name} needs {needed / 1e9:,.2f} GB to be unpacked, and {free / 1e9:,.2f} GB are free"
        raise DiskFullError(ENOSPC, f"{words}: make room, or choose another folder.")


@dataclass
class _Note:
    """What is known of the unpacking of one archive.

    Attributes:
        root: folder of the benchmark.
        archive: the archive.
    """

    root: Path
    archive: Archive

    @property
    def path(self) -> Path:
        name = _relative(self.archive.name, self.root)
        return self.root / NOTES / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    @property
    def temporary(self) -> Path:
        return self.path.with_suffix(".part")

    @property
    def content(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def was_begun(self) -> bool:
        """Whether an archive of this name was unpacked here, so that its files may be replaced."""
        return bool(self.content)

    @property
    def is_done(self) -> bool:
        """Whether this very archive was unpacked."""
        content = self.content
        return content.get("done") is True and content.get("parts") == self._parts()

    def write(self, is_done: bool, inner: Sequence[str]) -> None:
        """Note how far the archive is."""
        name = _relative(self.archive.name, self.root)
        content = {"archive": name, "parts": self._parts(), "done": is_done, "inner": list(inner)}
        with atomic_file(self.path) as file:
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other process unpacks this archive. What a killed one has half written is removed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("ab") as file:
            while try_lock(file.fileno()) is False:
                time.sleep(0.1)
            try:
                yield
            finally:
                self.temporary.unlink(missing_ok=True)

    def _parts(self) -> list[list[Any]]:
        return [[part.name, part.stat().st_size] for part in self.archive.parts]


def _all_notes(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / NOTES).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield found


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
