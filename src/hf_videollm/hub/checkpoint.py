"""Complete checkpoint folders: weights, configuration, processor, chat template, code and pipeline."""

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from ..atomic import atomic_folder
from ..known_models import bundled_checkpoints, default_checkpoint
from ..pair_check import check_pair


def save_checkpoint(
    model: Any, processor: Any, folder: str | os.PathLike[str], *, overwrite: bool = False, **kwargs: Any
) -> Path:
    """Write everything a Hub repository needs, so that it loads without this package (`trust_remote_code=True`).

    The folder appears complete or not at all.

    Args:
        model: a model of one of the designs.
        processor: its processor.
        folder: destination; must not exist yet, or be empty, unless `overwrite`.
        overwrite: replace what is there.
        kwargs: options of the model's `save_pretrained`, e.g. `max_shard_size`.

    Returns:
        The folder.

    Raises:
        FileExistsError: the destination holds something and `overwrite` is not set.
        TypeError: `model` or `processor` is something else, of which half a checkpoint would be written.
        ValueError: the processor belongs to another model: other placeholders, numbers of them, or sizes of frames.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} is no model of one of the designs. Of a PEFT model, save the merged one "
            "(save_checkpoint(peft_model.merge_and_unload(), ...)), or the adapter alone with its save_pretrained."
        )
    if not isinstance(processor, ProcessorMixin):
        raise TypeError(f"{type(processor).__name__} is no processor: pass the one that holds tokenizer and the rest.")
    check_pair(model.config, processor)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        # transformers 5 would write the layout of the original towers back; ours is the one that remote code reads.
        model.save_pretrained(temporary, save_original_format=False, **kwargs)
        processor.save_pretrained(temporary)
    return Path(folder)


__all__ = ["bundled_checkpoints", "default_checkpoint", "save_checkpoint"]
