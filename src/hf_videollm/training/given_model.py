"""The model and the processor that the makers of trainers are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base_loading import config_for_training, processor_for_training
from ..known_models import find_model
from ..pair_check import check_pair
from ..training_outputs import BaseModel
from .loading import load_for_training

__all__ = ["found_model", "model_and_processor", "processor_before_loading"]


def found_model(model: Any, seed: int) -> tuple[Any, BaseModel | None]:
    """What the makers of trainers were given: a named checkpoint with its record, or a model as it is.

    Args:
        model: the model; or a folder, Hub id or bundled name.
        seed: of the training, for the record.

    Raises:
        FileNotFoundError: there is no model of the given name.
    """
    if not isinstance(model, str | Path):
        return model, None
    source = find_model(model)
    return source, BaseModel.of(source, seed=seed)


def model_and_processor(model: Any, processor: Any, seed: int) -> tuple[Any, Any]:
    """The model and processor that the makers of trainers were given, loaded where needed.

    Args:
        model: the model; or a folder or Hub id.
        processor: the processor; by default that of the checkpoint from which the model was loaded.
        seed: see `load_for_training`.

    Raises:
        TypeError: the processor is missing, and the model was not loaded from a checkpoint.
        ValueError: the processor does not belong to the model.
    """
    if processor is not None:
        check_pair(_config_of(model), processor)
    if isinstance(model, str | Path):
        loaded, its_own = load_for_training(str(model), seed=seed)
        return loaded, processor if processor is not None else its_own
    if processor is not None:
        return model, processor
    if not (source := str(model.config.name_or_path or "")):
        raise TypeError("A model that was not loaded from a checkpoint has no processor: pass processor.")
    from transformers import AutoProcessor

    return model, AutoProcessor.from_pretrained(source, trust_remote_code=False)


def processor_before_loading(model: Any, processor: Any) -> Any:
    """The processor with which rows can be checked before the weights of the model are read.

    Args:
        model: see `model_and_processor`.
        processor: see `model_and_processor`.

    Raises:
        TypeError: the processor is missing, and the model was not loaded from a checkpoint.
        ValueError: the processor does not belong to the model.
    """
    if not isinstance(model, str | Path):
        return model_and_processor(model, processor, 0)[1]
    if processor is not None:
        check_pair(_config_of(model), processor)
        return processor
    return processor_for_training(str(model), config_for_training(str(model)), is_changed=False)


def _config_of(model: Any) -> Any:
    """The configuration of a model, or of a checkpoint whose weights are not read yet."""
    if not isinstance(model, str | Path):
        return model.config
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model, trust_remote_code=False)
