"""What of a model a recipe trains: the patterns of its parameters, and the LoRA."""

from __future__ import annotations

from itertools import chain
from typing import Any

from ..models.video_llm_lora import lora_config
from .loading import unmatched_modules
from .lora_options import read_lora
from .recipe import Recipe, RecipeError
from .trainable import last_layers, whole_modules

__all__ = ["lora_of", "trained_patterns"]


def trained_patterns(recipe: Recipe, model: Any) -> list[str] | None:
    """Patterns of all parameters that are trained beside a LoRA; None for all parameters of the model."""
    if not recipe.trainable_layers:
        return recipe.trainable
    layers = [last_layers(model, part, number) for part, number in recipe.trainable_layers.items()]
    return [*(recipe.trainable or ()), *chain.from_iterable(layers)]


def lora_of(recipe: Recipe, model: Any) -> Any:
    """The configuration of PEFT for a recipe with a LoRA; None for other recipes.

    Raises:
        RecipeError: `lora` has an unknown option, or names modules that the model does not have.
    """
    if recipe.lora is None:
        return None
    options = read_lora(recipe.lora)
    if missing := unmatched_modules(model, options.get("modules_to_save")):
        raise RecipeError(_no_module("modules_to_save", model, ", ".join(missing)))
    if missing := unmatched_modules(model, options.get("target_modules")):
        raise RecipeError(_no_module("target_modules", model, ", ".join(missing)))
    try:
        config = lora_config(model, **options)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: {error}") from error
    if (trained := trained_patterns(recipe, model)) is not None:
        # PEFT freezes everything but the adapter and `modules_to_save`. It saves both, and loads both when training
        # resumes.
        whole = whole_modules(model, trained, config)
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *whole})
    return config


def _no_module(option: str, model: Any, missing: str) -> str:
    return (
        f"lora.{option}: {type(model).__name__} has no module {missing}, so it could not be trained."
        " Take the name out, or add the part to the model (IVA: model_options: {num_insertions: 8})."
    )
