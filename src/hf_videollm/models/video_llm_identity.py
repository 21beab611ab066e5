"""Digests that tell whether encoded media fit a model and a processor.

Encoded media may only be used again if nothing has changed that they were computed from: the bytes of the media
(`video_llm_media_digests.py`), the frames that were sampled, the settings of the processor, the weights and their
precision.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .video_llm_media_digests import digest_of
from .video_llm_model_stamp import ModelStamp, adapters_of, tensors_of, weights_sums

# Fields of a configuration that say where it came from, and not what it means.
OF_ORIGIN = frozenset({"auto_map", "name_or_path", "transformers_version", "_name_or_path", "_commit_hash"})
# Tensors whose digests are computed at the same time, and the bytes of each that are copied from a GPU at once.
NUM_THREADS = 4
CHUNK = 64 << 20


@dataclass
class _KnownModel:
    """A model whose digest was computed, and what shows whether it has changed since."""

    stamp: ModelStamp
    sums: str
    digest: str


_known_models: "WeakKeyDictionary[Any, _KnownModel]" = WeakKeyDictionary()


def model_identity(model: Any, every_value: bool = False) -> dict[str, str]:
    """What the encoding of media by a model depends on.

    `weights` is SHA-256 of all bytes of all weights and buffers. The first call reads the whole model, at about 1 GB a
    second and core. Later calls give the same digest again until a change is seen.

    Args:
        model: a model of this package.
        every_value: look at every value for changes (`weights_sums`), as for what is written to disk; otherwise at
            some (`ModelStamp`, which says what it does not see).

    Returns:
        `design`, `configuration`, `weights` and `dtype`.

    Raises:
        ValueError: the weights are not in memory.
    """
    return {
        "design": str(model.config.model_type),
        "configuration": digest_of([_settled(model.config.to_dict()), adapters_of(model)]),
        "weights": _weights_digest(model, every_value),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def processor_identity(processor: Any) -> str:
    """A digest of all settings of a processor: those of its parts, its tokenizer and its chat template."""
    parts = [processor, *(getattr(processor, name, None) for name in getattr(processor, "attributes", ()))]
    settings = [part.to_dict() for part in parts if hasattr(part, "to_dict")]
    return digest_of([_settled(settings), _words(processor.tokenizer), getattr(processor, "chat_template", None)])


def _words(tokenizer: Any) -> Any:
    """All that a tokenizer does with texts."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return sorted(tokenizer.get_vocab().items())
    # `truncation` and `padding` are those of the last call. They stand before `added_tokens`.
    text: str = fast.to_str()
    _, found, rest = text.partition('"added_tokens":')
    return hashlib.sha256((rest if found else text).encode()).hexdigest()


def _settled(value: Any) -> Any:
    """A configuration without the fields that say where it came from."""
    if isinstance(value, Mapping):
        return {str(name): _settled(item) for name, item in value.items() if name not in OF_ORIGIN}
    if isinstance(value, list | tuple):
        return [_settled(item) for item in value]
    return value


def _weights_digest(model: Any, every_value: bool) -> str:
    known = _known_models.get(model)
    if known is not None and known.stamp.fits(model):
        surely = known.stamp.counts_changes and not every_value
        if surely or known.sums == weights_sums(model):
            return known.digest
    # Before the bytes are read, so that a change while they are read is seen later.
    stamp, sums = ModelStamp(model), weights_sums(model)
    tensors = sorted(tensors_of(model), key=lambda pair: pair[0])
    digest = hashlib.sha256()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        parts = pool.map(lambda pair: _tensor_digest(*pair), tensors)
        for (name, tensor), part in zip(tensors, parts, strict=True):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(part)
    result = digest.hexdigest()
    _known_models[model] = _KnownModel(stamp, sums, result)
    return result


@torch.no_grad()
def _tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    if tensor.is_meta:
        raise ValueError(f"The weight {name} is not in memory, so that the model cannot be told from others.")
    digest = hashlib.sha256()
    if tensor.numel():
        for part in tensor.detach().contiguous().reshape(-1).view(torch.uint8).split(CHUNK):
            digest.update(part.cpu().numpy().data)
    return digest.digest()


__all__ = ["model_identity", "processor_identity"]
