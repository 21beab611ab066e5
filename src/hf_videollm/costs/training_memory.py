"""Predicts the memory of a training step, from the model's structure alone.

The model runs forward and backward once on torch's meta device, where tensors have sizes but no values. Weights,
gradients and the state of the optimizer are counted from the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..models.errors import one_line
from .live_bytes import META, LiveBytes, unique_bytes

__all__ = ["HOW", "TrainingMemory", "optimizer_bytes", "predict_training_memory"]

HOW = (
    "The model's code runs forward and backward once on torch's meta device (sizes without values), and the tensors "
    "that are alive at one moment are added up. Weights, gradients and optimizer are counted from the parameters. "
    "Buffers of libraries and fragmented memory come besides."
)
# Names of optimizers that begin so -> bytes of their state for each parameter, and whether these grow with its type.
_STATES: dict[str, tuple[float, bool]] = {
    "adamw_8bit": (2, False),
    "adamw_bnb_8bit": (2, False),
    "paged_adamw_8bit": (2, False),
    "adamw_torch_8bit": (2, False),
    "adamw_torch_4bit": (1, False),
    "lion_8bit": (1, False),
    "paged_lion_8bit": (1, False),
    "adamw": (2, True),
    "paged_adamw": (2, True),
    "lion": (1, True),
    "paged_lion": (1, True),
    "rmsprop": (1, True),
    "adagrad": (1, True),
    "sgd": (0, True),
    "adafactor": (0, True),
}


@dataclass(frozen=True)
class TrainingMemory:
    """The largest memory of a training step on one device, in bytes.

    Attributes:
        weights: all parameters and buffers, in the types in which the trainer keeps them.
        gradients: of the trained parameters.
        optimizer: the state of the optimizer.
        inputs: frames and sounds of a batch.
        activations: the most that is alive beside these while the step runs. Under autocast, copies of trained weights
            in the type of the activations are among them.
        total: the sum of all.
    """

    weights: int
    gradients: int
    optimizer: int
    inputs: int
    activations: int
    total: int

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON."""
        return asdict(self)


def predict_training_memory(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    *,
    samples: int = 1,
    dtype: torch.dtype | None = None,
    optimizer: str = "adamw_torch",
    weight_bytes: int | None = None,
) -> TrainingMemory:
    """Predict the memory of one step.

    Args:
        model: on the meta device, in training mode, with the parameters frozen that are not trained, and with
            activation checkpointing if it is used. Its parameters are converted to `dtype`.
        inputs: of one sample with `labels`; media on the meta device (`memory.make_inputs`).
        samples: of a batch. Their inputs and activations are so many times those of one sample, which is a little too
            much where a vision tower takes some frames at a time.
        dtype: type of the activations; that of the weights by default.
        optimizer: as transformers names it in `TrainingArguments.optim`.
        weight_bytes: bytes of the weights if they are known otherwise, as those of a quantized model.

    Raises:
        ValueError: this model cannot run without values; the message says why.
    """
    own = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = unique_bytes(own) if weight_bytes is None else weight_bytes
    gradients = unique_bytes(trained)
    state = optimizer_bytes(optimizer, trained)
    media = samples * unique_bytes(value for value in inputs.values() if value.device.type == META)
    copies = 0
    if dtype is not None:
        # Autocast casts a trained weight once in a step, and keeps the copy until the backward pass has used it.
        larger = [value for value in trained if value.element_size() > dtype.itemsize]
        copies = sum(value.numel() for value in larger) * dtype.itemsize
        model.to(dtype)
    try:
        activations = copies + samples * _activations(model, inputs)
    # Parts of a model that need values fail in many ways on the meta device.
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        reason = one_line(error, 120)
        raise ValueError(f"The memory of the activations cannot be predicted ({reason}).") from error
    total = weights + gradients + state + media + activations
    return TrainingMemory(weights, gradients, state, media, activations, total)


def optimizer_bytes(name: str, trained: list[nn.Parameter]) -> int:
    """Bytes of the state of an optimizer; an unknown one counts like AdamW, with two values for each parameter.

    Example:
        >>> optimizer_bytes("adamw_torch", [nn.Parameter(torch.zeros(10))])
        80
    """
    matches = [known for known in _STATES if name.startswith(known)]
    number, is_typed = _STATES[max(matches, key=len)] if matches else (2, True)
    return int(sum(value.numel() * number * (value.element_size() if is_typed else 1) for value in trained))


def _activations(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> int:
    """The most bytes that are alive in a step, beside weights, inputs, and gradients that are complete."""
    counter = LiveBytes(META, [*model.parameters(), *model.buffers(), *inputs.values()])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _freed_gradients(trained), _AttentionWithoutValues(), counter:
        loss = model(**inputs).loss
        if loss.requires_grad:
            # `backward()` would switch off the replaced attention, which checkpointed layers run again.
            engine: Any = torch.autograd.Variable._execution_engine
            engine.run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
    return counter.peak


@contextmanager
def _freed_gradients(trained: list[nn.Parameter]) -> Iterator[None]:
    """Gradients are counted from the parameters, so each is freed as soon as it is complete."""

    def free(parameter: torch.Tensor) -> None:
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(free) for parameter in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _FusedAttention(torch.autograd.Function):
    """An attention without values. It keeps for the backward pass what the fused kernels of GPUs keep."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The kernels write the heads of a position side by side, so that what follows needs no copy."""
        *others, heads, length, _ = query.shape
        output = query.new_empty(*others, length, heads, value.shape[-1]).transpose(-2, -3)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of query, key and value."""
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


_attention = _FusedAttention.apply


class _AttentionWithoutValues(TorchFunctionMode):
    """Replaces torch's attention, whose matrix of all queries and keys no training keeps on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        return _attention(given["query"], given["key"], given["value"])
