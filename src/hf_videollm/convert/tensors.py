"""Compares the tensors of a source with those of the model: names, shapes, types."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.errors import CheckpointError, one_line
from ..models.video_llm_checkpoint_config import IMPOSSIBLE
from .configs import check_raw_config
from .stream import StoredTensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def usual_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The type in which most bytes are stored."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def model_shapes(config: Any, model_class: Any, file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model. The model is built without memory for its weights.

    Raises:
        CheckpointError: no model can be built from this configuration; the message names `file`.
    """
    check_raw_config(config.to_dict(), file)
    try:
        with torch.device("meta"):
            model = model_class(config)
    except IMPOSSIBLE as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{file} describes no model that can be built ({reason}).") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def misfits(
    weights: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    unknown: Iterable[StoredTensor],
    describe_missing: Callable[[str], str],
    design: str,
) -> list[str]:
    """One sentence for every tensor that is missing, left over, of another shape, or quantized.

    Args:
        weights: our name -> stored tensor.
        expected: our name -> shape in the model.
        unknown: tensors that have no name in the model.
        describe_missing: maps our name to a sentence with the name of the tensor in the source, and where it should be.
        design: name of the design in messages.
    """
    surplus = [*unknown, *(tensor for name, tensor in weights.items() if name not in expected)]
    return [
        *(f"{describe_missing(name)}" for name in expected if name not in weights),
        *(f"{tensor.name} in {tensor.place} has no place in {design}" for tensor in surplus),
        *(
            f"{tensor.name} in {tensor.place} has the shape {shape_text(tensor.shape)} instead of "
            f"{shape_text(expected[name])}"
            for name, tensor in weights.items()
            if name in expected and tensor.shape != expected[name]
        ),
        *(
            f"{tensor.name} in {tensor.place} is {str(tensor.dtype).removeprefix('torch.')}: quantized weights cannot "
            "be converted, use the original ones"
            for tensor in weights.values()
            if tensor.dtype not in FLOATS
        ),
    ]


def refuse(problems: Sequence[str], limit: int = 3) -> None:
    """Raise `CheckpointError` with the first few problems in one line, if there are any."""
    if problems:
        more = f" (and {len(problems) - limit} more)" if len(problems) > limit else ""
        raise CheckpointError("; ".join(problems[:limit]) + more + ".")


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text: `(2, 3)`, and `(2)` for one dimension."""
    return "(" + ", ".join(map(str, shape)) + ")"
