"""TRL's `DPOTrainer` for video: the media go with both answers of a row, into the trained and the reference model.

    args = hf_videollm.dpo_config(output_dir="run")
    hf_videollm.make_dpo_trainer("my-checkpoint", dataset, args=args).train()

A row has `prompt`, `chosen` and `rejected`, and its media in its messages or in columns (`preference_rows.row_pair`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..models.media_dataset_columns import without_decoding
from ..models.video_llm_checkpoint import freeze_unused_parameters
from .collator import IGNORE_INDEX, VideoDataCollator
from .given_model import found_model, model_and_processor
from .loading import load_for_training
from .preference_rows import row_pair
from .reference_model import reference_model
from .row_numbers import name_wrong_row, named_datasets
from .run_logger import run_logger
from .sharding import shard_by_layers
from .trl_arguments import ANY, Refused, check_arguments, make_arguments, refuse_max_length

if TYPE_CHECKING:
    from trl import DPOConfig, DPOTrainer

__all__ = ["PreferenceCollator", "dpo_config", "make_dpo_trainer"]

# Values that batches with media need: TRL does not drop columns, and does not cut rows.
FIXED: dict[str, Any] = {"remove_unused_columns": False, "max_length": None}
REFUSED: dict[str, Refused] = {
    "remove_unused_columns": Refused((True,), "the columns hold the media: leave it out."),
    "truncation_mode": Refused(("keep_end",), "rows are never cut: leave it out."),
    "padding_free": Refused((True,), "rows with media are padded: leave it out."),
    "precompute_ref_log_probs": Refused(
        (True,), "TRL does not compute the reference beforehand for rows with media: leave it out."
    ),
    "dataset_num_proc": Refused(
        ANY, "rows are read when they are needed, not beforehand: set dataloader_num_workers instead."
    ),
    "pad_token": Refused(ANY, "the processor knows its padding token: leave it out."),
    "model_init_kwargs": Refused(ANY, "load the model with these options, and pass the model."),
}


class PreferenceCollator:
    """Data collator for `trl.DPOTrainer`: first all rows with their better answers, then all with their worse ones."""

    def __init__(self, collator: VideoDataCollator, datasets: Mapping[str, Any] | None = None) -> None:
        """Args:
        collator: makes batches of rows with `prompt` and `completion`.
        datasets: what the rows come from, with names: errors say which row of which dataset is wrong.
        """
        self.collator, self.datasets = collator, datasets or {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make one batch.

        Returns:
            The processor's outputs for twice as many rows; and `completion_mask` `(2 * rows, length)`, 1 on the words
            of the answers.

        Raises:
            ValueError: a row has no two different answers, or is refused by `VideoDataCollator`.
        """
        return name_wrong_row(self._batch, rows, self.datasets)

    def _batch(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
        pairs = [row_pair(row, name) for row, name in zip(rows, names, strict=True)]
        batch = self.collator([row for rows_of_kind in zip(*pairs, strict=True) for row in rows_of_kind])
        labels = batch.pop("labels")
        return {**batch, "completion_mask": (labels != IGNORE_INDEX).long()}


def dpo_config(**kwargs: Any) -> DPOConfig:
    """Arguments for preference training with media: `trl.DPOConfig` with the values that media need.

    On a machine without a GPU, `bf16` and `gradient_checkpointing` are off unless they are asked for; `report_to` is
    "none". All other defaults are TRL's.

    Args:
        kwargs: arguments of `trl.DPOConfig`.

    Raises:
        ValueError: an argument asks for what cannot be done with media; the message says which.
        TypeError: `DPOConfig` has no such argument; the message names a similar one.

    Example:
        >>> dpo_config(output_dir="run", beta=0.2, use_cpu=True).remove_unused_columns
        False
    """
    from trl import DPOConfig

    refuse_max_length(kwargs, "make_dpo_trainer")
    return make_arguments(DPOConfig, kwargs, FIXED, REFUSED)


def make_dpo_trainer(
    model: Any,
    train_dataset: Any,
    *,
    processor: Any = None,
    args: DPOConfig | None = None,
    eval_dataset: Any = None,
    processor_kwargs: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    **kwargs: Any,
) -> DPOTrainer:
    """Make a trainer that prefers the better of two answers to a question about media (DPO and its variants).

    Args:
        model: the model; or a folder, Hub id or bundled name, from which model and processor are loaded.
        train_dataset: a `Dataset` or `IterableDataset` whose rows have `prompt`, `chosen` and `rejected`. Its `Video`,
            `Image` and `Audio` columns may be in any state.
        processor: processor of `model`; by default that of the checkpoint from which `model` was loaded.
        args: from `dpo_config`; other arguments must have the same values for media.
        eval_dataset: rows, or a dict of names to rows, for loss and margin on them.
        processor_kwargs: options for the processor, e.g. `{"num_frames": 4}`.
        max_length: refuse rows with more tokens than this.
        kwargs: further arguments of `trl.DPOTrainer`, such as `callbacks`, `peft_config` and `ref_model`: the model to
            compare with, or its folder, Hub id or bundled name. Without `ref_model` and without a LoRA, the reference
            is a copy of the model as it is now.

    Raises:
        TypeError: the processor is missing and cannot be found, or an argument is unknown.
        ValueError: `args` would lose media, or `ref_model` does not read the same inputs as the model.
        FileNotFoundError: there is no model of the given name.

    Example:
        >>> trainer = make_dpo_trainer("my-checkpoint", dataset, args=dpo_config(output_dir="run"))  # doctest: +SKIP
        >>> trainer.train()                                                                         # doctest: +SKIP
    """
    from transformers import set_seed

    from .dpo_trainer import VideoDPOTrainer

    for name, instead in {"data_collator": "processor_kwargs and max_length", "processing_class": "processor"}.items():
        if name in kwargs:
            raise TypeError(f"make_dpo_trainer makes the {name} itself: pass {instead}, or use trl.DPOTrainer.")
    args = args or dpo_config()
    check_arguments(args, FIXED, REFUSED, "dpo_config")
    # Trainers of old releases of TRL add a LoRA, and draw its weights, before they set the seed.
    set_seed(args.seed)
    source, base = found_model(model, args.seed)
    model, processor = model_and_processor(source, processor, args.seed)
    if kwargs.get("ref_model") is not None:
        kwargs["ref_model"] = reference_model(kwargs["ref_model"], model, processor)
    elif kwargs.get("peft_config") is None and not _has_lora(model):
        # TRL would load the checkpoint again, which the model may no longer be equal to, or not come from.
        kwargs["ref_model"] = copy.deepcopy(model) if base is None else load_for_training(source)[0]
    options = {"pad_to_multiple_of": args.pad_to_multiple_of} if args.pad_to_multiple_of else {}
    collator = VideoDataCollator(
        processor, max_length=max_length, processor_kwargs={**options, **(processor_kwargs or {})}
    )
    kwargs["callbacks"] = [run_logger("make_dpo_trainer", base, train_dataset), *(kwargs.get("callbacks") or ())]
    trainer = VideoDPOTrainer(
        model=model,
        args=args,
        train_dataset=without_decoding(train_dataset),
        eval_dataset=without_decoding(eval_dataset),
        data_collator=PreferenceCollator(collator, named_datasets(train_dataset, eval_dataset)),
        processing_class=processor,
        **kwargs,
    )
    trainer.base_model = base
    shard_by_layers(trainer)
    # PEFT copies the modules that it trains in full, and makes all parameters of a copy trainable.
    freeze_unused_parameters(trainer.model)
    return trainer


def _has_lora(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)
