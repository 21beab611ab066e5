"""Adds up the sizes of tensors that are alive at the same time: for real runs, and for runs without values.

On the meta device, a model of any size runs without memory, and its tensors still have sizes. So the peak of a forward
pass can be known before a machine has the room for it.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .meta_results import run_once

META = "meta"
# Operations that turn a tensor into a Python number.
TO_NUMBER = {"_local_scalar_dense", "item", "is_nonzero"}


class LiveBytes(TorchDispatchMode):
    """Counts, inside `with counter:`, the bytes of new tensors, and the most that were alive at one moment.

    Tensors that share memory count once. What a kernel uses inside one operation is not seen.

    Args:
        device: type of the device whose tensors are counted, such as `"cpu"`. With `"meta"`, other tensors may stand
            beside those of the meta device: the prompt's ids keep their values, and what is computed from them and
            from tensors without values has no values either.
        others: tensors that are not counted, such as the weights of the model. Views of them are not counted, either.

    Attributes:
        now: bytes that are alive.
        peak: the most that were alive.
    """

    def __init__(self, device: str, others: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.device, self.now, self.peak = device, 0, 0
        # The storages are kept alive, so that no new one can get the same key.
        self._others = {item.untyped_storage()._cdata: item.untyped_storage() for item in others}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.device == META:
            given = {item.device.type for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)}
            if META in given:
                if func._overloadpacket.__name__ in TO_NUMBER and not args[0].is_floating_point():
                    # Only checks ask for such a value: whether no position of the mask is padding, and none is.
                    return 1
                if len(given) > 1:
                    args, kwargs = tree_map_only(torch.Tensor, lambda item: item.to(META), (args, kwargs))
        result = run_once(func, args, kwargs)
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor) and item.device.type == self.device:
                self._add(item.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or key in self._others:
            return

        def forget(_: object) -> None:
            del self._alive[key]
            self.change(-size)

        self._alive[key] = weakref.ref(storage, forget)
        self.change(size)

    def change(self, size: int) -> None:
        """Note that a tensor of this size is new, or (a negative size) was freed."""
        self.now += size
        self.peak = max(self.peak, self.now)


class FusedAttention(TorchFunctionMode):
    """Replaces torch's attention by one without values that keeps no attention matrix, like the kernels of CPU and GPU.

    On the meta device torch would choose the way of the textbook, whose matrix of all queries and keys is larger than
    everything else.

    Args:
        on_call: is called with query, key, value and mask of each attention.
    """

    def __init__(self, on_call: Callable[..., None] | None = None) -> None:
        super().__init__()
        self.on_call = on_call

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        query, value = given["query"], given["value"]
        if self.on_call is not None:
            self.on_call(query, given["key"], value, given.get("attn_mask"))
        *others, heads, length, _ = query.shape
        # The kernels write the heads of a position side by side, so that what follows needs no copy.
        return query.new_empty(*others, length, heads, value.shape[-1]).transpose(-2, -3)


def unique_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors; those that share memory count once."""
    storages = {item.untyped_storage()._cdata: item.untyped_storage() for item in tensors}
    return sum(storage.nbytes() for storage in storages.values())


__all__ = ["FusedAttention", "LiveBytes", "unique_bytes"]
