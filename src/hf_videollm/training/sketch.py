"""A model without weights, prepared like the one that a recipe trains: it shows what is wrong before weights load."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from ..base_loading import config_for_training, processor_for_training
from ..models.video_llm_checked_processor import CheckedProcessor
from ..models.video_llm_checkpoint import freeze_unused_parameters
from .learned_parts import lora_of, trained_patterns
from .recipe import Recipe, RecipeError
from .trainable import compiled, freeze_all_but

__all__ = [
    "check_before_loading",
    "check_options",
    "config_for_training",
    "plain_name",
    "prepare_sketch",
    "processor_for_training",
    "sketch_model",
]

META = "meta"


def sketch_model(config: Any) -> Any:
    """A model on torch's meta device: names and sizes of its parameters, but no values."""
    if config.to_dict().get("quantization_config") is not None:
        # The names of the parameters are those of the model that is not quantized.
        config = copy.deepcopy(config)
        del config.quantization_config
    with torch.device(META):
        return AutoModelForImageTextToText.from_config(config, dtype=config.dtype)


def prepare_sketch(recipe: Recipe, model: Any) -> Any:
    """Freeze the parts of a sketch that the recipe does not train, and give it the LoRA of the recipe.

    Raises:
        RecipeError: a pattern or a name of a module matches nothing.
    """
    patterns, lora = trained_patterns(recipe, model), lora_of(recipe, model)
    if patterns is not None and lora is None:
        freeze_all_but(model, patterns)
    if lora is not None:
        from peft import get_peft_model

        try:
            with torch.device(META):
                model = get_peft_model(model, lora)
        except ValueError as error:
            raise RecipeError(f"lora: {error}") from error
    freeze_unused_parameters(model)
    trained = [plain_name(name) for name, value in model.named_parameters() if value.requires_grad]
    for pattern in recipe.learning_rates or {}:
        expression = compiled(pattern, "learning_rates")
        if not any(expression.search(name) for name in trained):
            raise RecipeError(f"learning_rates: the pattern {pattern!r} matches no parameter that is trained.")
    return model


def check_before_loading(recipe: Recipe) -> Any:
    """Check all that a recipe says about its model, without its weights.

    Returns:
        The processor; None if there is no checkpoint, of which loading says what is wrong.

    Raises:
        RecipeError: the recipe names no model, or something that the model or its processor does not have.
        ValueError: `model_options` has no such field.
    """
    if recipe.model is None:
        raise RecipeError("The recipe names no model; add the field `model` or pass --model.")
    if os.path.isdir(recipe.model) and not Path(recipe.model, "config.json").is_file():
        return None
    try:
        config = config_for_training(recipe.model, recipe.model_options)
    except OSError:
        return None
    processor = processor_for_training(recipe.model, config, bool(recipe.model_options))
    check_options(recipe, processor)
    # A checkpoint with a LoRA of its own has other names than a model that is made from its configuration.
    if config.to_dict().get("lora_adapter") is None:
        prepare_sketch(recipe, sketch_model(config))
    return processor


def check_options(recipe: Recipe, processor: Any) -> None:
    """Check the options of the processor.

    Raises:
        RecipeError: the processor has no such option.
    """
    if not isinstance(processor, CheckedProcessor):
        return
    for name, options in (("vary", recipe.vary), ("processor_options", recipe.processor_options)):
        try:
            processor.check_options(options or {})
        except TypeError as error:
            raise RecipeError(f"{name}: {error}") from error


def plain_name(name: str) -> str:
    """Name of a parameter without what PEFT writes into it for parts that it trains as a whole."""
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", name)
