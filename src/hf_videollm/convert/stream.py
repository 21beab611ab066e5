"""Reads and writes safetensors folders tensor by tensor, so that only one tensor is in memory at a time.

Tensors are read with plain file reads instead of a memory map. With a map, the pages of a whole shard would count as
memory of the process. All headers are read first, so that a damaged file is found before anything is written.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..atomic import restore
from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import (
    INDEX_NAME,
    SINGLE_NAME,
    check_links,
    only_pickles,
    refuse_nonfinite,
)
from ..models.video_llm_checkpoint_files import read_checkpoint_json as read_json
from ..models.video_llm_checkpoint_files import read_weight_map as read_index
from ..models.video_llm_safetensors import by_unique_name, check_weight_map, read_entries, refuse_pointer
from . import MAX_SHARD_SIZE

# PLLaVA's released loader reads every file that begins with "model-0".
SHARD_PATTERN = "model-0*.safetensors"
SHARD_NAME = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# A function that returns the tensor of a name, or an iterator over its pieces. The values of the pieces, one after the
# other, are the values of the tensor.
Load = Callable[[str], "torch.Tensor | Iterator[torch.Tensor]"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk: its file, its place in the file, its shape and its type.

    Attributes:
        offset: position of the first byte of the data in the file.
        copied_from: the user's file, if `file` is only a copy of it.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0
    copied_from: Path | None = None

    @property
    def place(self) -> Path:
        """The file to name in messages."""
        return self.copied_from or self.file

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a checkpoint folder by name.

    Attributes:
        origin: the path that messages name if a tensor is missing: the index, the only weight file, or the folder.
        notes: notes on files that were ignored, in sentences.
    """

    tensors: dict[str, StoredTensor]
    origin: Path
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The checkpoint folder."""
        return self.origin if self.origin.is_dir() else self.origin.parent


@dataclass(frozen=True)
class TensorPlan:
    """A tensor that is going to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def require_folder(folder: Path, what: str, needs_config: bool = False) -> None:
    """Raise `CheckpointError` if `folder` is no folder, or holds links that lead out of it.

    If a killed process had moved the folder aside in order to replace it, the folder is restored first.

    Args:
        folder: the folder.
        what: what should be in the folder, for messages.
        needs_config: also require a config.json, which the folder of a model always has.
    """
    restore(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file: pass the folder of {what} instead.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} does not exist: pass the folder of {what} "
            "(a Hub repository is downloaded with `hf download REPO --local-dir FOLDER`)."
        )
    if needs_config and not os.path.lexists(folder / "config.json"):
        # The absolute path is used, because the name of the working folder (".") would tell nothing.
        raise CheckpointError(f"{folder.absolute()} is no {what.removeprefix('the ')}: it has no config.json.")
    check_links(folder)


def has_safetensors(folder: Path) -> bool:
    """Whether a folder holds weights for `scan_weights`, complete or damaged."""
    return (folder / SINGLE_NAME).is_file() or (folder / INDEX_NAME).is_file() or any(folder.glob(SHARD_PATTERN))


def scan_weights(folder: Path) -> StoredWeights:
    """Read the headers of all weight files of a folder.

    Shards with an index, shards without one (`model-00001-of-00003.safetensors`) and a single `model.safetensors` are
    read. If a folder has shards and a single file, the shards are used, as in PLLaVA's released loader.

    Raises:
        CheckpointError: there are no safetensors (pickles are refused), a file is missing or damaged, or a tensor is
            stored twice. The message names the file.
    """
    files, index, notes = _weight_files(folder)
    tensors = by_unique_name(tensor for file in files for tensor in read_header(file))
    if index is not None:
        check_weight_map(folder / INDEX_NAME, index, tensors)
    origin = folder / INDEX_NAME if index is not None else files[0] if len(files) == 1 else folder
    return StoredWeights(tensors, origin, notes)


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None, list[str]]:
    """The weight files in order, the map from tensor to file of the index if there is one, and notes."""
    shards = sorted(folder.glob(SHARD_PATTERN))
    single, index_file = folder / SINGLE_NAME, folder / INDEX_NAME
    if not shards and single.is_file():
        return [single], None, []
    notes = []
    if shards and single.is_file():
        notes.append(f"{single} was ignored, because the folder also has shards.")
    if index_file.is_file():
        index = read_index(index_file)
        files = [folder / name for name in sorted(set(index.values()))]
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{file} is missing, but {index_file} names it: download the shard again.")
        if strangers := [shard.name for shard in shards if shard not in files]:
            notes.append(f"{', '.join(strangers)} were ignored: {index_file} does not name them.")
        return files, index, notes
    if shards:
        _check_complete(shards)
        return shards, None, notes
    raise CheckpointError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    if pickles := only_pickles(folder):
        return pickles
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f" (found only {', '.join(others[:3])})" if others else ""
    return (
        f"{folder} has no weights: expected {SINGLE_NAME}, or {INDEX_NAME} and its shards{found}. "
        "Download the checkpoint again with all its files."
    )


def _check_complete(shards: list[Path]) -> None:
    """Check that no shard is missing. Without an index, the names of the shards say how many there are."""
    matches = [match for shard in shards if (match := SHARD_NAME.fullmatch(shard.name))]
    totals = sorted({int(match[2]) for match in matches})
    if len(totals) > 1:
        raise CheckpointError(
            f"{shards[0].parent} mixes shards of {' and '.join(map(str, totals))} files without an index: "
            "remove those of the other checkpoint."
        )
    if totals:
        numbers = {int(match[1]) for match in matches}
        width = len(matches[0][1])
        for number in range(1, totals[0] + 1):
            if number not in numbers:
                name = f"model-{number:0{width}}-of-{matches[0][2]}.safetensors"
                raise CheckpointError(f"{shards[0].parent / name} is missing: download the shard again.")


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of their data.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or a Git LFS pointer.
    """
    entries, data_start = read_entries(file)
    tensors = [_stored(name, entry, file, data_start) for name, entry in entries.items()]
    return sorted(tensors, key=lambda tensor: tensor.offset)


def _stored(name: str, entry: Mapping[str, Any], file: Path, data_start: int) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{name} in {file} has the type {entry['dtype']}, which is not supported.")
    return StoredTensor(
        name, file, tuple(entry["shape"]), DTYPES[entry["dtype"]], data_start + entry["data_offsets"][0]
    )


def read_tensor(tensor: StoredTensor) -> torch.Tensor:
    """Load one tensor.

    Raises:
        CheckpointError: the file changed or became unreadable after its header was read, or the tensor holds NaN or
            infinity.
    """
    data = torch.empty(tensor.nbytes, dtype=torch.uint8)
    try:
        with tensor.file.open("rb") as handle:
            handle.seek(tensor.offset)
            done = read_into(handle, data.numpy().data)
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read ({error}).") from error
    if done != tensor.nbytes:
        raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}: download it again.")
    values = data.view(tensor.dtype).reshape(tensor.shape)
    refuse_nonfinite(values, tensor.name, tensor.place)
    return values


def read_into(handle: BinaryIO, view: memoryview) -> int:
    """Fill `view` from a file, which may give less at a time; return how many bytes there were."""
    done = 0
    while done < len(view):
        count = handle.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def write_sharded(
    folder: Path,
    plans: Sequence[TensorPlan],
    load: Load,
    max_shard_size: int = MAX_SHARD_SIZE,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write `model.safetensors`, or shards and their index, tensor by tensor.

    Args:
        plans: names, shapes and types of all tensors. From these the shards are planned before any data is read.
        load: returns the tensor of a name, or an iterator over its pieces. With pieces, a large tensor that is composed
            of several stored ones is never in memory as a whole. It is called once per tensor, shard by shard.
        max_shard_size: maximum size of one file in bytes. A larger tensor gets its own file.
        progress: called with the size in bytes of each tensor after it was written.

    Returns:
        The weight files.

    Raises:
        ValueError: `load` returns another shape or type than planned, or a name is planned twice.
    """
    if twins := [name for name, count in Counter(plan.name for plan in plans).items() if count > 1]:
        raise ValueError(f"{twins[0]} is planned twice.")
    shards = list(_split(plans, max_shard_size))
    names = [SINGLE_NAME]
    if len(shards) > 1:
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {plan.name: name for name, shard in zip(names, shards, strict=True) for plan in shard}
        metadata = {
            "total_parameters": sum(math.prod(plan.shape) for plan in plans),
            "total_size": sum(plan.nbytes for plan in plans),
        }
        index = {"metadata": metadata, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, load, progress)
    return [folder / name for name in names]


def _split(plans: Iterable[TensorPlan], max_shard_size: int) -> Iterator[list[TensorPlan]]:
    shard: list[TensorPlan] = []
    size = 0
    for plan in plans:
        if shard and size + plan.nbytes > max_shard_size:
            yield shard
            shard, size = [], 0
        shard.append(plan)
        size += plan.nbytes
    yield shard


def write_file(
    file: Path,
    plans: Sequence[TensorPlan],
    load: Load,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write one safetensors file. The arguments are the same as in `write_sharded`."""
    # Types with large items come first. Then every tensor begins at a multiple of its item size, which readers need.
    ordered = sorted(plans, key=lambda plan: -plan.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in ordered:
        end = offset + plan.nbytes
        header[plan.name] = {
            "dtype": DTYPE_NAMES[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little"))
        handle.write(text)
        for plan in ordered:
            written = sum(handle.write(data) for data in _pieces(plan, load(plan.name)))
            if written != plan.nbytes:
                raise ValueError(f"{plan.name} has pieces of {written} bytes instead of {plan.nbytes}.")
            if progress is not None:
                progress(plan.nbytes)


def _pieces(plan: TensorPlan, loaded: torch.Tensor | Iterator[torch.Tensor]) -> Iterator[memoryview]:
    """The data of a tensor or of its pieces. A tensor that is loaded as a whole must have the planned shape."""
    if isinstance(loaded, torch.Tensor):
        if tuple(loaded.shape) != plan.shape:
            raise ValueError(f"{plan.name} has the shape {tuple(loaded.shape)} instead of {plan.shape}.")
        loaded = iter([loaded])
    for tensor in loaded:
        if tensor.dtype != plan.dtype:
            raise ValueError(f"{plan.name} is {tensor.dtype} instead of {plan.dtype}.")
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


__all__ = [
    "Load",
    "StoredTensor",
    "StoredWeights",
    "TensorPlan",
    "has_safetensors",
    "read_header",
    "read_index",
    "read_into",
    "read_json",
    "read_tensor",
    "refuse_pointer",
    "require_folder",
    "scan_weights",
    "write_file",
    "write_sharded",
]
