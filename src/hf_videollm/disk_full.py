"""A full disk is told in one line, whichever library met it."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic_claim import FOLDER

__all__ = ["DiskFullError", "full_disk_reason", "name_full_disk"]

# No space, no quota left, and a file larger than the system or a limit of the process allows.
REASONS = {
    number: os.strerror(number) for number in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
}
# Libraries written in Rust and C++ give the number, or only the words.
RUST_NUMBER = re.compile(r"\(os error (\d+)\)")


class DiskFullError(OSError):
    """There is no room for what is written; what was there before is kept.

    `errno` is that of the system: ENOSPC, EDQUOT or EFBIG.
    """

    def __str__(self) -> str:
        # OSError would put "[Errno 28]" before it and the path behind.
        return str(self.strerror)


def full_disk_reason(error: BaseException | None) -> int | None:
    """The system's error number if `error`, or what caused it, is a full disk; otherwise `None`."""
    return _find_full_disk(error)[0]


def _find_full_disk(error: BaseException | None) -> tuple[int | None, str | None, str]:
    """The system's error number of a full disk, the file that the system names with it, and a library's own words."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in REASONS:
            named = error.filename
            return error.errno, os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else None, ""
        # The last line tells it: errors of other processes come with their traceback.
        for line in reversed(str(error).splitlines()):
            for match in RUST_NUMBER.finditer(line):
                if int(match[1]) in REASONS:
                    return int(match[1]), None, line.strip()
            if not isinstance(error, OSError):
                for number, words in REASONS.items():
                    if words in line:
                        return number, None, line.strip()
        error = error.__cause__ or error.__context__
    return None, None, ""


@contextmanager
def name_full_disk(destination: str | os.PathLike[str]) -> Iterator[None]:
    """Raises `DiskFullError`, naming `destination`, where the block ends with a full disk.

    Where the system names a file that lies elsewhere, or a library says more than the number, that is repeated: it may
    be another disk that is full.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number, file, words = _find_full_disk(error)
        if number is None:
            raise
        place = os.fspath(destination)
        reason = f"{REASONS[number].lower()} ({words[:300]})" if words else REASONS[number].lower()
        room = "make room, or choose a destination on another disk."
        if file is not None and not _grows_there(file, place):
            # The system's folder for temporary files, say: it may be on another disk than the destination.
            reason, room = f"{reason} (for {file})", f"make room there, on the disk of {file}."
        raise DiskFullError(
            number, f"{place} was not written: {reason}. What was there before is kept; {room}", place
        ) from error


def _grows_there(file: str, destination: str) -> bool:
    """Whether a file belongs to a destination: lies in it, in the folder beside it where it grows, or holds them."""
    place, path = Path(os.path.realpath(destination)), Path(os.path.realpath(file))
    if place.is_relative_to(path):
        return True
    if not path.is_relative_to(place.parent):
        return False
    first = path.relative_to(place.parent).parts[0]
    return first == place.name or first.endswith(FOLDER)
