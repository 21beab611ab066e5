"""Complete checkpoint folders: weights, configuration, processor, chat template, code and pipeline."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from ..atomic import atomic_folder
from ..known_models import bundled_checkpoints, default_checkpoint
from ..models.errors import CheckpointError
from ..models.video_llm_contract import ModelContract
from ..models.video_llm_quantization import mend_four_bit_layers
from ..origin import carry_origin
from ..pair_check import check_pair


def save_checkpoint(
    model: Any, processor: Any, folder: str | os.PathLike[str], *, overwrite: bool = False, **kwargs: Any
) -> Path:
    """Write everything that a Hub repository needs, so that it loads without this package (`trust_remote_code=True`).

    The folder appears complete or not at all, and only after it was loaded once as a test. For the weights, the test
    compares names and shapes.

    Args:
        model: a model of one of the designs. PLLaVA may be wrapped by PEFT: the LoRA of its language model becomes the
            adjustable LoRA of the checkpoint, and modules that PEFT trained as a whole are saved with the weights.
        processor: its processor.
        folder: destination. It must be missing or empty, unless `overwrite` is set.
        overwrite: replace a destination that is not empty.
        kwargs: options of the model's `save_pretrained`, e.g. `max_shard_size` or `variant`. With
            `is_main_process=False` nothing is written: the process only takes part in gathering the weights, and the
            main one writes them.

    Returns:
        The folder.

    Raises:
        FileExistsError: the destination is not empty and `overwrite` is not set.
        TypeError: `model` is no model of a design, or `processor` is no processor.
        ValueError: the processor does not fit the model (placeholders, their numbers, sizes of frames); or
            `push_to_hub` is set. To push, call `hf_videollm.hub.push.push` when the folder has been written.
        CheckpointError: the folder could not be loaded again.
    """
    model = _without_wrapper(model)
    if not isinstance(processor, ProcessorMixin):
        raise TypeError(f"{type(processor).__name__} is no processor: pass the processor that holds the tokenizer.")
    check_pair(model.config, processor)
    # 4-bit layers that were put into the model after it was loaded may have run, and would be saved with wrong scales.
    mend_four_bit_layers(model)
    if kwargs.pop("push_to_hub", False):
        # transformers would name the repository after the temporary folder, and fill it before anything is checked.
        raise ValueError(
            "save_checkpoint cannot push_to_hub: push the folder when it has been written, with "
            "hf_videollm.hub.push.push(folder, repo_id)."
        )
    # By default, transformers 5 renames some weights back to the names of the towers' original checkpoints. Remote code
    # needs the names that the weights have in the model.
    kwargs["save_original_format"] = False
    if not kwargs.get("is_main_process", True):
        # If the weights are distributed over several processes, all processes take part in gathering them, but only the
        # main process writes the folder.
        with tempfile.TemporaryDirectory(prefix="hf_videollm_") as unused:
            model.save_pretrained(unused, **kwargs)
        return Path(folder)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        model.save_pretrained(temporary, **kwargs)
        processor.save_pretrained(temporary)
        carry_origin(model, temporary)
        check_loads(temporary, model, processor, kwargs.get("adapter_only", False), kwargs.get("variant"))
    return Path(folder)


def _without_wrapper(model: Any) -> PreTrainedModel:
    """Take the model of a design out of PEFT's wrapper, if its class can save the layers that PEFT put into it."""
    if isinstance(model, PreTrainedModel):
        inner = model
    elif hasattr(model, "get_base_model") and isinstance(model.get_base_model(), PreTrainedModel):
        inner = model.get_base_model()
    else:
        raise TypeError(f"{type(model).__name__} is no model of one of the designs.")
    has_layers_of_peft = any(type(module).__module__.startswith("peft.") for module in inner.modules())
    keeps_lora = isinstance(inner, ModelContract) and inner.lora_name() is not None
    if (inner is not model or has_layers_of_peft) and not keeps_lora:
        raise TypeError(
            f"{type(model).__name__} holds parts of PEFT that save_checkpoint cannot save. Save the merged PEFT model "
            "(save_checkpoint(peft_model.merge_and_unload(), ...)), or the adapter alone with its save_pretrained."
        )
    return inner


def check_loads(
    folder: Path, model: PreTrainedModel, processor: Any, adapter_only: bool = False, variant: str | None = None
) -> None:
    """Load a checkpoint that was just written, as a user who downloads it does.

    Raises:
        CheckpointError: the checkpoint does not load.
    """
    try:
        with hidden_progress():
            type(model.config).from_pretrained(folder)
            type(processor).from_pretrained(folder)
            # A quantized model is not loaded: its quantizer names weights in its own way, and may need a certain
            # device.
            if not adapter_only and not getattr(model, "is_quantized", False):
                type(model).from_pretrained(folder, device_map="meta", variant=variant)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"This {type(model).__name__} would not load again as it was saved, so nothing was written: "
            f"{reason.replace(str(folder), 'the folder')}"
        ) from error


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Hide the progress bars of transformers, and show them again afterwards if they were shown."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["bundled_checkpoints", "check_loads", "default_checkpoint", "hidden_progress", "save_checkpoint"]
