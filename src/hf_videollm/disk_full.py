"""A full disk is told in one line, whichever library met it."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in REASONS:
            return error.errno
        text = str(error)
        for match in RUST_NUMBER.finditer(text):
            if int(match[1]) in REASONS:
                return int(match[1])
        if not isinstance(error, OSError):
            for number, words in REASONS.items():
                if words in text:
                    return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def name_full_disk(destination: str | os.PathLike[str]) -> Iterator[None]:
    """Raises `DiskFullError`, naming `destination`, where the block ends with a full disk."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number = full_disk_reason(error)
        if number is None:
            raise
        raise DiskFullError(
            number,
            f"{os.fspath(destination)} was not written: {REASONS[number].lower()}. What was there before is kept; make "
            "room, or choose a destination on another disk.",
            os.fspath(destination),
        ) from error
