"""Media that are packed into Parquet files: written out, because a model is given files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..atomic import atomic_file
from .data_files import DataError, DataFiles, Row

__all__ = ["unpacked"]

FOLDER = "unpacked"


def unpacked(data: DataFiles, row: Row, field: str, name: str) -> Path:
    """Path of a medium that a field of a Parquet row holds as bytes. It is written when it is not there yet.

    Args:
        data: the benchmark, whose folder `unpacked` takes the file.
        row: of the Parquet file.
        field: with `bytes`, and perhaps a `path` that tells the suffix.
        name: of the file, without suffix.

    Raises:
        DataError: the field holds no bytes, or the name leads out of the folder.
    """
    value = row.get(field, Mapping)
    content = value.get("bytes")
    if not isinstance(content, bytes):
        raise DataError(f"{row.where}: {field} holds no bytes, only {', '.join(value) or 'nothing'}.")
    # Without a path, it is WAV that `datasets` has written.
    suffix = Path(str(value.get("path") or "")).suffix or ".wav"
    path = data.medium(f"{FOLDER}/{name}{suffix}")
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    return path
