"""Files that appear complete or not at all; `hub.atomic` does the same for folders."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[Path]:
    """An empty temporary file next to `path` that takes its place when the block ends without an error.

    Args:
        path: destination; its folder is made if need be.
        mode: permissions; the temporary file is private to its owner, a data set is meant to be shared.
    """
    destination = Path(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(destination)
    finally:
        # Also on KeyboardInterrupt; nothing is left to remove after a success.
        temporary.unlink(missing_ok=True)
