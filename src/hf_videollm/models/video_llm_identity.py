"""Digests that tell whether encoded media fit a model, a processor and their sources.

Encoded media may only be used again if nothing has changed that they were computed from: the bytes of the media, the
frames that were sampled, the settings of the processor, the weights and their precision.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

# Fields of a configuration that say where it came from, and not what it means.
OF_ORIGIN = frozenset({"auto_map", "name_or_path", "transformers_version", "_name_or_path", "_commit_hash"})
# Values of each tensor that are part of its digest as they are; the others are part of a sum.
NUM_SAMPLES = 64
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_known_models: "WeakKeyDictionary[Any, tuple[Any, str]]" = WeakKeyDictionary()


def model_identity(model: Any) -> dict[str, str]:
    """What the encoding of media by a model depends on.

    Returns:
        `design`, `configuration`, `weights` and `dtype`. Equal values mean an equal model: each value of each weight
        has a part in `weights`.

    Raises:
        ValueError: the weights are not in memory.
    """
    return {
        "design": str(model.config.model_type),
        "configuration": digest_of([_settled(model.config.to_dict()), _adapters_of(model)]),
        "weights": _weights_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def model_stamp(model: Any) -> list[Any]:
    """Changes when a weight is replaced or written to, or an adapter is set in another way; cheap, for one process."""
    return [_stamp(tensor for _, tensor in _tensors_of(model)), _adapters_of(model)]


def processor_identity(processor: Any) -> str:
    """A digest of all settings of a processor: those of its parts, its tokenizer and its chat template."""
    parts = [processor, *(getattr(processor, name, None) for name in getattr(processor, "attributes", ()))]
    settings = [part.to_dict() for part in parts if hasattr(part, "to_dict")]
    tokenizer = processor.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    words: Any = sorted(tokenizer.get_vocab().items())
    if fast is not None:
        # `padding` and `truncation` are those of the last call.
        parsed: dict[str, Any] = json.loads(fast.to_str())
        words = {name: value for name, value in parsed.items() if name not in ("padding", "truncation")}
    return digest_of([_settled(settings), words, getattr(processor, "chat_template", None)])


def media_identity(blocks: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """A digest of the bytes of each medium of a message, with the options in its block.

    Returns:
        `None` if the bytes of a medium are not at hand: an address, an opened file, or an object of another kind.
    """
    digests = []
    for block in blocks:
        kind = str(block["type"])
        digest = _source_digest(block[kind])
        if digest is None:
            return None
        options = {name: value for name, value in block.items() if name not in ("type", kind)}
        digests.append(digest_of([kind, digest, _settled(options)]))
    return digests


def digest_of(value: Any) -> str:
    """SHA-256 of a value that JSON can hold; other values are written as text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _settled(value: Any) -> Any:
    """A configuration without the fields that say where it came from."""
    if isinstance(value, Mapping):
        return {str(name): _settled(item) for name, item in value.items() if name not in OF_ORIGIN}
    if isinstance(value, list | tuple):
        return [_settled(item) for item in value]
    return value


def _adapters_of(model: Any) -> list[Any]:
    """Which adapters of PEFT are in use, and how strongly: no weight says so."""
    return [
        [name, str(module.scaling), str(module.active_adapters), str(getattr(module, "disable_adapters", None))]
        for name, module in model.named_modules()
        if hasattr(module, "scaling") and hasattr(module, "active_adapters")
    ]


def _weights_digest(model: Any) -> str:
    tensors = dict(_tensors_of(model))
    # Computed again when a tensor was replaced, or changed in place.
    stamp = _stamp(tensors.values())
    known = _known_models.get(model)
    if known is not None and stamp is not None and known[0] == stamp:
        return known[1]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(_tensor_digest(name, tensors[name]))
    result = digest.hexdigest()
    _known_models[model] = (stamp, result)
    return result


def _tensors_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _stamp(tensors: Iterable[torch.Tensor]) -> list[tuple[int, int]] | None:
    """Changes when a tensor is replaced or written to; `None` for tensors that do not count their changes."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    except RuntimeError:
        return None


@torch.no_grad()
def _tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    if tensor.is_meta:
        raise ValueError(f"The weight {name} is not in memory, so that the model cannot be told from others.")
    flat = tensor.detach().contiguous().reshape(-1)
    if not flat.numel():
        return b""
    bits = flat.view(_INTEGERS[flat.element_size()]) if flat.element_size() in _INTEGERS else flat.view(torch.uint8)
    # Sums of integers do not depend on the order in which they are added, so all machines give the same.
    total = bits.sum(dtype=torch.int64)
    samples = bits[:: max(1, len(bits) // NUM_SAMPLES)].to(torch.int64)
    numbers: list[int] = torch.cat([total.reshape(1), samples]).tolist()
    return np.array(numbers, dtype=np.int64).tobytes()


def _source_digest(source: Any) -> str | None:
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return _path_digest(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        # NumPy has no bfloat16.
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if isinstance(source, Image.Image):
        frames = getattr(source, "n_frames", 1)
        if frames > 1:
            return None
        return digest_of([source.mode, source.size, source.info.get("exif"), _array_digest(np.asarray(source))])
    if isinstance(source, np.ndarray):
        return _array_digest(source)
    if isinstance(source, Sequence):
        parts = [_source_digest(part) for part in source]
        return None if None in parts else digest_of(parts)
    return None


def _array_digest(array: np.ndarray) -> str:
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _path_digest(name: str) -> str | None:
    path = Path(name)
    try:
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        if path.is_dir():
            files = sorted(item for item in path.iterdir() if item.is_file())
            return digest_of([[item.name, _path_digest(str(item))] for item in files])
    except OSError:
        return None
    return None


__all__ = ["digest_of", "media_identity", "model_identity", "model_stamp", "processor_identity"]
