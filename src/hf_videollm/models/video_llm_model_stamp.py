"""What shows cheaply, in one process, that the weights of a model have changed.

A full digest of a model takes seconds, which is too long before every question. torch counts writes to a tensor, which
shows nearly every change: a step of an optimizer, `load_state_dict`, `copy_`. It does not count writes through
`parameter.data`, as some libraries merge adapters or average weights. So some values of each tensor are compared, too:
other ones in each stamp.

A write through `.data` to a fraction f of the values of a tensor is missed with a probability of (1 - f)^256: one that
changes a tenth of them never, one that changes a hundredth with 8 %, and one that changes a single value of a large
tensor nearly always. Nothing cheap sees that: after such a change, open the media again, or clear the memory. What is
written to disk is safer, as `weights_sums` reads every value.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch

# Values of each tensor that are compared.
NUM_SAMPLES = 256
# Numbers of 8 bytes in a row of `weights_sums`.
ROW = 1024
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ModelStamp:
    """What a model was at one moment.

    Attributes:
        counts_changes: whether torch counts writes to all tensors. It does not for those made in inference mode.
    """

    def __init__(self, model: Any) -> None:
        """Args:
        model: with its weights.
        """
        # The numbers of the user's program stay as they are.
        generator = torch.Generator()
        generator.seed()
        self._adapters = adapters_of(model)
        tensors = [tensor for _, tensor in tensors_of(model)]
        self._forms = _forms(tensors)
        self._versions = _versions(tensors)
        self._places = [_places(tensor.numel(), generator).to(tensor.device) for tensor in tensors]
        self._values = _sampled(tensors, self._places)

    @property
    def counts_changes(self) -> bool:
        return self._versions is not None

    def fits(self, model: Any) -> bool:
        """Whether no change is seen: no weight was replaced or written to, and no adapter is set in another way."""
        tensors = [tensor for _, tensor in tensors_of(model)]
        if _forms(tensors) != self._forms or _versions(tensors) != self._versions:
            return False
        if adapters_of(model) != self._adapters:
            return False
        values = _sampled(tensors, self._places)
        return all(torch.equal(ours, values[key]) for key, ours in self._values.items())


def adapters_of(model: Any) -> list[Any]:
    """Which adapters of PEFT are in use, and how strongly: no weight says so."""
    return [
        [name, str(module.scaling), str(module.active_adapters), str(getattr(module, "disable_adapters", None))]
        for name, module in model.named_modules()
        # Not `hasattr`, which is slow for a module without the attribute.
        if "scaling" in module.__dict__ and hasattr(type(module), "active_adapters")
    ]


def tensors_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights and buffers, with their names."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def weights_sums(model: Any) -> str:
    """A digest of sums of all bits of a model, at the speed of its memory. It changes with every change of a value.

    The bits of each tensor stand in a table, of which each row and each column is added. So values that change places
    are seen, too. Only changes that keep all these sums are not, which do not happen by chance.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model), key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        if tensor.is_meta or not tensor.numel():
            continue
        data = tensor.detach().contiguous().view(-1).view(torch.uint8)
        if data.data_ptr() % 8:
            data = data.clone()
        whole = len(data) // 8 // ROW * ROW * 8
        table = data[:whole].view(torch.int64).view(-1, ROW)
        for part in (table.sum(0), table.sum(1), data[whole:]):
            digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()


def _places(length: int, generator: torch.Generator) -> torch.Tensor:
    """Places of values: all of a short tensor, and some of a long one."""
    if length <= NUM_SAMPLES:
        return torch.arange(length)
    return torch.randint(length, (NUM_SAMPLES,), generator=generator)


def _forms(tensors: list[torch.Tensor]) -> list[Any]:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _versions(tensors: list[torch.Tensor]) -> list[tuple[int, int]] | None:
    """Changes when a tensor is replaced or written to; `None` for tensors that do not count their changes."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    except RuntimeError:
        return None


@torch.no_grad()
def _sampled(tensors: list[torch.Tensor], places: list[torch.Tensor]) -> dict[Any, torch.Tensor]:
    """The bits of the values at these places, joined for each device and size of a value."""
    found: dict[Any, list[torch.Tensor]] = {}
    for tensor, place in zip(tensors, places, strict=True):
        kind = _INTEGERS.get(tensor.element_size())
        if tensor.is_meta or not tensor.numel() or kind is None:
            continue
        if tensor.is_contiguous():
            bits = tensor.detach().view(-1).view(kind).take(place)
        else:
            bits = tensor.detach()[torch.unravel_index(place, tensor.shape)].contiguous().view(kind)
        found.setdefault((tensor.device, kind), []).append(bits)
    return {key: torch.cat(parts) for key, parts in found.items()}


__all__ = ["ModelStamp", "adapters_of", "tensors_of", "weights_sums"]
