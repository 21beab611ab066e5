"""Loads the model that a training starts from. It may have new parts, which its checkpoint does not have yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..atomic import restore
from ..models.errors import CheckpointError
from ..models.video_llm_contract import ProcessorContract
from ..models.video_llm_option_names import did_you_mean
from ..models.video_llm_processor_files import processor_errors

__all__ = ["load_for_training", "unmatched_modules"]


def load_for_training(source: str, model_options: Mapping[str, Any] | None = None, seed: int = 0) -> tuple[Any, Any]:
    """Load the model and processor of a checkpoint, with some fields of the configuration changed.

    Parts that the model has only because of the changed fields, such as IVA's adapter with `num_insertions` above 0,
    start from their initial weights; everything else must be in the checkpoint. The processor is adapted to the changed
    configuration.

    Args:
        source: folder or Hub id.
        model_options: fields of the configuration and their values.
        seed: seed for the initial weights of new parts. The global random state does not change.

    Raises:
        ValueError: there is no such field, or its value is impossible.
        CheckpointError: the checkpoint lacks tensors that are not new, or holds some that the model does not have.
    """
    # The Auto classes know the designs: importing this module imports the package, which registers them.
    restore(source)
    # Without a value, transformers would ask the user on the terminal whether code of the checkpoint may run.
    trust = {"trust_remote_code": False}
    if not model_options:
        model = AutoModelForImageTextToText.from_pretrained(source, **trust)
        with processor_errors(source, trust):
            return model, AutoProcessor.from_pretrained(source, **trust)
    stored = AutoConfig.from_pretrained(source, **trust)
    if unknown := sorted(set(model_options) - set(stored.to_dict())):
        hint = did_you_mean(unknown[0], set(stored.to_dict()))
        raise ValueError(f"model_options: {type(stored).__name__} has no field {', '.join(unknown)}: {hint}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, found = AutoModelForImageTextToText.from_pretrained(
            source, strict=False, output_loading_info=True, ignore_mismatched_sizes=True, **trust, **model_options
        )
    with torch.device("meta"):
        known = type(model)(stored).state_dict().keys()
    mismatched = {str(entry[0]) for entry in found["mismatched_keys"]}
    problems = {
        "missing": sorted(set(found["missing_keys"]) & known - mismatched),
        "left over": sorted(found["unexpected_keys"]),
        "of another shape": sorted(mismatched),
    }
    texts = [f"{len(names)} tensors would be {what} ({names[0]}, ...)" for what, names in problems.items() if names]
    if texts:
        raise CheckpointError(
            f"{source} does not fit model_options {dict(model_options)}: {'; '.join(texts)}. Options may add parts to "
            "a model, but not change or remove those that it has."
        )
    with processor_errors(source, trust):
        processor = AutoProcessor.from_pretrained(source, **trust)
    # If the model is none of the designs, its processor comes from transformers and has no options to adapt.
    own = isinstance(processor, ProcessorContract)
    if own and (options := processor.options_from_config(model.config)):
        processor = AutoProcessor.from_pretrained(source, **trust, **options)
    return model, processor


def unmatched_modules(model: nn.Module, names: Any) -> list[str]:
    """Those of the names for PEFT with which no name of a module ends. PEFT would ignore them without a message.

    Args:
        model: the model.
        names: a list of names. For anything else the result is empty: a single string is a pattern, which PEFT checks.
    """
    if not isinstance(names, list | tuple | set):
        return []
    modules = [name for name, _ in model.named_modules()]
    return [name for name in names if not any(module.endswith(name) for module in modules)]
