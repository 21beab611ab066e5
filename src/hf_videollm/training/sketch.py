"""A model without weights, prepared like the one that a recipe trains: it shows what is wrong before weights load."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..base_loading import TRUST, config_for_training, processor_for_training
from ..known_models import bundled_checkpoints
from ..models.errors import one_line
from ..models.video_llm_checked_processor import CheckedProcessor, check_values
from ..models.video_llm_checkpoint import freeze_unused_parameters
from ..models.video_llm_contract import ConfigContract
from .learned_parts import lora_of, trained_patterns
from .lora_options import check_patterns_match
from .quantized import quantized_weights
from .recipe import Recipe, RecipeError
from .trainable import check_rate_patterns, freeze_all_but

__all__ = [
    "SketchedModel",
    "check_options",
    "config_for_training",
    "prepare_sketch",
    "processor_for_training",
    "processor_of_design",
    "sketch_for_training",
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
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"lora: {one_line(error)}") from error
        adapted = [name.partition(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name]
        check_patterns_match(recipe.lora or {}, adapted)
    freeze_unused_parameters(model)
    if not any(value.requires_grad for value in model.parameters()):
        raise RecipeError("Nothing is trained: name parts in `trainable`, or leave it out to train all.")
    check_rate_patterns(recipe.learning_rates or {}, model)
    return model


@dataclass(frozen=True)
class SketchedModel:
    """A model without weights, as a recipe trains it.

    Attributes:
        config: its configuration.
        processor: of the checkpoint; None if there is none.
        model: on the meta device; None if its parameters have other names than the configuration says.
        quantized: the weights of `model` that are stored in 4 bits in a training.
    """

    config: Any
    processor: Any
    model: Any
    quantized: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, recipe: Recipe, config: Any, processor: Any) -> SketchedModel:
        """Make one of a configuration, with the trained parts and the LoRA of a recipe.

        Raises:
            RecipeError: a pattern or a name of a module matches nothing.
        """
        own = config if isinstance(config, ConfigContract) else None
        if own is not None and own.num_prompt_tokens():
            # IVA moves the features of long videos off the device, which is not possible without values.
            config.max_frames_on_device = 10**9
        model = sketch_model(config)
        quantized = [] if recipe.quantize is None else quantized_weights(model)
        return cls(config, processor, prepare_sketch(recipe, model), quantized)


def sketch_for_training(recipe: Recipe, is_run: bool = False) -> SketchedModel | None:
    """Check all that a recipe says about its model, without its weights.

    Args:
        recipe: the recipe, which names a model.
        is_run: a training follows, which loads the model.

    Returns:
        The model; None if there is no checkpoint, of which loading says what is wrong.

    Raises:
        RecipeError: the recipe names something that the model or its processor does not have.
        ValueError: `model_options` has no such field.
    """
    assert recipe.model is not None
    if is_run and os.path.isdir(recipe.model) and not Path(recipe.model, "config.json").is_file():
        return None
    config = config_for_training(recipe.model, recipe.model_options)
    processor = processor_for_training(recipe.model, config, bool(recipe.model_options))
    check_options(recipe, processor)
    if is_run and config.to_dict().get("lora_adapter") is not None:
        # A checkpoint with a LoRA of its own has other names than a model that is made from its configuration.
        return SketchedModel(config, processor, None)
    return SketchedModel.of(recipe, config, processor)


def check_options(recipe: Recipe, processor: Any) -> None:
    """Check the options of the processor.

    Raises:
        RecipeError: the processor has no such option, or its value has another type or is impossible.
    """
    if not isinstance(processor, CheckedProcessor):
        return
    vary = recipe.vary or {}
    each = [("vary", {name: value}) for name, values in vary.items() for value in values]
    for place, options in (*each, ("processor_options", recipe.processor_options or {})):
        try:
            processor.check_options(options)
            check_values(processor, options)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{place}: {one_line(error)}") from error


def processor_of_design(design: str) -> Any:
    """A processor with the options of a design, for recipes without a checkpoint; None if there is none."""
    there = bundled_checkpoints()
    # The small checkpoint of VideoLLaMA2 is one that hears, too.
    own = [name for name in there if name.startswith(design.replace("_", "-"))]
    return AutoProcessor.from_pretrained(there[own[0]], **TRUST) if own else None
