"""Floating-point operations of modules, split into products with weights and products of activations (attention)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# Another layout or another type of a weight is still that weight.
COPIES = (aten.clone, aten._to_copy)
# Convolutions are weight layers, also where the kernel is computed from weights (BEATs normalises its own).
CONVOLUTIONS = (aten.convolution, aten._convolution)


def grouped_mm_flops(
    rows: torch.Tensor, weights: torch.Tensor, *args: Any, out_val: torch.Tensor, **kwargs: Any
) -> int:
    """Every row of a mixture of experts meets one of the matrices; torch's own counter passes over it."""
    return 2 * out_val.numel() * rows.shape[-1]


# Older releases of torch have no such product.
RULES = {**flop_registry, **({aten._grouped_mm: grouped_mm_flops} if hasattr(aten, "_grouped_mm") else {})}


@dataclass(frozen=True)
class Flops:
    """Operations, two for each multiply-add.

    Attributes:
        weights: in linear layers, convolutions and other products with a parameter.
        total: in all products, those of activations included: queries with keys, probabilities with values. Their
            whole square is counted; a causal kernel that skips what is masked saves up to half of it.
    """

    weights: int = 0
    total: int = 0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.weights + other.weights, self.total + other.total)

    def __sub__(self, other: "Flops") -> "Flops":
        return Flops(self.weights - other.weights, self.total - other.total)


class FlopCounter(TorchDispatchMode):
    """Counts the products that run inside of `with counter:`, by the rules of torch's own counter and one more.

    Works without gradients, on the meta device as well, where a model of any size takes neither memory nor time.
    Sums, norms, softmax and interpolation are not products and are left out, as in torch's counter.

    Attributes:
        flops: what was counted so far.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__()
        # The storages are kept, so that their identity stays theirs.
        self._weights = {id(storage): storage for storage in (item.untyped_storage() for item in parameters)}
        self.flops = Flops()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
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
    """Operations of `run`, and its result.

    Args:
        model: its parameters tell weight layers from attention.
        run: calls the model, or parts of it.
    """
    counter = FlopCounter(model.parameters())
    with torch.no_grad(), counter:
        result = run()
    return counter.flops, result


__all__ = ["FlopCounter", "Flops", "measure"]
