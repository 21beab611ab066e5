"""Complete checkpoint folders: weights, configuration, processor, chat template, code and pipeline."""

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from ..atomic import atomic_folder
from ..known_models import bundled_checkpoints, default_checkpoint


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
        ValueError: the processor belongs to another model.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} is no model of one of the designs. Of a PEFT model, save the merged one "
            "(save_checkpoint(peft_model.merge_and_unload(), ...)), or the adapter alone with its save_pretrained."
        )
    if not isinstance(processor, ProcessorMixin):
        raise TypeError(f"{type(processor).__name__} is no processor: pass the one that holds tokenizer and the rest.")
    _check_pair(model.config, processor)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        # transformers 5 would write the layout of the original towers back; ours is the one that remote code reads.
        model.save_pretrained(temporary, save_original_format=False, **kwargs)
        processor.save_pretrained(temporary)
    return Path(folder)


def _check_pair(config: Any, processor: Any) -> None:
    """Refuse a processor whose prompts the model could not read."""
    if not hasattr(config, "num_video_tokens"):
        # XGen-MM, an image-LLM.
        _compare({"image_token_id": (getattr(processor, "image_token_id", None), config.image_token_id)})
        return
    if not hasattr(processor, "video_processor"):
        raise ValueError(f"{type(processor).__name__} reads no videos: pass the processor of the model's own design.")
    # A design that samples by rate has no number of its own.
    num_frames = processor.video_processor.num_frames or config.num_frames
    facts = {
        "image_token_id": (processor.image_token_id, config.image_token_id),
        "video_token_id": (processor.video_token_id, config.video_token_id),
        f"tokens of {num_frames} frames": (processor.num_video_tokens(num_frames), config.num_video_tokens(num_frames)),
    }
    if "audio" in config.modalities:
        facts["audio_token_id"] = (getattr(processor, "audio_token_id", None), config.audio_token_id)
    if hasattr(config, "query_token_id"):
        expected_queries = config.num_query_tokens if config.num_insertions else 0
        facts["number of query tokens"] = (getattr(processor, "num_query_tokens", 0), expected_queries)
        facts["image_temporal_token"] = (getattr(processor, "image_temporal_token", None), config.image_temporal_token)
        if expected_queries:
            facts["query_placement"] = (getattr(processor, "query_placement", None), config.query_placement)
            facts["query_token_id"] = (getattr(processor, "query_token_id", None), config.query_token_id)
    _compare(facts)


def _compare(facts: dict[str, tuple[Any, Any]]) -> None:
    """Found and expected values, by their names."""
    for name, (found, expected) in facts.items():
        if found != expected:
            raise ValueError(
                f"The processor belongs to another model: its {name} is {found}, the model's {expected}. "
                "Pass the processor that the model was made or loaded with."
            )


__all__ = ["bundled_checkpoints", "default_checkpoint", "save_checkpoint"]
