"""Results of operations on torch's meta device, each computed once for tensors of the same sizes.

The layers of a model are alike, so the same operations meet tensors of the same sizes again and again. On the meta
device most operations are written in Python, and their results are found here much sooner than computed again.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

# A model has some hundred different operations. Whoever counts thousands of models in one process starts again.
MOST_KNOWN = 20_000
PLAIN = (torch.Tensor, nn.Parameter)
_known: dict[Any, Any] = {}


class _UnknowableError(Exception):
    """The result depends on more than sizes and types, or shares memory with something else."""


def run_once(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`func(*args, **kwargs)`, as a dispatch mode gets them. New tensors without values may be found instead.

    Args:
        func: an operation of torch.
        args: its arguments. Where a tensor has values, the operation is always computed.
        kwargs: its named arguments.

    Example:
        >>> run_once(torch.ops.aten.neg.default, (torch.empty(2, 3, device="meta"),), {}).shape
        torch.Size([2, 3])
    """
    try:
        if not _is_function(func):
            raise _UnknowableError
        key = (func, _sizes(args), tuple((name, _sizes(value)) for name, value in kwargs.items()))
        found = _known.get(key)
    except (_UnknowableError, TypeError):  # TypeError: an argument without a hash, such as a random generator
        return func(*args, **kwargs)
    if found is not None:
        return _make(found)
    result = func(*args, **kwargs)
    try:
        form = _form(result, _memories((args, kwargs)))
    except _UnknowableError:
        return result
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    _known[key] = form
    return result


@cache
def _is_function(func: Any) -> bool:
    """The operation changes no argument, and its result is no view of one."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    schema = func._schema
    return not schema.is_mutable and all(value.alias_info is None for value in schema.returns)


def _sizes(value: Any) -> Any:
    """What the result can depend on, as a key."""
    if isinstance(value, torch.Tensor):
        if type(value) not in PLAIN or value.device.type != "meta" or value.is_complex():
            raise _UnknowableError
        return torch.Tensor, value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple, *map(_sizes, value)
    # With its type: 1, 1.0 and True are equal, and give results of different types.
    return type(value), value


def _memories(arguments: Any) -> set[int]:
    """The memory of all tensors, as numbers."""
    return {item.untyped_storage()._cdata for item in tree_leaves(arguments) if isinstance(item, torch.Tensor)}


def _form(result: Any, of_arguments: set[int]) -> Any:
    """What `_make` needs to make such a result."""
    if isinstance(result, list | tuple):
        return type(result), [_form(item, of_arguments) for item in result]
    if type(result) is not torch.Tensor or result.device.type != "meta" or result.is_complex():
        raise _UnknowableError
    form = (torch.Tensor, (result.shape, result.stride(), result.dtype))
    memory = result.untyped_storage()
    # An argument that is given back is no new tensor, and neither is a part of a larger memory.
    if memory._cdata in of_arguments or memory.nbytes() != _make(form).untyped_storage().nbytes():
        raise _UnknowableError
    return form


def _make(form: Any) -> Any:
    kind, content = form
    if kind is not torch.Tensor:
        return kind(map(_make, content))
    shape, stride, dtype = content
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


__all__ = ["run_once"]
