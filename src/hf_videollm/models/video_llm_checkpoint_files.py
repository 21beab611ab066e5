"""Checks the files of a checkpoint before a model is built from them: links, JSON, headers of weight files, values.

A checkpoint may come from an untrusted source. Each check needs time and memory only in proportion to the size of the
files, raises a `CheckpointError` if it fails, and runs before any code uses the content of the file.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers.utils import cached_file

from .errors import CheckpointError
from .video_llm_safetensors import StoredHeader, by_unique_name, check_weight_map, read_headers

SINGLE_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Options of `from_pretrained` that tell transformers how to find a checkpoint on the Hub.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
# The longest config.json of a model in transformers has about 100 kB, and an index of 400 shards has about 10 MB.
MAX_JSON_BYTES = 64 * 2**20
# The types of weights that are not quantized. Values in float8 need scales, which only a quantized checkpoint has.
FLOATS = ("F64", "F32", "F16", "BF16")
# The types whose values can be NaN or infinite.
WITH_NAN = (*FLOATS, "F8_E4M3", "F8_E5M2")
# For each floating-point type: the bits of positive infinity, read as an integer, and the signed and unsigned integer
# types of the same width. float8_e4m3fn has no infinity; its number here is that of its only NaN.
INFINITIES: dict[torch.dtype, tuple[int, torch.dtype, Any]] = {
    torch.float64: (0x7FF0_0000_0000_0000, torch.int64, np.uint64),
    torch.float32: (0x7F80_0000, torch.int32, np.uint32),
    torch.bfloat16: (0x7F80, torch.int16, np.uint16),
    torch.float16: (0x7C00, torch.int16, np.uint16),
    torch.float8_e4m3fn: (0x7F, torch.int8, np.uint8),
    torch.float8_e5m2: (0x7C, torch.int8, np.uint8),
}
# Number of values that `is_finite` checks at a time.
CHUNK = 2**18
# Tensors of integers that towers of transformers store together with their weights: counters and positions.
INTEGER_BUFFERS = ("num_batches_tracked", "position_ids", "relative_position_index")


def check_file(file: Path, folder: Path) -> Path:
    """Return `file` unchanged if it is a regular file inside the checkpoint's folder.

    The Hub's cache uses links (`snapshots/REVISION/name -> ../../blobs/HASH`). They are allowed if they stay inside the
    cache folder of their own repository.

    Args:
        file: path of the file; it may be a link.
        folder: folder of the checkpoint; it may be a link.

    Raises:
        CheckpointError: the file is a link to something outside the folder, or it is not a regular file (reading a
            FIFO would never end).
    """
    try:
        target, root = Path(os.path.realpath(file, strict=True)), Path(os.path.realpath(folder))
        mode = target.stat().st_mode
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): download the checkpoint again.") from error
    roots = [root, *_cache_of(root)]
    if not any(target.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(
            f"{file} leads out of the checkpoint, to {target}: a checkpoint is read from its own folder only, so put "
            "the file itself there."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{file} is no regular file, but a pipe, device or folder: remove it. If the checkpoint needs a file of "
            "this name, download that file again."
        )
    return file


def _cache_of(root: Path) -> list[Path]:
    """The `blobs` folder of a repository in the Hub's cache, if `root` is a snapshot of it or is inside a snapshot."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(("models--", "datasets--")):
            return [folder.parent.parent / "blobs"]
    return []


def check_links(folder: Path) -> None:
    """Refuse a checkpoint folder with links to files outside it, or with entries that are not regular files.

    Only the folders that transformers reads files from are checked.

    Raises:
        CheckpointError: there is such an entry; the message names the first one.
    """
    for read_folder in (folder, folder / "additional_chat_templates"):
        if not read_folder.is_dir():
            continue
        for entry in sorted(read_folder.iterdir()):
            if entry.is_symlink() or not entry.is_dir():
                if entry.is_symlink() and entry.is_dir():
                    continue  # loading does not enter linked folders; an adapter's folder is checked when it is read
                check_file(entry, folder)


def read_checkpoint_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: the file is missing, too long, damaged, nested too deeply, or holds something else.
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
    # ValueError: the file is not JSON or not UTF-8, or it holds a number with more digits than Python accepts.
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is no readable JSON ({reason}): download the file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__} instead of an object: download it again.")
    return value


def read_weight_map(path: Path, suffix: str = ".safetensors", needs_metadata: bool = False) -> dict[str, str]:
    """Read from an index which file holds each tensor. All these files are in the folder of the index.

    Args:
        path: the index.
        suffix: required ending of the names of files.
        needs_metadata: also require the entry `metadata`, without which transformers cannot load the checkpoint.

    Raises:
        CheckpointError: the index is damaged, or names a file of another folder or with another ending.
    """
    index = read_checkpoint_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no 'weight_map' of tensors to files: download it again.")
    for name in weight_map.values():
        # No tool writes an index that names files of other folders. Such a name could point to any file of the machine.
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{path} names {name!r:.200}, which is no {suffix.lstrip('.')} file of this folder.")
    if needs_metadata and not isinstance(index.get("metadata"), dict):
        raise CheckpointError(
            f"{path} has no object 'metadata', which transformers reads: write \"metadata\": {{}} into it, or download "
            "it again."
        )
    return weight_map


def find_weight_files(source: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[list[Path], Path]:
    """Find the weight files of a checkpoint.

    Args:
        source: folder or Hub id of the checkpoint.
        options: those of `from_pretrained`; `subfolder`, `variant` and `HUB_OPTIONS` are used.

    Returns:
        The weight files; and the index, or the only weight file if there is no index.

    Raises:
        CheckpointError: there are no safetensors files (pickles are refused), a shard is missing, or a shard is a link
            to a file outside the checkpoint.
    """
    variant = options.get("variant")
    single, index = (_with_variant(name, variant) for name in (SINGLE_NAME, INDEX_NAME))
    if (file := find_file(source, single, options)) is not None:
        return [file], file
    index_file = find_file(source, index, options)
    if index_file is None:
        raise CheckpointError(_no_weights(source, single, index, options))
    files = []
    for name in sorted(set(read_weight_map(index_file, needs_metadata=True).values())):
        shard = find_file(source, name, options)
        if shard is None:
            raise CheckpointError(f"{name} is missing in {source}, but {index} names it: download the shard again.")
        files.append(shard)
    return files, index_file


def find_file(source: str | os.PathLike[str], name: str, options: Mapping[str, Any]) -> Path | None:
    """Find a file of a checkpoint, and download it if necessary; `None` if the checkpoint does not have it.

    Raises:
        CheckpointError: the file is a link to something outside the checkpoint, or is not a regular file.
    """
    subfolder = options.get("subfolder") or ""
    if os.path.isdir(source):
        file = Path(source, subfolder, name)
        return check_file(file, Path(source)) if os.path.lexists(file) else None
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    try:
        cached = cached_file(os.fspath(source), name, subfolder=subfolder, **hub)
    except (OSError, ValueError):
        return None
    return None if cached is None else check_file(Path(cached), Path(cached).parent)


def _with_variant(name: str, variant: str | None) -> str:
    """Insert the variant before the ending, as transformers does: `model.safetensors.index.VARIANT.json`."""
    first, _, ending = name.rpartition(".")
    return name if variant is None else f"{first}.{variant}.{ending}"


def _no_weights(source: str | os.PathLike[str], single: str, index: str, options: Mapping[str, Any]) -> str:
    pickles = only_pickles(Path(source, options.get("subfolder") or ""))
    return (
        pickles
        or f"{source} has no weights: expected {single}, or {index} and its shards. Download it again with all files."
    )


def only_pickles(folder: Path) -> str | None:
    """The message for a folder without safetensors whose weights are pickles; `None` if there are no pickles either."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES) if folder.is_dir() else []
    if not names:
        return None
    return (
        f"{folder / names[0]} is a pickle, which can run code when it is read, and there are no safetensors "
        "next to it: get the safetensors version, or write one with safetensors.torch.save_file where you trust it."
    )


def check_headers(
    files: Iterable[Path], index_file: Path | None, is_quantized: bool = False, check_dtypes: bool = True
) -> list[StoredHeader]:
    """Read the headers of all weight files, and check that the files and the index agree.

    Args:
        files: the weight files.
        index_file: the index; ignored if it is not a JSON file.
        is_quantized: the weights are quantized, so tensors of integers are allowed.
        check_dtypes: require that every tensor holds floating-point numbers. Pass `False` if a file may hold tensors
            that do not belong to the model; later, call `refuse_other_numbers` for the tensors that do.

    Raises:
        CheckpointError: a file is damaged, a tensor is in two files or not in the file that the index names, or a
            tensor does not hold floating-point numbers.
    """
    by_name = by_unique_name(header for file in files for header in read_headers(file))
    if index_file is not None and index_file.name.endswith(".json"):
        check_weight_map(index_file, read_weight_map(index_file), by_name)
    if check_dtypes and not is_quantized:
        refuse_other_numbers(by_name.values())
    return list(by_name.values())


def refuse_other_numbers(headers: Iterable[StoredHeader]) -> None:
    """Refuse weights that are stored as integers, booleans, complex numbers or float8.

    Raises:
        CheckpointError: there is such a tensor; the message names the first one.
    """
    for header in headers:
        if header.dtype not in FLOATS and not header.name.endswith(INTEGER_BUFFERS):
            raise CheckpointError(
                f"{header.name} in {header.file} holds {header.dtype} where weights are floating-point numbers of "
                f"16 bits or more ({', '.join(FLOATS)}): save the checkpoint again from the model it was trained with."
            )


def check_values(headers: Iterable[StoredHeader]) -> None:
    """Refuse weights that are NaN or infinite. Every file is read once; it is memory-mapped, not copied.

    Raises:
        CheckpointError: a tensor holds such a value; the message names the first one.
    """
    for file, group in _by_file(headers):
        with safe_open(file, framework="pt") as tensors:
            for header in group:
                if header.dtype in WITH_NAN and header.numel:
                    refuse_nonfinite(tensors.get_tensor(header.name), header.name, file)


def refuse_nonfinite(tensor: torch.Tensor, name: str, file: str | os.PathLike[str]) -> None:
    """Raise `CheckpointError` if a floating-point tensor holds NaN or infinity."""
    if not is_finite(tensor):
        raise CheckpointError(
            f"{name} in {file} holds NaN or infinity, so the model cannot answer anything: go back to a checkpoint "
            "from before the training diverged (docs/checkpoint_files.md tells how to load this one all the same)."
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; always true if its values are not floating-point numbers.

    If the bits of floats are read as integers, those of NaN and infinity are larger than those of all finite values of
    the same sign. So it is enough to find the largest integer, which is many times faster than `torch.isfinite`.
    """
    if tensor.dtype not in INFINITIES:
        return True
    infinity, signed, unsigned = INFINITIES[tensor.dtype]
    sign = infinity.bit_length()  # the index of the sign bit, which is the bit above the exponent
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(signed).numpy()
    for start in range(0, len(numbers), CHUNK):
        # A chunk is so small that it stays in the processor's cache while its maximum is computed twice: as signed
        # integers (finds positive values) and as unsigned integers (finds negative ones).
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
    "only_pickles",
    "read_checkpoint_json",
    "read_headers",
    "read_weight_map",
    "refuse_nonfinite",
    "refuse_other_numbers",
]
