"""Quantized loading: only the language model is quantized; towers, connectors and adapters keep their precision.

These parts are small compared to the language model. Quantizing them saves little memory, and makes answers worse.
"""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers.quantizers import AutoQuantizationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Base
else:  # at run time, the attributes come from the `PreTrainedModel` that each subclass also inherits from
    _Base = object

# Names of the field that lists the modules that are not quantized, in the quantization configs of transformers.
SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
HEAD = "lm_head"


class QuantizationMixin(_Base):
    """`from_pretrained` that does not quantize the modules that the configuration names."""

    @classmethod
    def unquantized_modules(cls, source: str | os.PathLike[str] | None, **kwargs: Any) -> list[str]:
        """The modules that are not quantized, by their names in the model without a head.

        Args:
            source: folder or Hub id of the checkpoint.
            kwargs: arguments of `from_pretrained`.
        """
        return list(cls.config_class.modules_to_not_convert)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Self:
        """As in transformers; `quantization_config` applies to the language model only.

        If the quantization config itself lists the modules that are not quantized (`llm_int8_skip_modules` of
        bitsandbytes, `modules_to_not_convert` of torchao and others), exactly this list is used.
        """
        quantization_config = kwargs.get("quantization_config")
        # The configuration of a checkpoint that is already quantized lists the modules that are not quantized.
        if quantization_config is not None and not getattr(kwargs.get("config"), "quantization_config", None):
            parts = cls.unquantized_modules(pretrained_model_name_or_path, **kwargs)
            # The list is saved with the checkpoint. It holds the names in the model with a head and in the model
            # without a head, because the checkpoint can be loaded as either of them.
            names = [*parts, *(f"model.{name}" for name in parts), HEAD]
            kwargs["quantization_config"] = leave_out(quantization_config, names)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        mend_four_bit_layers(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def leave_out(quantization_config: Any, names: Iterable[str]) -> Any:
    """A copy of a quantization config that excludes modules from quantization, unless it already has such a list.

    Args:
        quantization_config: a quantization config of transformers, or a dict of its fields.
        names: beginnings of the full names of the modules to exclude.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(dict(quantization_config))
    changed = copy.copy(quantization_config)
    for field in SKIP_LISTS:
        if hasattr(changed, field) and getattr(changed, field) is None:
            setattr(changed, field, list(names))
    return changed


def modules_beside(module: nn.Module, language_model: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the modules outside the language model that have linear layers.

    Only the outermost of them are named: a module inside another one of the result is left out.
    """
    for name, child in module.named_children():
        parts = list(child.modules())
        if language_model in parts[1:]:
            yield from modules_beside(child, language_model, f"{prefix}{name}.")
        elif child is not language_model and any(isinstance(part, nn.Linear) for part in parts):
            yield f"{prefix}{name}"


def adopt_quantization(model: Any, part: Any, name: str, unquantized: Iterable[str]) -> None:
    """Mark a model as quantized if a part of it is, so that transformers and PEFT save and train it correctly.

    Args:
        model: the outer model, with a head.
        part: the inner model, with a head. If it is not quantized, nothing is done.
        name: name of the inner base model inside the outer base model.
        unquantized: names, in the outer base model, of the other modules, which are not quantized.
    """
    quantizer = getattr(part, "hf_quantizer", None)
    if quantizer is None:
        return
    quantization_config = copy.copy(quantizer.quantization_config)
    for field in SKIP_LISTS:
        if hasattr(quantization_config, field):
            skipped = getattr(quantization_config, field)
            # If the config has no list, the quantizer has made a list itself.
            skipped = list(quantizer.modules_to_not_convert) if skipped is None else skipped
            moved = [f"{name}.{entry.removeprefix('model.')}" for entry in skipped if entry.startswith("model.")]
            kept = [entry for entry in skipped if not entry.startswith("model.")]
            own = [*moved, *unquantized]
            setattr(quantization_config, field, [*own, *(f"model.{entry}" for entry in own), *kept])
    quantizer.quantization_config = quantization_config
    model.hf_quantizer, model.is_quantized = quantizer, True
    model.quantization_method = part.quantization_method
    quantizer.postprocess_model(model)
    # The configuration of the whole model now holds this field, so the inner configuration must not repeat it.
    part.config.__dict__.pop("quantization_config", None)
    mend_four_bit_layers(model)


@contextmanager
def without_quantizer(model: Any) -> Iterator[None]:
    """Treat a quantized model as not quantized, so that transformers can save only its other parts."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        yield
        return
    quantization_config = model.config.quantization_config
    del model.hf_quantizer, model.config.quantization_config
    try:
        yield
    finally:
        model.hf_quantizer, model.config.quantization_config = quantizer, quantization_config


def mend_four_bit_layers(model: nn.Module) -> None:
    """Work around faults of bitsandbytes' 4-bit layers on CPUs (release 0.50.2).

    On a CPU with bfloat16 instructions (AVX512-BF16), a layer changes the order of its weights when it runs for the
    first time ("packing"). This fails if the sizes of the layer are not multiples of certain numbers. After it, saving
    writes wrong scales, PEFT merges a LoRA into wrong weights, and training loses the gradients. So packing is switched
    off. Reading the prompt becomes faster without it, writing the answer slower (docs/quantized.md).

    On a CPU with AVX512, rows of the weight that do not hold a whole number of blocks are multiplied by the scales of
    other blocks. These layers get a forward of our own.
    """
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        # Only 4-bit layers of some releases of bitsandbytes have this attribute.
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = False
            _unpack(layer)
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        is_linear = isinstance(layer, nn.Linear) and not isinstance(layer, _PartialBlocks)
        if state is not None and is_linear and layer.in_features % state.blocksize:
            layer.__class__ = type(type(layer).__name__, (_PartialBlocks, type(layer)), {})


def _unpack(layer: Any) -> None:
    """Undo the packing of a layer that has run already."""
    state: Any = getattr(layer.weight, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        # Packed scales have the shape (blocks of a row, rows). If the scales were quantized before they were packed
        # ("nested"), bitsandbytes would quantize them again; `original_nested = False` prevents that.
        state.absmax = state.absmax.T.reshape(-1).float()
        state.original_nested = False
        # bitsandbytes unpacks the layer before it saves it.
        layer.state_dict()


def dequantize_blocks(weight: Any) -> torch.Tensor:
    """The numbers of a 4-bit weight of bitsandbytes, also if its rows do not hold a whole number of blocks."""
    # By its name, because transformers refuses remote code that imports a package that may not be installed.
    functional = import_module("bitsandbytes.functional")
    state = copy.copy(weight.quant_state)
    shape = state.shape
    # As one long row, because the kernel for CPUs with AVX512 counts the blocks of each row on its own.
    state.shape = torch.Size([1, shape.numel()])
    numbers: torch.Tensor = functional.dequantize_4bit(weight.data, state)
    return numbers.reshape(shape)


class _PartialBlocks:
    """Mixin for a 4-bit layer whose rows do not hold a whole number of blocks."""

    weight: Any
    bias: torch.Tensor | None
    compute_dtype: torch.dtype | None
    compute_type_is_set: bool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return super().forward(x)  # type: ignore[misc]
        dtype = (self.compute_dtype if self.compute_type_is_set else None) or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(x.to(dtype), dequantize_blocks(self.weight).to(dtype), bias).to(x.dtype)


__all__ = [
    "QuantizationMixin",
    "adopt_quantization",
    "dequantize_blocks",
    "leave_out",
    "mend_four_bit_layers",
    "modules_beside",
    "without_quantizer",
]
