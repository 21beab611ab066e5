"""QLoRA: the language model of a recipe in 4 bits (`quantize: nf4`), with a LoRA that is trained on it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from math import ceil
from typing import Any

import torch
from torch import nn

from ..hub.presets import PresetError, find_preset
from ..hub.quantized_weights import is_quantized, plain_weights
from ..models.video_llm_lora import decoder_of
from .recipe import Recipe
from .recipe_errors import RecipeError

__all__ = ["dequantize", "keep_precision", "quantization_of", "quantized_weights", "saved_bytes"]

# The presets on which a LoRA is trained here. Their layers can be written as plain ones again, exactly.
TRAINED_ON = ("consumer-nf4",)


def quantization_of(recipe: Recipe) -> Any:
    """The quantization config of transformers for the language model of a recipe; `None` if it is not quantized.

    Raises:
        RecipeError: the value is unknown, bitsandbytes is missing, or the recipe trains no LoRA.
    """
    if recipe.quantize is None:
        return None
    try:
        preset = find_preset(recipe.quantize)
    except PresetError as error:
        raise RecipeError(f"quantize: there is no {recipe.quantize!r} to train on: write nf4.") from error
    if preset.name not in TRAINED_ON:
        raise RecipeError(f"quantize: {recipe.quantize} is not trained on: write nf4.")
    if recipe.lora is None:
        raise RecipeError("quantize: 4-bit weights cannot be trained themselves: add `lora`, or leave quantize out.")
    if recipe.trainable_layers is not None and "language_model" in recipe.trainable_layers:
        raise RecipeError("trainable_layers: the layers of language_model are quantized (quantize), so only a LoRA is.")
    if preset.package is not None and find_spec(preset.package) is None:
        raise RecipeError(f"quantize: {recipe.quantize} needs {preset.package}: pip install {preset.package}.")
    return preset.quantization_config()


def keep_precision(model: nn.Module) -> None:
    """Undo that TRL rounds everything that is trained beside 4-bit weights to bfloat16.

    In bfloat16, most steps of a small learning rate would be rounded away. What is trained is float32, as on weights
    that are not quantized. Modules that are trained as a whole begin exactly as they were loaded.

    Args:
        model: PEFT's model, before the first step.
    """
    from peft.utils import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for copy in module.modules_to_save.values():
                for own, first in zip(copy.parameters(), module.original_module.parameters(), strict=True):
                    own.data = first.detach().clone()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def quantized_weights(model: nn.Module) -> list[torch.Tensor]:
    """The weights of a model that `quantize` stores in 4 bits: those of the linear layers of its language model."""
    layers = (module for module in decoder_of(model).modules() if isinstance(module, nn.Linear))
    return [layer.weight for layer in layers]


def saved_bytes(weights: Iterable[torch.Tensor]) -> int:
    """Bytes that weights take less when they are stored as NF4.

    Example:
        >>> saved_bytes([torch.zeros(128, 128)])
        57084
    """
    saved = 0
    for weight in weights:
        number = weight.numel()
        # Two numbers in a byte; a scale of 8 bits for each block of 64, and one of 32 bits for 256 of these.
        packed = number // 2 + ceil(number / 64) + 4 * ceil(number / 64 / 256)
        saved += number * weight.element_size() - packed
    return saved


@torch.no_grad()
def dequantize(model: Any) -> Any:
    """Replace the 4-bit layers of a model by plain ones with exactly the weights that they compute with.

    Args:
        model: a model of one of the designs, loaded quantized, without an adapter.

    Returns:
        The model, which is not marked as quantized any more.
    """
    numbers = {name: tensor for name, tensor, quantized in plain_weights(model) if quantized}
    for name, weight in numbers.items():
        path = name.removesuffix(".weight")
        layer = model.get_submodule(path)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.to(model.dtype), requires_grad=True)
        plain.bias = layer.bias
        plain.train(layer.training)
        model.set_submodule(path, plain)
    for name in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_quantized"):
        model.__dict__.pop(name, None)
    model.config.__dict__.pop("quantization_config", None)
    assert not any(is_quantized(parameter) for parameter in model.parameters())
    return model
