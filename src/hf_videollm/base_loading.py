"""Loads the model that a training starts from. It may have new parts, which its checkpoint does not have yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .atomic import restore
from .models.errors import CheckpointError
from .models.video_llm_checkpoint_config import describe_impossible
from .models.video_llm_checkpoint_files import find_file, read_checkpoint_json
from .models.video_llm_contract import ProcessorContract
from .models.video_llm_option_names import did_you_mean
from .models.video_llm_processor_files import processor_errors
from .pair_check import check_pair

__all__ = ["TRUST", "config_for_training", "load_for_training", "processor_for_training"]

# Without a value, transformers would ask the user on the terminal whether code of the checkpoint may run.
TRUST = {"trust_remote_code": False}


def load_for_training(
    source: str,
    model_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    quantization_config: Any = None,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Load the model and processor of a checkpoint, with some fields of the configuration changed.

    Parts that the model has only because of the changed fields, such as IVA's adapter with `num_insertions` above 0,
    start from their initial weights; everything else must be in the checkpoint. The processor is adapted to the changed
    configuration.

    Args:
        source: folder or Hub id.
        model_options: fields of the configuration and their values.
        seed: seed for the initial weights of new parts. The global random state does not change.
        quantization_config: quantization of transformers for the language model; `None` loads it as it is.
        dtype: of the weights; `None` takes that of the checkpoint.

    Raises:
        ValueError: there is no such field, its value is impossible, or the processor belongs to another model.
        CheckpointError: the checkpoint lacks tensors that are not new, or holds some that the model does not have.
    """
    restore(source)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    config = config_for_training(source, model_options)
    processor = processor_for_training(source, config, bool(model_options))
    if not model_options:
        return AutoModelForImageTextToText.from_pretrained(source, **TRUST, **options), processor
    stored = config_for_training(source)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, found = AutoModelForImageTextToText.from_pretrained(
            source,
            strict=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **TRUST,
            **options,
            **model_options,
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
    return model, processor


def config_for_training(source: str, model_options: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a checkpoint with some fields changed. Its file is checked before transformers reads it.

    Raises:
        ValueError: there is no such field, or its value is impossible.
        CheckpointError: no model can be built from the file.
    """
    _check_whole(source)
    if (file := find_file(source, "config.json", {})) is not None:
        read_checkpoint_json(file)
    try:
        stored = AutoConfig.from_pretrained(source, **TRUST)
    except StrictDataclassError as error:
        raise CheckpointError(f"{source}: {describe_impossible(error)}") from error
    if not model_options:
        return stored
    known = set(stored.to_dict())
    if unknown := sorted(set(model_options) - known):
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"model_options: {type(stored).__name__} has no field {', '.join(unknown)}: {hint}")
    return AutoConfig.from_pretrained(source, **TRUST, **model_options)


def _check_whole(source: str) -> None:
    """Refuse a folder that a training has left without a complete model.

    Raises:
        CheckpointError: it holds an adapter, or nothing but checkpoints of a run that was stopped.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    finish = f"make a complete one with `hf-videollm finish checkpoint {source} MODEL`, and name MODEL."
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{source} holds an adapter (a LoRA), which is no complete model: {finish}")
    if any(folder.glob("checkpoint-*/trainer_state.json")):
        raise CheckpointError(f"{source} holds a run that was stopped before its end: resume it, or {finish}")


def processor_for_training(source: str, config: Any, is_changed: bool = True) -> Any:
    """The processor of a checkpoint, compared with its configuration before weights are read.

    Args:
        source: folder or Hub id.
        config: the configuration.
        is_changed: whether fields of the configuration were changed, to which the processor is adapted then.

    Raises:
        CheckpointError: the processor belongs to another model, or is damaged.
    """
    with processor_errors(source, TRUST):
        processor = AutoProcessor.from_pretrained(source, **TRUST)
    # If the model is none of the designs, its processor comes from transformers and has no options to adapt.
    if is_changed and isinstance(processor, ProcessorContract) and (options := processor.options_from_config(config)):
        processor = AutoProcessor.from_pretrained(source, **TRUST, **options)
    try:
        check_pair(config, processor)
    except ValueError as error:
        raise CheckpointError(f"{source} holds model and processor of different models. {error}") from error
    return processor
