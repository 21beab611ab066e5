"""Counts floating-point operations: products with weights, and products of activations (attention) separately."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .meta_results import run_once

aten = torch.ops.aten
# Results of these functions still count as weights: they only change the layout or the type of a weight.
COPIES = (aten.clone, aten._to_copy)
# Convolutions always count as weight layers, even if the kernel is computed from weights (BEATs normalises its kernel).
CONVOLUTIONS = (aten.convolution, aten._convolution)


def grouped_mm_flops(
    rows: torch.Tensor, weights: torch.Tensor, *args: Any, out_val: torch.Tensor, **kwargs: Any
) -> int:
    """Operations of a mixture of experts, where each row is multiplied by one matrix. torch's counter ignores them."""
    return 2 * out_val.numel() * rows.shape[-1]


# Older releases of torch do not have `_grouped_mm`.
RULES = {**flop_registry, **({aten._grouped_mm: grouped_mm_flops} if hasattr(aten, "_grouped_mm") else {})}


@dataclass(frozen=True)
class Flops:
    """Numbers of operations. A multiply-add counts as two operations.

    Attributes:
        weights: operations in linear layers, convolutions and other products with a parameter.
        total: operations in all products, including products of activations (queries with keys, probabilities with
            values). The full attention matrix is counted; a causal kernel that skips masked entries saves up to half.
    """

    weights: int = 0
    total: int = 0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.weights + other.weights, self.total + other.total)

    def __sub__(self, other: "Flops") -> "Flops":
        return Flops(self.weights - other.weights, self.total - other.total)


class FlopCounter(TorchDispatchMode):
    """Counts the products that run inside `with counter:`, by the rules of torch's counter and one additional rule.

    It works without gradients, also on the meta device, where a model of any size takes neither memory nor time. Sums,
    norms, softmax and interpolation are not products and are not counted, as in torch's counter.

    Attributes:
        flops: the operations that were counted so far.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__()
        # The storages are kept alive, so that no other storage can get the same `id`.
        self._weights = {id(storage): storage for storage in (item.untyped_storage() for item in parameters)}
        self.flops = Flops()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = run_once(func, args, kwargs)
        packet = func._overloadpacket
        if packet in RULES:
            count = RULES[packet](*args, **kwargs, out_val=result)
            is_weight = packet in CONVOLUTIONS or any(map(self._is_weight, args))
            self.flops += Flops(weights=count if is_weight else 0, total=count)
        elif packet in COPIES and self._is_weight(args[0]):
            storage = result.untyped_storage()
            self._weights[id(storage)] = storage
        return result

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and id(value.untyped_storage()) in self._weights


def measure(model: nn.Module, run: Callable[[], Any]) -> tuple[Flops, Any]:
    """Count the operations of `run`; return them with its result.

    Args:
        model: products with its parameters count as weight layers.
        run: calls the model, or parts of it.
    """
    counter = FlopCounter(model.parameters())
    with torch.no_grad(), counter:
        result = run()
    return counter.flops, result


__all__ = ["FlopCounter", "Flops", "measure"]
