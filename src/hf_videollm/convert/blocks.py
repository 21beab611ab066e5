"""Reads, casts and merges tensors block by block, so that a conversion costs little more than copying the files.

A block is so small that it stays in the processor's cache from reading to writing, and its memory is used again for the
next block. A tensor that is read as a whole passes through main memory at each step, and the system has to clear new
pages for it, which takes longer than the copy.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import is_finite, refuse_nonfinite
from .stream import StoredTensor, read_into, read_tensor

# Size of a block in bytes. With twice the size, the values in float32 would not fit into usual caches of one core.
BLOCK = 2**19
SIXTEEN_BITS = (torch.float16, torch.bfloat16)
# Memory that `_memory` lends.
_free: list[torch.Tensor] = []


def read_blocks(tensor: StoredTensor, rows: int | None = None, whole_rows: bool = False) -> Iterator[torch.Tensor]:
    """Read a tensor block by block.

    Args:
        tensor: the stored tensor.
        rows: how many entries of the first dimension are read; `None` reads all.
        whole_rows: give matrices (entries of the first dimension, all other values), and not flat blocks.

    Yields:
        The values in their order. A block is valid until the next one is asked for, because they share their memory.

    Raises:
        CheckpointError: the file changed or became unreadable after its header was read, or the tensor holds NaN or
            infinity.
    """
    shape = tensor.shape if rows is None else (min(rows, tensor.shape[0]), *tensor.shape[1:])
    total, columns = math.prod(shape) * tensor.dtype.itemsize, math.prod(shape[1:])
    unit = tensor.dtype.itemsize * (max(columns, 1) if whole_rows else 1)
    size = min(max(1, BLOCK // unit) * unit, total)
    try:
        with _memory(size) as memory, tensor.file.open("rb", buffering=0) as handle:
            # The views are made once and not for each block, because that would take longer than the check of a block.
            data, values = memory.numpy().data, memory.view(tensor.dtype)
            values = values.reshape(-1, columns) if whole_rows else values
            handle.seek(tensor.offset)
            for start in range(0, total, size or 1):
                if total - start < size:
                    data = data[: total - start]
                    values = values[: (total - start) // unit]
                if read_into(handle, data) != len(data):
                    raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}: download it again.")
                refuse_nonfinite(values, tensor.name, tensor.place)
                yield values
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read ({error}).") from error


def cast_blocks(blocks: Iterable[torch.Tensor], dtype: torch.dtype, tensor: StoredTensor) -> Iterator[torch.Tensor]:
    """Cast blocks one by one, bitwise as `torch.Tensor.to` does it.

    Args:
        blocks: blocks of a tensor.
        dtype: new type.
        tensor: the tensor, for messages.

    Yields:
        The values in the new type. A block is valid until the next one is asked for.

    Raises:
        CheckpointError: a value is too large for the new type.
    """
    for block in blocks:
        if block.dtype == dtype:
            yield block
            continue
        with _memory(block.numel() * 4) as middle, _memory(block.numel() * dtype.itemsize) as memory:
            values, wide = memory.view(dtype), block.reshape(-1)
            if {block.dtype, dtype} == {*SIXTEEN_BITS}:
                # torch converts between these two types value by value; both ways through float32 use vectors.
                wide = middle.view(torch.float32).copy_(wide)
            values.copy_(wide)
            # float16 ends at 65,504. All other types have the range of float32, which only values in float64 leave.
            if (dtype == torch.float16 or block.dtype == torch.float64) and not is_finite(values):
                kind = str(dtype).removeprefix("torch.")
                raise CheckpointError(
                    f"{tensor.name} in {tensor.place} holds values that are too large for {kind}: choose another dtype "
                    "(bfloat16 has the range of float32)."
                )
            yield values


@contextmanager
def _memory(size: int) -> Iterator[torch.Tensor]:
    """Lend `size` bytes. They are lent again, because the system has to clear memory that is new."""
    found = next((number for number, free in enumerate(_free) if len(free) >= size), None)
    memory = torch.empty(max(size, BLOCK), dtype=torch.uint8) if found is None else _free.pop(found)
    try:
        yield memory[:size]
    finally:
        if len(memory) <= 4 * BLOCK and len(_free) < 4:
            _free.append(memory)


def merged_blocks(
    weight: StoredTensor, factors: tuple[StoredTensor, StoredTensor], scale: float
) -> Iterator[torch.Tensor]:
    """W + scale * B A block by block, computed in float32 for every type of weights except float64.

    Args:
        weight: W, a matrix.
        factors: A (rank, in) and B (out, rank). Both are read as a whole.
        scale: strength of the LoRA.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    a, b = (read_tensor(factor).to(wide) for factor in factors)
    done = 0
    for block in read_blocks(weight, whole_rows=True):
        values = block.to(wide)
        yield values.addmm_(b[done : done + len(values)], a, alpha=scale)
        done += len(values)


__all__ = ["cast_blocks", "merged_blocks", "read_blocks"]
