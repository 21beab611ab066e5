"""A key-value cache that is kept between prompts: cut back to what the next prompt shares, and copied for a batch."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache

from .transformers_compat import why_not_croppable

# Keys and values of one layer, `(1, heads, tokens, width)` each.
LayerStates = tuple[torch.Tensor, torch.Tensor]


class KeptCache:
    """The keys and values of one text, and the ids of its tokens.

    Attributes:
        cache: `None` before the first prompt.
        ids: ids of the tokens in the cache.
    """

    def __init__(self, empty: Cache | None = None, block_id: int | None = None, num_layers: int | None = None) -> None:
        """Args:
        empty: an empty cache, of which every new cache is a copy. A plain `DynamicCache` if `None`: it keeps all
            positions of layers with a sliding window, too, so that it can be cut back.
        block_id: a token whose blocks may not be cut into two (the query token of IVA).
        num_layers: of the model, which the empty cache has to fit.
        """
        check_empty(empty, num_layers)
        self._empty = empty
        self._block_id = block_id
        self.forget()

    @property
    def size(self) -> int | None:
        """The largest number of tokens that the cache can hold; `None` if it grows."""
        sizes = [layer.max_cache_len for layer in getattr(self._empty, "layers", ()) if hasattr(layer, "max_cache_len")]
        return min(sizes, default=None)

    def forget(self) -> None:
        """Drop the keys and values of all tokens."""
        self.cache: Any = None
        self.ids: list[int] = []

    def new(self) -> Any:
        """Begin a new text with an empty cache, and return that cache."""
        self.forget()
        self.cache = DynamicCache() if self._empty is None else copy.deepcopy(self._empty)
        return self.cache

    def num_shared(self, ids: Sequence[int], most: int) -> int:
        """How many tokens of a text, counted from its beginning, need not be run again.

        Args:
            ids: the text.
            most: the largest number that is wanted. At least the last token must be run to get its logits.
        """
        if self.cache is None:
            return 0
        length = 0
        for ours, theirs in zip(self.ids[:most], ids, strict=False):
            if ours != theirs:
                break
            length += 1
        while 0 < length < len(ids) and ids[length] == ids[length - 1] == self._block_id:
            length -= 1
        return length

    def can_cut(self, length: int) -> bool:
        """Whether the cache can be cut back to a number of tokens. The cache of a recurrent layer cannot."""
        return length == len(self.ids) or self.cache is None or not why_not_croppable(self.cache)

    def cut(self, length: int) -> None:
        """Cut the cache back to a number of tokens.

        Raises:
            ValueError: the cache cannot be cut; the message names the class of its layers. The cache is dropped.
        """
        if self.cache is None or length == 0:
            self.forget()
            return
        if surplus := len(self.ids) - length:
            if kinds := why_not_croppable(self.cache):
                self.forget()
                raise ValueError(uncuttable(kinds))
            self.cache.crop(-surplus)
            self.ids = self.ids[:length]

    def recover(self, ids: Sequence[int]) -> None:
        """Keep what a run that was stopped, or has failed, has left of the beginning of its text.

        Args:
            ids: the tokens that the run began with.
        """
        if self.cache is None or why_not_croppable(self.cache):
            self.forget()
            return
        # After an error, some layers may hold more tokens than others.
        sizes = [int(layer.get_seq_length()) for layer in self.cache.layers]
        # A cache has no layers before its first run.
        length = min(len(ids), *(sizes or [0]))
        if length == 0:
            self.forget()
            return
        for layer, size in zip(self.cache.layers, sizes, strict=True):
            layer.crop(length - size)
        self.ids = list(ids[:length])

    def states(self, length: int) -> list[LayerStates]:
        """Keys and values of the first tokens, of each layer, as views.

        Raises:
            ValueError: layers with a sliding window have dropped some of them.
        """
        refuse_uncuttable(self.cache)
        states = [(layer.keys, layer.values) for layer in self.cache.layers]
        return [(keys[:, :, :length], values[:, :, :length]) for keys, values in states]

    def copied(self, length: int, times: int) -> DynamicCache:
        """A new cache with the first tokens of this one, repeated along the batch. This cache does not change."""
        cache = DynamicCache()
        for layer, states in enumerate(self.states(length)):
            cache.update(*(state.expand(times, *state.shape[1:]) for state in states), layer)
        return cache

    def fill(self, ids: Sequence[int], states: Sequence[LayerStates]) -> None:
        """Begin a new text whose first tokens were run before.

        Args:
            ids: the tokens.
            states: from `states`.

        Raises:
            ValueError: the cache has no room for them, or could not be cut back to them.
        """
        if self.size is not None and len(ids) >= self.size:
            raise ValueError(
                f"The prompt has {len(ids)} tokens before the question, but the cache has room for {self.size}: "
                "open the session with a larger cache."
            )
        cache = self.new()
        for layer, (keys, values) in enumerate(states):
            cache.update(keys, values, layer)
        refuse_uncuttable(cache)
        self.ids = list(ids)


def uncuttable(kinds: str) -> str:
    """The error message for a cache that cannot be cut.

    Args:
        kinds: names of the classes of its layers, from `why_not_croppable`.
    """
    return (
        f"A cache of {kinds} cannot be cut back to the end of the media for the next question: leave cache= out, or "
        "pass DynamicCache() or a StaticCache."
    )


def refuse_uncuttable(cache: Any) -> None:
    """Refuse a cache that could not be cut back after a question.

    Raises:
        ValueError: the message names the class of its layers.
    """
    if kinds := why_not_croppable(cache):
        raise ValueError(uncuttable(kinds))


def check_empty(cache: Any, num_layers: int | None = None) -> None:
    """Check a cache that a user has passed for a session.

    Args:
        cache: the cache; `None` is allowed.
        num_layers: of the model.

    Raises:
        TypeError: it is no cache.
        ValueError: it is not empty, or was made for another model.
    """
    if cache is None:
        return
    if not isinstance(cache, Cache):
        what = f"the class {cache.__name__}" if isinstance(cache, type) else f"{cache!r:.60}"
        raise TypeError(
            f"cache is {what}: pass an empty cache of transformers, such as DynamicCache() or StaticCache(config=..., "
            "max_cache_len=...)."
        )
    if any(int(layer.get_seq_length()) for layer in getattr(cache, "layers", ())):
        raise ValueError("cache holds tokens already: pass an empty cache, such as DynamicCache().")
    given = len(getattr(cache, "layers", ()))
    if num_layers is not None and given not in (0, num_layers):
        raise ValueError(
            f"cache has {given} layers, and the language model has {num_layers}: make it with "
            "config=model.config.get_text_config(decoder=True)."
        )


__all__ = ["KeptCache", "LayerStates", "check_empty", "refuse_uncuttable", "uncuttable"]
