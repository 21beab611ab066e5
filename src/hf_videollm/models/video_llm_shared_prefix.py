"""A batch of questions behind one prefix whose keys and values exist once, and are read once for all rows.

Without this, each row of a batch has its own copy of the keys and values of the video: with 2,304 visual tokens and a
model of 7 billion parameters, 1.2 GB a row.

    queries of all rows x keys of the prefix          one matrix product for each key head
    queries of a row    x keys behind the prefix      as usual
    one softmax over both, in float32, then the same two products with the values

It is an attention function of transformers, so it works with every language model that calls its attention through
`AttentionInterface`. `attend` checks that each layer has done so. The others, and layers with a sliding window or with
further terms in their softmax, use copies.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .video_llm_kept_cache import LayerStates

# The name of the attention function of this file, beside that of the function that it replaces. Both make the same
# masks: other threads may run the model while the name changes.
NAMES = {"sdpa": "video_llm_shared_prefix", "eager": "video_llm_shared_prefix_eager"}
NAME = NAMES["sdpa"]
# The name of the attribute of keys that says which prefix stands before them.
PREFIX = "video_llm_prefix"
# Arguments of attention functions that change the softmax.
OTHER_TERMS = ("softcap", "s_aux", "position_bias", "sliding_window", "head_mask")
# Most memory of the scores of one layer.
SCORE_BYTES = 256 << 20


class SharedPrefixUnsupported(RuntimeError):  # noqa: N818  (it says what happened)
    """A language model cannot run a batch behind a shared prefix."""


class SharedPrefixLayer(DynamicLayer):
    """Keys and values of one layer: those of the prefix once, and those behind it for each row.

    Attributes:
        prefix: keys and values of the prefix, `(1, heads, tokens, width)` each.
        num_updates: calls of `update`.
        num_attended: calls of the attention function with the keys of this layer.
    """

    def __init__(self, prefix: LayerStates) -> None:
        super().__init__()
        self.prefix = prefix
        self.num_updates = 0
        self.num_attended = 0

    @property
    def num_shared(self) -> int:
        """Tokens of the prefix."""
        return int(self.prefix[0].shape[2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As in the base class. The keys, which do not hold those of the prefix, carry a reference to this layer."""
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        setattr(keys, PREFIX, self)
        self.num_updates += 1
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens of the prefix and behind it."""
        return self.num_shared + super().get_seq_length()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """As in the base class. The prefix is the same for all rows."""
        if super().get_seq_length():
            super().reorder_cache(beam_idx)


def shared_prefix_cache(states: Sequence[LayerStates]) -> DynamicCache:
    """A cache that begins with these keys and values for every row.

    Args:
        states: of each layer, `(1, heads, tokens, width)`; they are not copied.
    """
    cache = DynamicCache()
    cache.layers = [SharedPrefixLayer(layer) for layer in states]
    return cache


def is_shared(cache: Any) -> bool:
    """Whether a cache comes from `shared_prefix_cache`."""
    layers: Sequence[Any] = getattr(cache, "layers", None) or ()
    return len(layers) > 0 and isinstance(layers[0], SharedPrefixLayer)


def attention_behind_prefix(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers; see there for the arguments and the result."""
    layer: SharedPrefixLayer | None = getattr(key, PREFIX, None)
    if layer is None:
        result: tuple[torch.Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result
    if other := [name for name in OTHER_TERMS if kwargs.get(name) is not None]:
        raise SharedPrefixUnsupported(f"{type(module).__name__} passes {other[0]} to its attention.")
    layer.num_attended += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows, heads, length, _ = query.shape
    total = layer.num_shared + key.shape[2]
    step = max(1, SCORE_BYTES // (4 * rows * heads * total))
    parts = []
    for first in range(0, length, step):
        mask = None if attention_mask is None else attention_mask[:, :, first : first + step]
        parts.append(_attend(query[:, :, first : first + step] * scaling, key, value, layer.prefix, mask))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix: LayerStates, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of queries `(rows, heads, length, width)` over a prefix and over keys `(rows, key_heads, ...)`."""
    rows, heads, length, width = query.shape
    key_heads, shared = key.shape[1], prefix[0].shape[2]
    # The query heads that share a key head, and then also the rows, become further queries of this key head.
    by_row = query.reshape(rows, key_heads, -1, width)
    together = by_row.transpose(0, 1).reshape(key_heads, -1, width)
    before = (together @ prefix[0][0].transpose(1, 2)).reshape(key_heads, rows, -1, shared).transpose(0, 1)
    behind = by_row @ key.transpose(2, 3)
    scores = torch.cat([before, behind], dim=-1).float().reshape(rows, heads, length, -1)
    if mask is not None:
        mask = mask[..., : scores.shape[-1]]
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1).to(value.dtype).reshape(rows, key_heads, -1, scores.shape[-1])
    of_prefix = weights[..., :shared].transpose(0, 1).reshape(key_heads, -1, shared) @ prefix[1][0]
    of_prefix = of_prefix.reshape(key_heads, rows, -1, value.shape[-1]).transpose(0, 1)
    mixed = of_prefix + weights[..., shared:] @ value
    return mixed.reshape(rows, heads, length, -1)


for _replaced, _name in NAMES.items():
    AttentionInterface.register(_name, attention_behind_prefix)
    AttentionMaskInterface.register(_name, AttentionMaskInterface()[_replaced])


def can_share_prefix(language_model: Any) -> bool:
    """Whether a language model may be tried; `attend` finds out whether it works."""
    config = language_model.config
    terms = ("attn_logit_softcapping", "sliding_window", "attention_chunk_size")
    return (
        # Another thread may have switched it.
        getattr(config, "_attn_implementation", None) in (*NAMES, *NAMES.values())
        and hasattr(language_model, "set_attn_implementation")
        and not any(getattr(config, name, None) for name in terms)
    )


class _Switch:
    """How a language model attends when nobody attends to a prefix, and how many threads do."""

    def __init__(self) -> None:
        self.before = ""
        self.users = 0


_switches: WeakKeyDictionary[Any, _Switch] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def _switched(language_model: Any) -> Iterator[None]:
    """Switch the attention function, which all threads share. The last thread that leaves switches it back."""
    with _lock:
        switch = _switches.setdefault(language_model, _Switch())
        if not switch.users:
            switch.before = language_model.config._attn_implementation
            language_model.set_attn_implementation(NAMES[switch.before])
        switch.users += 1
    try:
        if language_model.config._attn_implementation != NAMES[switch.before]:
            raise SharedPrefixUnsupported(f"{type(language_model).__name__} does not let its attention be replaced.")
        yield
    finally:
        with _lock:
            switch.users -= 1
            if not switch.users:
                language_model.set_attn_implementation(switch.before)


@contextmanager
def attend(language_model: Any, cache: Any) -> Iterator[None]:
    """Let a language model attend to the prefix of a cache; the way in which it attends is put back at the end.

    Args:
        language_model: for which `can_share_prefix` is true.
        cache: from `shared_prefix_cache`.

    Raises:
        SharedPrefixUnsupported: a layer has not attended to the prefix, so that the results of the block are wrong.
    """
    with _switched(language_model):
        yield
    for layer in cache.layers:
        if layer.num_updates != layer.num_attended or not layer.num_updates:
            raise SharedPrefixUnsupported(
                f"{type(language_model).__name__} attends by code of its own, and not through AttentionInterface."
            )


__all__ = [
    "SharedPrefixLayer",
    "SharedPrefixUnsupported",
    "attend",
    "attention_behind_prefix",
    "can_share_prefix",
    "is_shared",
    "shared_prefix_cache",
]
