"""Finds packed files in the folder of a benchmark: archives, and archives that are cut into parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NOTES", "Archive", "ArchiveError", "find_archives", "unreadable_archives"]

# Folder with one note for each archive that was unpacked. No archive may write into it.
NOTES = ".unpacked"

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Nothing in Python's standard library opens these.
UNREADABLE = (".7z", ".rar")
# `videos.tar.part.aa`, `videos.tar.partaa`, `merged.zip.001`, `merged.zip.part-1`, `frames.zipaa`.
_PART = re.compile(
    r"(?P<whole>.+(?:\.zip|\.tar|\.tar\.gz|\.tgz|\.tar\.bz2|\.tar\.xz))"
    r"(?:(?P<word>[._-]?part[._-]?)|[._-]?)(?P<part>\d{1,5}|[a-z]{2,4})",
    re.IGNORECASE,
)
# Parts of `zip -s`: `videos.z01`, `videos.z02`, ... and `videos.zip`, which is the last one.
_SPANNED = re.compile(r"(?P<stem>.+)\.z\d{2,}", re.IGNORECASE)


class ArchiveError(ValueError):
    """An archive is damaged, incomplete or not safe; the message names it and, if there is one, the file in it."""


@dataclass(frozen=True)
class Archive:
    """A packed file, or the parts of one in their order.

    Attributes:
        name: path of the whole archive. There is no such file if it is cut into parts.
        parts: the files that hold it, one after the other.
    """

    name: Path
    parts: tuple[Path, ...]

    @property
    def is_zip(self) -> bool:
        return self.name.name.lower().endswith(".zip")

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.stat().st_size for part in self.parts)


def find_archives(folder: Path) -> list[Archive]:
    """The archives in a folder and the folders below it, in the order of their names. Hidden folders are left out.

    Raises:
        ArchiveError: a part of an archive is missing, an archive is there twice, whole and in parts, or it was cut by
            `zip -s`.
    """
    whole: dict[Path, Archive] = {}
    parts: dict[Path, dict[str, Path]] = {}
    for path in visible_files(folder):
        name = path.name.lower()
        if name.endswith(SUFFIXES):
            whole[path] = Archive(path, (path,))
        elif (match := _PART.fullmatch(path.name)) and _is_part(match, path.parent):
            parts.setdefault(path.with_name(match["whole"]), {})[match["part"].lower()] = path
        elif (match := _SPANNED.fullmatch(path.name)) and (last := path.with_name(f"{match['stem']}.zip")).exists():
            command = f"zip -s 0 {last.name} --out joined.zip"
            raise ArchiveError(f"{last} was cut by `zip -s`: join its parts with `{command}`, and remove them.")
    for joined, found in parts.items():
        if joined in whole:
            raise ArchiveError(f"{joined} is there whole and in parts ({_first(found)}): remove one of the two.")
        _check_gaps(joined, sorted(found))
        whole[joined] = Archive(joined, tuple(found[part] for part in sorted(found)))
    return [whole[path] for path in sorted(whole)]


def unreadable_archives(folder: Path) -> list[Path]:
    """Packed files that `find_archives` leaves out, because other programs have to unpack them."""
    return [path for path in visible_files(folder) if path.name.lower().endswith(UNREADABLE)]


def visible_files(folder: Path) -> list[Path]:
    """All files in a folder and below it, by name. Hidden ones and links are left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            found += visible_files(path)
        elif path.is_file():
            found.append(path)
    return found


def _is_part(match: re.Match[str], folder: Path) -> bool:
    """Whether a name is that of a part. Letters alone may be another suffix, unless the first part is there, too."""
    part = match["part"]
    if part.isdigit() or match["word"]:
        return True
    first = f"{match.string.removesuffix(part)}{'a' * len(part)}"
    return (folder / first).exists()


def _check_gaps(name: Path, found: list[str]) -> None:
    """Refuse parts that do not follow each other, and parts without the first one. Nobody can tell the last one."""
    if len({len(part) for part in found}) > 1:
        raise ArchiveError(f"{name}: the names of its parts have different lengths ({found[0]}, ..., {found[-1]}).")
    numbers = [int(part) if part.isdigit() else _letters(part) for part in found]
    start = numbers[0] if found[0].isdigit() and numbers[0] == 1 else 0
    for place, number in enumerate(numbers, start=start):
        if number != place:
            before = f"behind {found[place - start - 1]}" if place > start else "the first one"
            raise ArchiveError(f"{name}: a part is missing ({before}; the next one is {found[place - start]}).")


def _letters(part: str) -> int:
    """Number of a part that is counted in letters: 0 for `aa`, 1 for `ab`, 26 for `ba`."""
    number = 0
    for letter in part:
        number = number * 26 + ord(letter) - ord("a")
    return number


def _first(found: dict[str, Path]) -> str:
    return found[min(found)].name
