"""Counts what makes Python wait for the device: reading values of tensors, or shapes that depend on values.

On a GPU, each of these calls waits until the device has finished everything before it. On a CPU nothing waits, but the
calls are the same, so they can be counted without a GPU.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result is a Python value, or has a size that depends on values.
OPERATORS = frozenset(
    {
        "_local_scalar_dense",  # item(), int(), float(), bool()
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "masked_select",
        "unique_dim",
        "unique_consecutive",
        "_unique",
        "_unique2",
        "bincount",
    }
)
# Methods that read the values of a CPU tensor without an operator.
METHODS = frozenset({"tolist", "numpy", "__array__"})
# Operators that index with tensors; with boolean ones, the size of the result depends on their values.
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


class HostSyncs(TorchDispatchMode):
    """Counts the calls, by the name of the operator or method, while it is active.

    Attributes:
        counts: name -> number of calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._methods = _Methods(self.counts)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __enter__(self) -> "HostSyncs":
        self._methods.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in OPERATORS or (name in INDEXING and _holds_booleans(args[1])):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Counts methods that no dispatch mode sees."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in METHODS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def _holds_booleans(indices: Sequence[Any]) -> bool:
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
