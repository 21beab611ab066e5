"""What is trained is float32 while it is trained, whatever type the checkpoint has.

In bfloat16, most steps of a small learning rate are rounded away: a number has 8 bits, and a step that is less than
half of the last one changes nothing. Frozen matrices keep their type where the trainer computes under autocast (`bf16`
or `fp16` of its arguments); biases and weights of norms are float32, because autocast on a CPU does not adjust what
comes into a norm. Without autocast, all weights are float32, because layers take inputs of their own type only.

A checkpoint that a training resumes from (`checkpoint-N`) holds what is trained in float32, so that the curve goes on
exactly. A result has the types of the model that the training began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from ..hub.quantized_weights import is_quantized
from ..models.video_llm_contract import ModelContract
from ..training_outputs import CHECKPOINT

__all__ = ["Float32Mixin", "autocast_of", "to_float32"]

HALF = (torch.bfloat16, torch.float16)
_MATRIX = 2
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Model -> types of its tensors, by name, before the first training that made some of them float32.
_STORED: WeakKeyDictionary[nn.Module, dict[str, torch.dtype]] = WeakKeyDictionary()
# Model -> the hooks that let it run under autocast.
_AUTOCASTS: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


class Float32Mixin:
    """For a trainer of TRL. In a list of base classes, it must come before the trainer.

    Attributes:
        stored_types: types of the tensors that were made float32, by name.
    """

    stored_types: dict[str, torch.dtype]
    is_deepspeed_enabled: bool
    accelerator: Any
    args: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Args: as in TRL."""
        super().__init__(*args, **kwargs)
        autocast = AUTOCAST.get(str(self.accelerator.mixed_precision))
        # Under its own mixed precision, DeepSpeed keeps float32 copies of what it trains.
        is_left = self.is_deepspeed_enabled and autocast is not None
        self.stored_types = {} if is_left else to_float32(self.model, autocast)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As in transformers, with the tensors in the types that they are stored in."""
        if not self.stored_types or not self.args.should_save or not isinstance(self.model, PreTrainedModel):
            # An adapter is small beside its base model: it stays float32, as PEFT makes it.
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        folder = Path(output_dir or self.args.output_dir)
        exact: set[str] = set()
        if CHECKPOINT.fullmatch(folder.name):
            exact = {name for name, value in _tensors(self.model).items() if value.requires_grad}
        types = {name: kind for name, kind in self.stored_types.items() if name not in exact}
        super()._save(str(folder), _in_types(state_dict or self.model.state_dict(), types))  # type: ignore[misc]
        # transformers notes the type of the first parameter, with which whoever loads the folder would load all.
        name, first = next(self.model.named_parameters())
        self.model.config.dtype = self.stored_types.get(name, first.dtype)
        self.model.config.save_pretrained(folder)


def autocast_of(arguments: Mapping[str, Any]) -> torch.dtype | None:
    """The type in which a trainer with these arguments computes; `None` if it uses no autocast.

    Example:
        >>> autocast_of({"bf16": True})
        torch.bfloat16
    """
    return next((dtype for name, dtype in AUTOCAST.items() if arguments.get(name)), None)


def to_float32(model: nn.Module, autocast: torch.dtype | None) -> dict[str, torch.dtype]:
    """Make what is trained float32, and of the rest what would not go together with it.

    Args:
        model: the model, in which the parameters are frozen that are not trained.
        autocast: the type in which the trainer computes. The model runs under this autocast from now on, also where no
            trainer runs it.

    Returns:
        Types that the changed tensors are stored in, by name.
    """
    stored = _STORED.get(model, {})
    changed = {
        name: value
        for name, value in _tensors(model).items()
        if value.dtype in HALF
        and not is_quantized(value)
        and (autocast is None or value.requires_grad or value.ndim < _MATRIX)
    }
    stored.update({name: value.dtype for name, value in changed.items()})
    for value in changed.values():
        value.data = value.data.to(torch.float32)
    if stored:
        _STORED[model] = stored
        _run_under_autocast(model, autocast)
    return dict(stored)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers under all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _in_types(state: dict[str, Any], types: dict[str, torch.dtype]) -> dict[str, Any]:
    """Tensors in other types. Names that share a tensor still share it, because shared weights are stored once."""
    cast: dict[Any, torch.Tensor] = {}
    result = {}
    for name, value in state.items():
        if name in types and value.dtype != types[name]:
            place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, types[name])
            if place not in cast:
                cast[place] = value.to("cpu", types[name])
            value = cast[place]
        result[name] = value
    return result


class _Autocast:
    """Runs a module under autocast: `generate` and evaluations of a user's own run it without a trainer."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._open: list[AbstractContextManager[Any]] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        device = next((value.device.type for value in module.parameters()), "meta")
        # On the meta device, which plans use, there is nothing to cast.
        context: AbstractContextManager[Any] = nullcontext()
        if device != "meta":
            context = torch.autocast(device, self.dtype)
        context.__enter__()
        self._open.append(context)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop().__exit__(None, None, None)


def _run_under_autocast(model: nn.Module, dtype: torch.dtype | None) -> None:
    own = next((module for module in model.modules() if isinstance(module, ModelContract)), model)
    for handle in _AUTOCASTS.pop(own, []):
        handle.remove()
    if dtype is None:
        return
    autocast = _Autocast(dtype)
    # `generate` runs towers and connectors before it calls the model.
    for part in _parts(own):
        enter = part.register_forward_pre_hook(autocast.enter, prepend=True)
        leave = part.register_forward_hook(autocast.leave, always_call=True)
        _AUTOCASTS.setdefault(own, []).extend((enter, leave))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """A module and what it consists of, without the layers of a list."""
    yield module
    for child in module.children():
        if not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child)
