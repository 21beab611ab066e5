"""The files of a checkpoint, looked at before anything is built from them: links, JSON, headers of weights, values.

A checkpoint comes from anywhere. Each check is bounded in time and memory by the size of the files, ends in a
`CheckpointError`, and stands before the step that would believe the file.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from .errors import CheckpointError

SINGLE_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What finds a checkpoint on the Hub.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
# The longest config.json of transformers' models has some 100 kB, the index of 400 shards some 10 MB.
MAX_JSON_BYTES = 64 * 2**20
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Infinity as a whole number (the smallest that is not finite), and types of whole numbers as wide; the first type of
# eight bits has no infinity, and one NaN.
INFINITIES: dict[torch.dtype, tuple[int, torch.dtype, Any]] = {
    torch.float64: (0x7FF0_0000_0000_0000, torch.int64, np.uint64),
    torch.float32: (0x7F80_0000, torch.int32, np.uint32),
    torch.bfloat16: (0x7F80, torch.int16, np.uint16),
    torch.float16: (0x7C00, torch.int16, np.uint16),
    torch.float8_e4m3fn: (0x7F, torch.int8, np.uint8),
    torch.float8_e5m2: (0x7C, torch.int8, np.uint8),
}
# Values looked at at a time.
CHUNK = 2**16
# Counters and positions that towers of transformers keep beside their weights.
INTEGER_BUFFERS = ("num_batches_tracked", "position_ids", "relative_position_index")


@dataclass(frozen=True)
class StoredHeader:
    """One tensor as the header of its file tells it; `dtype` is the word of safetensors."""

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


def check_file(file: Path, folder: Path) -> Path:
    """The file, if it is a regular one and lies in the checkpoint.

    Links of the Hub's cache (`snapshots/REVISION/name -> ../../blobs/HASH`) stay inside their repository's folder.

    Args:
        file: path of the file, a link perhaps.
        folder: folder of the checkpoint; may be a link itself.

    Raises:
        CheckpointError: the file leads out of the folder, or is no regular file (a FIFO would never end).
    """
    try:
        target, root = Path(os.path.realpath(file, strict=True)), Path(os.path.realpath(folder))
        mode = target.stat().st_mode
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): download the checkpoint again.") from error
    roots = [root, *_cache_of(root)]
    if not any(target.is_relative_to(place) for place in roots):
        raise CheckpointError(
            f"{file} leads out of the checkpoint, to {target}: a checkpoint is read from its own folder only, so put "
            "the file itself there."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{file} is no regular file: download the checkpoint again.")
    return file


def _cache_of(root: Path) -> list[Path]:
    """The blobs of the Hub cache's repository that `root` is a snapshot of, or lies in one of."""
    for place in (root, *root.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith(("models--", "datasets--")):
            return [place.parent.parent / "blobs"]
    return []


def check_links(folder: Path) -> None:
    """Refuse a folder that holds links out of itself, or files that are none, among what a loader may read.

    Raises:
        CheckpointError: the first of them.
    """
    places = [folder, folder / "additional_chat_templates"]
    for place in places:
        if not place.is_dir():
            continue
        for entry in sorted(place.iterdir()):
            if entry.is_symlink() or not entry.is_dir():
                if entry.is_symlink() and entry.is_dir():
                    continue  # no loader enters it by itself; the folder of an adapter is checked when it is read
                check_file(entry, folder)


def read_checkpoint_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        CheckpointError: the file is missing, too long, damaged, nested without end, or holds no object.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes of JSON, which no checkpoint needs: download it again.")
        if not path.is_file():
            raise CheckpointError(f"{path} is no regular file: download the checkpoint again.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: download the checkpoint again with all its files.") from error
    except CheckpointError:
        raise
    # ValueError: no JSON, no UTF-8, or a number of more digits than Python reads.
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is no readable JSON ({reason}): download the file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__} instead of an object: download it again.")
    return value


def read_weight_map(path: Path, suffix: str = ".safetensors") -> dict[str, str]:
    """The tensor-to-file map of an index, whose files are all in its folder and end in `suffix`.

    Raises:
        CheckpointError: the index is damaged, or names something else.
    """
    weight_map = read_checkpoint_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no 'weight_map' of tensors to files: download it again.")
    for name in weight_map.values():
        # A file of another folder is never meant, and could be anything.
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{path} names {name!r:.200}, which is no {suffix.lstrip('.')} file of this folder.")
    return weight_map


def read_headers(file: Path) -> list[StoredHeader]:
    """What a safetensors file holds.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or its header does not fit its length.
    """
    try:
        with file.open("rb") as handle:
            # The library checks names, sizes and offsets against the length of the file.
            with safe_open(file, framework="pt"):
                pass
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing: download it again.") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file} is truncated or damaged ({reason}): download it again.") from error
    header.pop("__metadata__", None)
    return [StoredHeader(name, file, tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items()]


def find_weight_files(source: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[list[Path], Path]:
    """Weight files of a checkpoint, all inside its folder, and the index or the only file, to name in messages.

    Args:
        source: folder or Hub id.
        options: those of `from_pretrained`: `subfolder`, `variant` and what finds a checkpoint on the Hub.

    Raises:
        CheckpointError: there are no safetensors (pickles are refused), a shard is missing, or one leads elsewhere.
    """
    variant = options.get("variant")
    single, index = (_with_variant(name, variant) for name in (SINGLE_NAME, INDEX_NAME))
    if (file := find_file(source, single, options)) is not None:
        return [file], file
    index_file = find_file(source, index, options)
    if index_file is None:
        raise CheckpointError(_no_weights(source, single, index, options))
    files = []
    for name in sorted(set(read_weight_map(index_file).values())):
        shard = find_file(source, name, options)
        if shard is None:
            raise CheckpointError(f"{name} is missing in {source}, but {index} names it: download the shard again.")
        files.append(shard)
    return files, index_file


def find_file(source: str | os.PathLike[str], name: str, options: Mapping[str, Any]) -> Path | None:
    """A file of a checkpoint, downloaded if need be, or `None`.

    Raises:
        CheckpointError: it leads out of the checkpoint.
    """
    subfolder = options.get("subfolder") or ""
    if os.path.isdir(source):
        file = Path(source, subfolder, name)
        return check_file(file, Path(source)) if os.path.lexists(file) else None
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    try:
        found = cached_file(os.fspath(source), name, subfolder=subfolder, **hub)
    except (OSError, ValueError):
        return None
    return None if found is None else check_file(Path(found), Path(found).parent)


def _with_variant(name: str, variant: str | None) -> str:
    """Before the ending, as transformers writes it: of an index, `model.safetensors.index.VARIANT.json`."""
    first, _, ending = name.rpartition(".")
    return name if variant is None else f"{first}.{variant}.{ending}"


def _no_weights(source: str | os.PathLike[str], single: str, index: str, options: Mapping[str, Any]) -> str:
    folder = Path(source, options.get("subfolder") or "")
    pickles = (
        sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES) if folder.is_dir() else []
    )
    if pickles:
        return (
            f"{folder / pickles[0]} is a pickle, which can run code when it is read, and there are no safetensors "
            "next to it: get the safetensors version, or write one with safetensors.torch.save_file where you trust it."
        )
    return f"{source} has no weights: expected {single}, or {index} and its shards. Download it again with all files."


def check_headers(
    files: Iterable[Path], index_file: Path | None, is_quantized: bool = False, check_dtypes: bool = True
) -> list[StoredHeader]:
    """Headers of all weight files, which fit each other.

    Args:
        index_file: the index; anything else is passed over.
        is_quantized: whole numbers are expected.
        check_dtypes: every tensor is taken for a weight. `False` where a file may hold tensors that are no part of the
            model; `refuse_other_numbers` is then for the caller to call.

    Raises:
        CheckpointError: a file is damaged, a tensor is in two files or not where the index says, or holds numbers of a
            kind that weights are not made of.
    """
    found: dict[str, StoredHeader] = {}
    for file in files:
        for header in read_headers(file):
            if (twin := found.get(header.name)) is not None:
                raise CheckpointError(
                    f"{header.name} is in both {twin.file} and {file}: remove the file that does not belong here."
                )
            found[header.name] = header
    if index_file is not None and index_file.name.endswith(".json"):
        for name, file_name in read_weight_map(index_file).items():
            if name not in found or found[name].file.name != file_name:
                raise CheckpointError(
                    f"{index_file} says that {name} is in {file_name}, but it is not: download index and shards again."
                )
    if check_dtypes and not is_quantized:
        refuse_other_numbers(found.values())
    return list(found.values())


def refuse_other_numbers(headers: Iterable[StoredHeader]) -> None:
    """Refuse weights that are stored as whole numbers, truth values or complex numbers.

    Raises:
        CheckpointError: with the name of the first of them.
    """
    for header in headers:
        if header.dtype not in FLOATS and not header.name.endswith(INTEGER_BUFFERS):
            raise CheckpointError(
                f"{header.name} in {header.file} holds {header.dtype} where weights are floating-point numbers: save "
                "the checkpoint again from the model it was trained with."
            )


def check_values(headers: Iterable[StoredHeader]) -> None:
    """Refuse NaN and infinity; costs one pass over the files, which are mapped and not copied.

    Raises:
        CheckpointError: with the name of the first tensor that holds one.
    """
    for file, group in _by_file(headers):
        with safe_open(file, framework="pt") as tensors:
            for header in group:
                if header.dtype in FLOATS and header.numel:
                    refuse_nonfinite(tensors.get_tensor(header.name), header.name, file)


def refuse_nonfinite(tensor: torch.Tensor, name: str, file: str | os.PathLike[str]) -> None:
    """Raises `CheckpointError` if a floating-point tensor holds NaN or infinity."""
    if not is_finite(tensor):
        raise CheckpointError(
            f"{name} in {file} holds NaN or infinity, and a model with it can answer nothing: go back to a checkpoint "
            "from before the training diverged (docs/checkpoint_files.md tells how to load it all the same)."
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; what is no floating-point number is neither.

    Read as whole numbers, NaN and infinity are the largest of the positive and of the negative values, and the largest
    whole number is found many times faster than `torch.isfinite` looks at each value.
    """
    if tensor.dtype not in INFINITIES:
        return True
    infinity, signed, unsigned = INFINITIES[tensor.dtype]
    sign = infinity.bit_length()  # the bit above those of infinity's exponent
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(signed).numpy()
    for start in range(0, len(numbers), CHUNK):
        # Small enough to stay in the cache between the two looks.
        chunk = numbers[start : start + CHUNK]
        if chunk.max() >= infinity or chunk.view(unsigned).max() >= infinity + (1 << sign):
            return False
    return True


def _by_file(headers: Iterable[StoredHeader]) -> Iterator[tuple[Path, list[StoredHeader]]]:
    groups: dict[Path, list[StoredHeader]] = {}
    for header in headers:
        groups.setdefault(header.file, []).append(header)
    yield from groups.items()


__all__ = [
    "HUB_OPTIONS",
    "INDEX_NAME",
    "PICKLE_SUFFIXES",
    "SINGLE_NAME",
    "StoredHeader",
    "check_file",
    "check_headers",
    "check_links",
    "check_values",
    "find_file",
    "find_weight_files",
    "is_finite",
    "read_checkpoint_json",
    "read_headers",
    "read_weight_map",
    "refuse_nonfinite",
    "refuse_other_numbers",
]
