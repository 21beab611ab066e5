"""Reads the headers of safetensors files, which hold the names, shapes and types of all tensors, but no data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError

# A Git LFS pointer is a short text file with this beginning. A clone without `git lfs pull` has it instead of the file.
LFS_MARK = b"version https://git-lfs"


class _InAFile(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def file(self) -> Path: ...


AnyTensor = TypeVar("AnyTensor", bound=_InAFile)


@dataclass(frozen=True)
class StoredHeader:
    """One tensor as described by the header of its file. `dtype` is safetensors' name of the type, such as "BF16"."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of values."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_headers(file: Path) -> list[StoredHeader]:
    """Read the headers of all tensors in a safetensors file.

    Raises:
        CheckpointError: see `read_entries`.
    """
    entries, _ = read_entries(file)
    return [StoredHeader(name, file, tuple(entry["shape"]), entry["dtype"]) for name, entry in entries.items()]


def read_entries(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the header of a safetensors file.

    Returns:
        For each tensor, its entry of the header: `dtype`, `shape` and `data_offsets`; and the position of the first
        byte of data, from which the offsets count.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, a Git LFS pointer, or its header does not fit its
            length.
    """
    try:
        refuse_pointer(file)
        with file.open("rb") as handle:
            # The library checks names, sizes and offsets against the length of the file.
            with safe_open(file, framework="pt"):
                pass
            size = int.from_bytes(handle.read(8), "little")
            entries = json.loads(handle.read(size))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing: download it again.") from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file} is truncated or damaged ({reason}): download it again.") from error
    entries.pop("__metadata__", None)
    return entries, 8 + size


def refuse_pointer(file: Path) -> None:
    """Raise `CheckpointError` if the file is a Git LFS pointer instead of the weights."""
    with file.open("rb") as handle:
        if handle.read(len(LFS_MARK)) == LFS_MARK:
            raise CheckpointError(f"{file} is a Git LFS pointer instead of the weights: run `git lfs pull` there.")


def by_unique_name(tensors: Iterable[AnyTensor]) -> dict[str, AnyTensor]:
    """Maps names to the tensors of several files.

    Raises:
        CheckpointError: two files hold a tensor of the same name.
    """
    by_name: dict[str, AnyTensor] = {}
    for tensor in tensors:
        if (twin := by_name.get(tensor.name)) is not None:
            raise CheckpointError(
                f"{tensor.name} is in both {twin.file} and {tensor.file}: remove the file that does not belong here."
            )
        by_name[tensor.name] = tensor
    return by_name


def check_weight_map(index_file: Path, weight_map: Mapping[str, str], by_name: Mapping[str, AnyTensor]) -> None:
    """Check that each tensor is in the file that the index names.

    Args:
        index_file: the index, for the message.
        weight_map: maps the names of tensors to names of files, as `read_weight_map` reads it.
        by_name: the tensors of these files, from `by_unique_name`.

    Raises:
        CheckpointError: a tensor is in another file, or in none.
    """
    for name, file_name in weight_map.items():
        if name not in by_name or by_name[name].file.name != file_name:
            raise CheckpointError(
                f"{index_file} says that {name} is in {file_name}, but it is not: download index and shards again."
            )


__all__ = ["StoredHeader", "by_unique_name", "check_weight_map", "read_entries", "read_headers", "refuse_pointer"]
