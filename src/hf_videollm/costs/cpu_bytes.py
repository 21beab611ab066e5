"""What a process on a CPU has in memory besides tensors of a model: in kernels, and in files of weights.

Two things are counted here. Some kernels of the CPU copy their inputs inside one operation; the sizes were found by
measuring single operations (docs/how_to/info.md). And transformers maps the files of weights into memory, so a page of
a weight takes memory when an operation reads it for the first time: the rows of an embedding that no prompt uses never
do.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from .live_bytes import META, LiveBytes

aten = torch.ops.aten
# Linux maps the pages around one that is read, if they are in its cache of files.
READ_AROUND = 64 * 2**10
# The C library of Linux takes tensors of up to this size from its heap. Free memory inside of the heap stays with the
# process. Larger tensors are returned to the system at once.
LARGEST_IN_HEAP = 32 * 2**20
HALF = (torch.bfloat16, torch.float16)


class CpuBytes(LiveBytes):
    """Counts, in a run without values, what the same run takes on a CPU.

    Args:
        weights: parameters and buffers.
        others: further tensors that are not counted, such as the inputs.

    Attributes:
        first_peak: the most during a first run in a new process: weights that were read so far, new tensors, free
            memory that the heap keeps, and copies in kernels.
        most_beside_weights: the most of all these without the weights.
        later_peak: the same, if all weights that this run reads were read before.
    """

    def __init__(self, weights: Iterable[torch.Tensor], others: Iterable[torch.Tensor] = ()) -> None:
        weights = list(weights)
        super().__init__(META, [*weights, *others])
        self._unread = {item.untyped_storage()._cdata: item.untyped_storage().nbytes() for item in weights}
        self._read_rows: dict[int, int] = {}
        self.read, self.first_peak, self.most_beside_weights = 0, 0, 0
        self._in_heap, self._largest_heap = 0, 0

    @property
    def later_peak(self) -> int:
        return self.read + self.most_beside_weights

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._read_weights(func, args, kwargs or {}, result)
        self.take(kernel_bytes(func, args, result))
        return result

    def change(self, size: int) -> None:
        """As in the base class."""
        super().change(size)
        if abs(size) <= LARGEST_IN_HEAP:
            self._in_heap += size
            self._largest_heap = max(self._largest_heap, self._in_heap)

    def take(self, num_bytes: int) -> None:
        """Note that an operation needs this many bytes for a moment, besides the tensors that are alive."""
        kept = self._largest_heap - self._in_heap
        self.most_beside_weights = max(self.most_beside_weights, self.now + kept + num_bytes)
        self.first_peak = max(self.first_peak, self.read + self.now + kept + num_bytes)

    def _read_weights(self, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        views = {item.untyped_storage()._cdata for item in tree_leaves(result) if isinstance(item, torch.Tensor)}
        for item in tree_leaves((args, kwargs)):
            if not isinstance(item, torch.Tensor) or (key := item.untyped_storage()._cdata) in views:
                continue
            if func._overloadpacket is aten.embedding and item is args[0]:
                ids = args[1]
                self._read_embedding(key, item, ids.numel() if ids.is_meta else ids.unique().numel())
            elif key in self._unread:
                self.read += self._unread.pop(key) - self._read_rows.pop(key, 0)

    def _read_embedding(self, key: int, table: torch.Tensor, num_rows: int) -> None:
        if key in self._unread:
            row = max(READ_AROUND, table[0].nbytes)
            known = self._read_rows.get(key, 0)
            self._read_rows[key] = min(self._unread[key], known + num_rows * row)
            self.read += self._read_rows[key] - known


def kernel_bytes(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """What the CPU's kernel of an operation takes for a moment, besides its inputs and its result."""
    if func._overloadpacket is not aten.convolution:
        return 0
    pixels, weight = args[0], args[1]
    layout = torch.channels_last_3d if pixels.ndim == 5 else torch.channels_last
    if pixels.ndim > 3 and pixels.is_contiguous(memory_format=layout) and not pixels.is_contiguous():
        # The weight is brought into the order of the pixels, and then into that of the kernel.
        return int(weight.nbytes * (1 if weight[0, 0].numel() == 1 else 2))
    if pixels.dtype in HALF:
        return int(weight.nbytes + pixels.nbytes + result.nbytes)
    return int(weight.nbytes + (pixels.nbytes if pixels.shape[1] > 4 else result.nbytes))


def attention_bytes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> int:
    """The same for torch's attention: the mask as numbers; in half precision, keys and values in another order."""
    of_mask = 0 if mask is None or mask.is_floating_point() else mask.numel() * query.element_size()
    return of_mask + (key.nbytes + value.nbytes if query.dtype in HALF else 0)


def process_bytes() -> int | None:
    """Memory of this process now, as Linux counts it; `None` on other systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)


__all__ = ["CpuBytes", "attention_bytes", "kernel_bytes", "process_bytes"]
