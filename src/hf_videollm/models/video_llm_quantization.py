"""Quantized loading: the language model is quantized, and what a design puts around it stays as it is.

Towers, connectors and adapters are small beside the language model, and cost answers when they are rounded.
"""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from torch import nn
from transformers.quantizers import AutoQuantizationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Base
else:  # the mixin stands before a `PreTrainedModel` in the bases of a class and uses what that has
    _Base = object

# What the quantization configs of transformers call the list of modules that are not quantized.
SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
HEAD = "lm_head"


class QuantizationMixin(_Base):
    """`from_pretrained` that leaves the parts named by the configuration unquantized."""

    @classmethod
    def unquantized_modules(cls, source: str | os.PathLike[str] | None, **kwargs: Any) -> list[str]:
        """Parts that stay as they are when the model is quantized, by their names in the model without a head.

        Args:
            source: folder or Hub id of the checkpoint.
            kwargs: those of `from_pretrained`.
        """
        return list(cls.config_class.modules_to_not_convert)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Self:
        """As in transformers; `quantization_config` is for the language model.

        A quantization config that names the modules to leave out itself (`llm_int8_skip_modules` of bitsandbytes,
        `modules_to_not_convert` of torchao and others) is followed to the letter.
        """
        quantization_config = kwargs.get("quantization_config")
        # What is quantized already says itself which of its modules are.
        if quantization_config is not None and not getattr(kwargs.get("config"), "quantization_config", None):
            parts = cls.unquantized_modules(pretrained_model_name_or_path, **kwargs)
            # Saved with the checkpoint, the list also serves a model of the other kind, without or with a head.
            names = [*parts, *(f"model.{name}" for name in parts), HEAD]
            kwargs["quantization_config"] = leave_out(quantization_config, names)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        mend_four_bit_layers(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def leave_out(quantization_config: Any, names: Iterable[str]) -> Any:
    """A quantization config that leaves modules out, unless it says itself which.

    Args:
        quantization_config: of transformers, or a dict that describes one; it stays as it is.
        names: from the start of the module's path.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(dict(quantization_config))
    changed = copy.copy(quantization_config)
    for field in SKIP_LISTS:
        if hasattr(changed, field) and getattr(changed, field) is None:
            setattr(changed, field, list(names))
    return changed


def modules_beside(module: nn.Module, language_model: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the largest modules with linear layers that neither are in the language model nor hold it."""
    for name, child in module.named_children():
        parts = list(child.modules())
        if language_model in parts[1:]:
            yield from modules_beside(child, language_model, f"{prefix}{name}.")
        elif child is not language_model and any(isinstance(part, nn.Linear) for part in parts):
            yield f"{prefix}{name}"


def adopt_quantization(model: Any, part: Any, name: str, unquantized: Iterable[str]) -> None:
    """Make a model around a quantized one known as quantized itself, so that it is saved and trained as one.

    Args:
        model: the model around it, with a head.
        part: the quantized model, with a head; nothing is done if it is not quantized.
        name: what the base model of `part` is called in the base model of `model`.
        unquantized: what `model` has besides, by its names in the model without a head.
    """
    quantizer = getattr(part, "hf_quantizer", None)
    if quantizer is None:
        return
    quantization_config = copy.copy(quantizer.quantization_config)
    for field in SKIP_LISTS:
        if hasattr(quantization_config, field):
            given = getattr(quantization_config, field)
            # Without a list, the quantizer has found out by itself.
            given = list(quantizer.modules_to_not_convert) if given is None else given
            moved = [f"{name}.{entry.removeprefix('model.')}" for entry in given if entry.startswith("model.")]
            kept = [entry for entry in given if not entry.startswith("model.")]
            own = [*moved, *unquantized]
            setattr(quantization_config, field, [*own, *(f"model.{entry}" for entry in own), *kept])
    quantizer.quantization_config = quantization_config
    model.hf_quantizer, model.is_quantized = quantizer, True
    model.quantization_method = part.quantization_method
    quantizer.postprocess_model(model)
    # It is said once, of the whole model.
    part.config.__dict__.pop("quantization_config", None)
    mend_four_bit_layers(model)


@contextmanager
def without_quantizer(model: Any) -> Iterator[None]:
    """For saving what is not quantized of a quantized model, which transformers would save as a whole."""
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
    """Keep 4-bit layers of bitsandbytes right on a CPU with bfloat16 instructions, where the first answer packs them.

    Packing fails on layers whose sides do not divide, which run without it; and what is saved of a packed layer has
    its scales in another order, so they are put back before.
    """
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        # Other layers, and other releases, have no such switch.
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            block_size = getattr(getattr(layer.weight, "quant_state", None), "blocksize", None) or 64
            if layer.out_features % 32 or layer.in_features % block_size:
                layer.support_avx512bf16_for_cpu = False
            else:
                layer.register_state_dict_pre_hook(_restore_scales)


def _restore_scales(layer: Any, prefix: str, keep_vars: bool) -> None:
    """Make bitsandbytes save the scales that a packed layer computes with."""
    state: Any = getattr(layer.weight, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        # Packed: (blocks of a row, rows). It would round them again if they were rounded twice before ("nested").
        state.absmax = state.absmax.T.reshape(-1).float()
        state.original_nested = False


__all__ = [
    "QuantizationMixin",
    "adopt_quantization",
    "leave_out",
    "mend_four_bit_layers",
    "modules_beside",
    "without_quantizer",
]
