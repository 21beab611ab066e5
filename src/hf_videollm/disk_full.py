"""Reports a full disk in one line, whichever library failed because of it."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic_claim import FOLDER

__all__ = ["DiskFullError", "full_disk_reason", "name_full_disk"]

# The reasons of the system: no space is left, no quota is left, or a file is larger than the system or a limit of the
# process allows.
REASONS = {
    number: os.strerror(number) for number in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
}
# Errors of libraries written in Rust contain the system's number in this form; those of C++ only its words.
RUST_NUMBER = re.compile(r"\(os error (\d+)\)")


class DiskFullError(OSError):
    """There is no room on the disk for new content; the old content is kept.

    `errno` is the system's number of the reason: ENOSPC, EDQUOT or EFBIG.
    """

    def __str__(self) -> str:
        # OSError would add "[Errno 28]" before the message and the path after it.
        return str(self.strerror)


def full_disk_reason(error: BaseException | None) -> int | None:
    """The system's error number if `error` or one of its causes is a full disk; otherwise `None`."""
    return _find_full_disk(error)[0]


def _find_full_disk(error: BaseException | None) -> tuple[int | None, str | None, str]:
    """Search an error and its causes for a full disk.

    Returns:
        The system's error number, `None` if the reason is another one; the file that the system names, if any; and the
        message of a library, if the error is the library's own.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in REASONS:
            named = error.filename
            return error.errno, os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else None, ""
        # An error of another process holds a whole traceback, whose last line has the reason.
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
    """Raise a `DiskFullError` that names `destination` if the block fails because a disk is full.

    If the system names a file elsewhere, or a library gives a message of its own, the error repeats that, because a
    disk other than that of `destination` may be full.

    Where such blocks stand inside each other, the error names the outermost destination, which the user knows: the
    inner one may be a temporary name of the outer one.
    """
    try:
        yield
    except DiskFullError as error:
        inner, outer = os.fspath(error.filename or ""), os.fspath(destination)
        if inner in ("", outer) or not _grows_there(inner, outer):
            raise
        raise DiskFullError(error.errno, str(error).replace(inner, outer), outer) from error
    except Exception as error:
        number, file, words = _find_full_disk(error)
        if number is None:
            raise
        place = os.fspath(destination)
        reason = f"{REASONS[number].lower()} ({words[:300]})" if words else REASONS[number].lower()
        room = "make room, or choose a destination on another disk."
        if file is not None and not _grows_there(file, place):
            # For example a file in the system's temporary folder, which may be on another disk than the destination.
            reason, room = f"{reason} (for {file})", f"make room there, on the disk of {file}."
        raise DiskFullError(
            number, f"{place} was not written: {reason}. What was there before is kept; {room}", place
        ) from error


def _grows_there(file: str, destination: str) -> bool:
    """Whether a file is in a destination or in its folder of temporary names, or is a parent of the destination."""
    place, path = Path(os.path.realpath(destination)), Path(os.path.realpath(file))
    if place.is_relative_to(path):
        return True
    if not path.is_relative_to(place.parent):
        return False
    first = path.relative_to(place.parent).parts[0]
    return first == place.name or first.endswith(FOLDER)
