"""What the weight files of a checkpoint hold, by their headers: parameters and bytes of each part and of each type."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache

from ..models.errors import CheckpointError, one_line
from ..models.video_llm_checkpoint_files import INDEX_NAME, SINGLE_NAME, check_file, only_pickles, read_weight_map
from ..models.video_llm_safetensors import by_unique_name, check_weight_map, read_headers

# Bytes of one value, by safetensors' name of its type; four-bit numbers are stored in pairs, as U8.
BYTES_PER_VALUE = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
# The image-LLM of a LinVT has parts of its own, so its second name says more.
OUTER_PARTS = ("backbone",)


@dataclass(frozen=True)
class StoredPart:
    """One part of a model in the weight files.

    Attributes:
        values: stored numbers, which are the parameters unless they are quantized.
        bytes: their size.
    """

    values: int
    bytes: int


@dataclass(frozen=True)
class StoredWeights:
    """The weight files of a checkpoint.

    Attributes:
        files: number of weight files.
        bytes: size of all tensors in them.
        parts: name of a part of the model (`vision_tower`, `connector`, `language_model`, `audio_tower`, IVA's
            `adapter`, a separate `lora`, ...) -> what is stored of it.
        bytes_by_dtype: safetensors' name of a type, such as `"BF16"` -> bytes of all tensors of this type.
    """

    files: int
    bytes: int
    parts: dict[str, StoredPart] = field(default_factory=dict)
    bytes_by_dtype: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_stored(source: str, adapter: str | None = None) -> tuple[StoredWeights | None, str | None]:
    """Read the headers of the weight files, and no weights.

    Args:
        source: folder or Hub id. The files of a Hub id are read from the cache, or else their headers from the Hub.
        adapter: subfolder with the weights of an adapter.

    Returns:
        What is stored, or `None` with the reason as a sentence.

    Raises:
        CheckpointError: a file is truncated, damaged or a Git LFS pointer, or a shard is missing.
    """
    if (root := _local_folder(source)) is None:
        return _read_from_hub(source)
    files = _weight_files(root)
    if not files:
        reason = only_pickles(root) if os.path.isdir(source) else None
        return (None, reason or f"{source} holds no {SINGLE_NAME}, so nothing is known about sizes on disk.")
    tensors = [_Tensor(item.name, item.dtype, item.shape) for file in files for item in read_headers(file)]
    if adapter is not None and (file := root / adapter / "adapter_model.safetensors").is_file():
        files.append(check_file(file, root))
        tensors += [_Tensor(f"lora.{item.name}", item.dtype, item.shape) for item in read_headers(file)]
    return _sum_up(tensors, len(files)), None


def _local_folder(source: str) -> Path | None:
    """The folder itself, or that of the cached repository if its weights were downloaded."""
    if os.path.isdir(source):
        return Path(source)
    found = (try_to_load_from_cache(source, name) for name in (SINGLE_NAME, INDEX_NAME))
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def _weight_files(root: Path) -> list[Path]:
    """The weight files of a folder, after the check that they and the index agree; none if there are none."""
    single, index = root / SINGLE_NAME, root / INDEX_NAME
    if os.path.lexists(single):
        return [check_file(single, root)]
    if not os.path.lexists(index):
        return []
    weight_map = read_weight_map(check_file(index, root))
    files = [root / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not os.path.lexists(file):
            raise CheckpointError(f"{file.name} is missing in {root}, but {INDEX_NAME} names it: download it again.")
    by_name = by_unique_name(header for file in files for header in read_headers(check_file(file, root)))
    check_weight_map(index, weight_map, by_name)
    return files


def _read_from_hub(name: str) -> tuple[StoredWeights | None, str | None]:
    try:
        found = HfApi().get_safetensors_metadata(name)
    # The Hub's client passes on errors of several libraries.
    except Exception as error:
        reason = one_line(error, 120)
        return None, f"The weights of {name} are not in the cache, and the Hub did not give their headers ({reason})."
    tensors = [
        _Tensor(tensor, entry.dtype, tuple(entry.shape))
        for file in found.files_metadata.values()
        for tensor, entry in file.tensors.items()
    ]
    return _sum_up(tensors, len(found.files_metadata)), None


def _sum_up(tensors: Iterable[_Tensor], files: int) -> StoredWeights:
    parts: dict[str, StoredPart] = {}
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        values = prod(tensor.shape)
        size = values * BYTES_PER_VALUE.get(tensor.dtype, 1)
        name = part_of(tensor.name)
        known = parts.get(name, StoredPart(0, 0))
        parts[name] = StoredPart(known.values + values, known.bytes + size)
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + size
    return StoredWeights(files, sum(by_dtype.values()), dict(sorted(parts.items())), dict(sorted(by_dtype.items())))


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to, by the beginning of its name.

    Example:
        >>> part_of("model.vision_tower.encoder.layers.0.mlp.fc1.weight")
        'vision_tower'
        >>> part_of("model.backbone.multi_modal_projector.linear_1.weight")
        'backbone.multi_modal_projector'
    """
    words = name.removeprefix("model.").split(".")
    if words[0] in OUTER_PARTS and len(words) > 2:
        return ".".join(words[:2])
    return words[0]


__all__ = ["StoredPart", "StoredWeights", "part_of", "read_stored"]
