"""Complete checkpoint folders: weights, configuration, processor, chat template, code and pipeline."""

import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from ..atomic import atomic_folder
from ..known_models import bundled_checkpoints, default_checkpoint
from ..models.errors import CheckpointError
from ..models.video_llm_contract import ModelContract
from ..pair_check import check_pair


def save_checkpoint(
    model: Any, processor: Any, folder: str | os.PathLike[str], *, overwrite: bool = False, **kwargs: Any
) -> Path:
    """Write everything a Hub repository needs, so that it loads without this package (`trust_remote_code=True`).

    The folder appears complete or not at all, and not before all of it has been loaded once (weights by their names and
    shapes).

    Args:
        model: a model of one of the designs. A PLLaVA may be inside PEFT's wrapper: its LoRA on the language model
            becomes the adjustable one of the checkpoint, and what was trained as a whole is in the weights.
        processor: its processor.
        folder: destination; must not exist yet, or be empty, unless `overwrite`.
        overwrite: replace what is there.
        kwargs: options of the model's `save_pretrained`, e.g. `max_shard_size` or `variant`. With
            `is_main_process=False` nothing is written: the process only takes part in gathering the weights, and the
            main one writes them.

    Returns:
        The folder.

    Raises:
        FileExistsError: the destination holds something and `overwrite` is not set.
        TypeError: `model` or `processor` is something else, of which half a checkpoint would be written.
        ValueError: the processor belongs to another model: other placeholders, numbers of them, or sizes of frames; or
            `push_to_hub` is set: push the folder when it is there, with `huggingface_hub.upload_folder`.
        CheckpointError: what was saved could not be loaded again.
    """
    model = _without_wrapper(model)
    if not isinstance(processor, ProcessorMixin):
        raise TypeError(f"{type(processor).__name__} is no processor: pass the one that holds tokenizer and the rest.")
    check_pair(model.config, processor)
    if kwargs.pop("push_to_hub", False):
        # transformers would name the repository after the temporary folder, and fill it before anything is checked.
        raise ValueError(
            "save_checkpoint cannot push_to_hub: push the folder when it is there, with "
            "huggingface_hub.upload_folder(repo_id=..., folder_path=...)."
        )
    # transformers 5 would write the layout of the original towers back; ours is the one that remote code reads.
    kwargs["save_original_format"] = False
    if not kwargs.get("is_main_process", True):
        # Weights that are spread over processes are gathered by all of them; the folder belongs to the main one.
        with tempfile.TemporaryDirectory(prefix="hf_videollm_") as unused:
            model.save_pretrained(unused, **kwargs)
        return Path(folder)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        model.save_pretrained(temporary, **kwargs)
        processor.save_pretrained(temporary)
        check_loads(temporary, model, processor, kwargs.get("adapter_only", False), kwargs.get("variant"))
    return Path(folder)


def _without_wrapper(model: Any) -> PreTrainedModel:
    """The model of a design, taken out of PEFT's wrapper where its class knows how to save what PEFT put into it."""
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
            f"{type(model).__name__} is no model of one of the designs as it stands. Of a PEFT model, save the merged "
            "one (save_checkpoint(peft_model.merge_and_unload(), ...)), or the adapter alone with its save_pretrained."
        )
    return inner


def check_loads(
    folder: Path, model: PreTrainedModel, processor: Any, adapter_only: bool = False, variant: str | None = None
) -> None:
    """Load what was written, as whoever downloads it will.

    Raises:
        CheckpointError: it does not load.
    """
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        type(model.config).from_pretrained(folder)
        type(processor).from_pretrained(folder)
        # Quantizers have names of their own for weights, and need the device that they are for.
        if not adapter_only and not getattr(model, "is_quantized", False):
            type(model).from_pretrained(folder, device_map="meta", variant=variant)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"This {type(model).__name__} would not load again as it was saved, so nothing was written: "
            f"{reason.replace(str(folder), 'the folder')}"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["bundled_checkpoints", "check_loads", "default_checkpoint", "save_checkpoint"]
