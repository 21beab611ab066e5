"""Compares the weights of quantized models, as plain numbers."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..models.errors import CheckpointError
from ..models.video_llm_quantization import dequantize_blocks


@dataclass(frozen=True)
class WeightErrors:
    """How far the quantized layers are from the original ones: norm of the difference by norm of the original weight.

    Attributes:
        layers: number of quantized layers.
        mean: mean over the layers.
        largest: largest one.
        worst: name of the layer with the largest one.
    """

    layers: int = 0
    mean: float = 0.0
    largest: float = 0.0
    worst: str | None = None


def is_quantized(tensor: torch.Tensor) -> bool:
    """Whether a parameter is a quantized one, of bitsandbytes or torchao."""
    return isinstance(tensor, nn.Parameter) and (type(tensor) is not nn.Parameter or hasattr(tensor, "dequantize_"))


Count = Callable[[int, int], None]


def plain_weights(model: nn.Module, count: Count | None = None) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """The name of each parameter and buffer, its numbers, and whether it is quantized.

    The numbers of quantized weights are dequantized one at a time, so the memory for all of them is never needed.
    Weights that share their memory come once, as in `named_parameters`.

    Args:
        model: the model.
        count: called after each of them with how many are done, and how many there are.

    Raises:
        CheckpointError: bitsandbytes keeps a weight in an order that only its own layers can read. It does so on some
            CPUs when the layer runs.
    """
    parameters, buffers = list(model.named_parameters()), list(model.named_buffers())
    for done, (name, value) in enumerate((*parameters, *buffers), start=1):
        quantized = done <= len(parameters) and is_quantized(value)
        yield name, _plain(name, value) if done <= len(parameters) else value, quantized
        if count is not None:
            count(done, len(parameters) + len(buffers))


def _plain(name: str, parameter: Any) -> torch.Tensor:
    kind = type(parameter).__name__
    if not is_quantized(parameter):
        return parameter.detach()
    if kind == "Params4bit":
        if getattr(parameter.quant_state, "packing_format_for_cpu", False):
            raise CheckpointError(f"{name} has been packed by bitsandbytes, because the model has run: load it again.")
        return dequantize_blocks(parameter)
    if kind == "Int8Params":
        import bitsandbytes

        return bitsandbytes.functional.int8_vectorwise_dequant(parameter.data, parameter.SCB)
    return parameter.detach().dequantize()


def fingerprints(model: nn.Module, count: Count | None = None) -> dict[str, bytes]:
    """A hash of each weight, dequantized: 16 bytes for its shape, type and numbers. `count` as in `plain_weights`."""
    return {name: _fingerprint(tensor) for name, tensor, _ in plain_weights(model, count)}


def _fingerprint(tensor: torch.Tensor) -> bytes:
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    facts = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.blake2b(facts + numbers.tobytes(), digest_size=16).digest()


def compare_written(expected: dict[str, bytes], again: nn.Module, count: Count | None = None) -> None:
    """Compare a variant that was loaded from its folder with the model that was saved there.

    Args:
        expected: the fingerprints of the model that was saved.
        again: the model that was loaded.
        count: as in `plain_weights`.

    Raises:
        CheckpointError: a weight differs.
    """
    found = fingerprints(again, count)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise CheckpointError(
            f"The variant would not load as it was quantized, so nothing was written: {len(wrong)} of {len(expected)} "
            f"weights differ, the first is {wrong[0]}. Another release of the package that quantizes may help."
        )


def compare_with_original(
    again: nn.Module, original: nn.Module, largest: float, count: Count | None = None
) -> WeightErrors:
    """Compare a variant with the model that it was made from, loaded in the type of the variant.

    Args:
        again: the variant.
        original: the original model.
        largest: largest relative error that a quantized layer may have.
        count: as in `plain_weights`.

    Raises:
        CheckpointError: an error is larger, or a weight that is not quantized differs.
    """
    weights = {**dict(original.named_parameters()), **dict(original.named_buffers())}
    turned = {f"{name}.weight" for name, module in original.named_modules() if isinstance(module, Conv1D)}
    errors: dict[str, float] = {}
    for name, tensor, quantized in plain_weights(again, count):
        if name not in weights:
            raise CheckpointError(f"The variant has a weight that the original has not: {name}.")
        wanted = weights[name].detach()
        if not quantized:
            if not torch.equal(tensor, wanted.to(tensor.device, tensor.dtype)):
                raise CheckpointError(f"{name} should have stayed as it is, but differs from the original.")
            continue
        # Quantized layers hold the weights of GPT-2's linear layers as all others do, the other way round.
        wanted = wanted.T if name in turned else wanted
        wanted = wanted.to(tensor.device, torch.float32)
        norm = wanted.norm().item()
        errors[name] = (tensor.float() - wanted).norm().item() / norm if norm else tensor.float().norm().item()
    if not errors:
        return WeightErrors()
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= largest:
        raise CheckpointError(
            f"{worst} lost too much when it was quantized: its relative error is {errors[worst]:.3g}, and at most "
            f"{largest:g} is expected. Nothing was written."
        )
    return WeightErrors(len(errors), sum(errors.values()) / len(errors), errors[worst], worst)


__all__ = [
    "WeightErrors",
    "compare_with_original",
    "compare_written",
    "fingerprints",
    "is_quantized",
    "plain_weights",
]
