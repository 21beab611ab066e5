"""TRL's `GRPOTrainer` for video: the model answers questions about the media of a row, and rewards judge its answers.

    def right(completions, answer, **kwargs):
        return [float(text[0]["content"].strip() == expected) for text, expected in zip(completions, answer)]

    args = hf_videollm.grpo_config(output_dir="run")
    hf_videollm.make_grpo_trainer("my-checkpoint", dataset, right, args=args).train()

A row has `prompt`, its media in its messages or in columns, and any other columns, which reward functions get by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models.media_dataset_columns import without_decoding
from ..models.video_llm_checkpoint import freeze_unused_parameters
from .collator import VideoDataCollator
from .given_model import found_model, model_and_processor
from .row_numbers import named_datasets
from .run_logger import run_logger
from .sharding import shard_by_layers
from .trl_arguments import ANY, Refused, check_arguments, make_arguments

if TYPE_CHECKING:
    from trl import GRPOConfig, GRPOTrainer

__all__ = ["grpo_config", "make_grpo_trainer"]

# Values that rows with media need: TRL does not drop columns.
FIXED: dict[str, Any] = {"remove_unused_columns": False}
_GENERATES_ELSEWHERE = Refused(
    (True,), "only the model's own generate takes videos in training, no other server or batching: leave it out."
)
REFUSED: dict[str, Refused] = {
    "remove_unused_columns": Refused((True,), "the columns hold the media: leave it out."),
    "use_vllm": _GENERATES_ELSEWHERE,
    "use_transformers_continuous_batching": _GENERATES_ELSEWHERE,
    "use_transformers_paged": _GENERATES_ELSEWHERE,
    "use_liger_kernel": Refused((True,), "its loss gets no media: leave it out."),
    "chat_template_kwargs": Refused(ANY, "the chat templates of video models read no options: leave it out."),
    "model_init_kwargs": Refused(ANY, "load the model with these options, and pass the model."),
}
# Arguments of the trainer with which something else than the model's own `generate` would make the answers.
REFUSED_PARTS = {
    "tools": "The models call no tools",
    "rollout_func": "A rollout function hands no media on to the loss",
    "environment_factory": "An environment hands no media on to the loss",
    "quantization_config": "The model is loaded before: load it with quantization_config, and pass it",
}


def grpo_config(**kwargs: Any) -> GRPOConfig:
    """Arguments for GRPO with media: `trl.GRPOConfig` with the values that media need.

    On a machine without a GPU, `bf16` and `gradient_checkpointing` are off unless they are asked for; `report_to` is
    "none". All other defaults are TRL's.

    Args:
        kwargs: arguments of `trl.GRPOConfig`.

    Raises:
        ValueError: an argument asks for what cannot be done with media; the message says which.
        TypeError: `GRPOConfig` has no such argument; the message names a similar one.

    Example:
        >>> grpo_config(output_dir="run", num_generations=4, use_cpu=True).num_generations
        4
    """
    from trl import GRPOConfig

    return make_arguments(GRPOConfig, kwargs, FIXED, REFUSED)


def make_grpo_trainer(
    model: Any,
    train_dataset: Any,
    reward_funcs: Any,
    *,
    processor: Any = None,
    args: GRPOConfig | None = None,
    eval_dataset: Any = None,
    processor_kwargs: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    **kwargs: Any,
) -> GRPOTrainer:
    """Make a trainer in which the model learns from rewards for its own answers to questions about media (GRPO).

    Args:
        model: the model; or a folder, Hub id or bundled name, from which model and processor are loaded.
        train_dataset: a `Dataset` or `IterableDataset` whose rows have `prompt`, messages that end with a question. Its
            `Video`, `Image` and `Audio` columns may be in any state.
        reward_funcs: one reward, or a list: functions or reward models, as in `trl.GRPOTrainer`. Functions get the
            columns of the rows, media included.
        processor: processor of `model`; by default that of the checkpoint from which `model` was loaded.
        args: from `grpo_config`; other arguments must have the same values for media.
        eval_dataset: rows, or a dict of names to rows.
        processor_kwargs: options for the processor, e.g. `{"num_frames": 4}`.
        max_length: refuse rows whose prompt has more tokens than this.
        kwargs: further arguments of `trl.GRPOTrainer`, such as `callbacks` and `peft_config`.

    Raises:
        TypeError: the processor is missing and cannot be found, or an argument is unknown or cannot be used with media.
        ValueError: `args` would lose media; or with `beta`, there is no checkpoint for the reference model.
        FileNotFoundError: there is no model of the given name.
    """
    from transformers import set_seed

    from .grpo_trainer import VideoGRPOTrainer

    if "processing_class" in kwargs:
        raise TypeError("make_grpo_trainer makes the processing_class itself: pass processor, or use trl.GRPOTrainer.")
    for name, reason in REFUSED_PARTS.items():
        if kwargs.get(name) is not None:
            raise TypeError(f"{name}: {reason}.")
    args = args or grpo_config()
    check_arguments(args, FIXED, REFUSED, "grpo_config")
    set_seed(args.seed)
    source, base = found_model(model, args.seed)
    model, processor = model_and_processor(source, processor, args.seed)
    if args.beta and kwargs.get("peft_config") is None and not model.config.name_or_path:
        raise ValueError(
            f"beta={args.beta} compares with a reference model, which TRL loads from the checkpoint of the model, but "
            "this model comes from none: save it and pass the folder, or pass a peft_config."
        )
    # A written placeholder would count as a part of a medium.
    placeholders = [number for number in model.config.placeholder_ids().values() if number is not None]
    options: dict[str, Any] = dict(args.generation_kwargs or {})  # type: ignore[arg-type]
    suppressed = sorted({*placeholders, *options.get("suppress_tokens", ())})
    args = copy.copy(args)
    args.generation_kwargs = {**options, "suppress_tokens": suppressed}
    kwargs["callbacks"] = [run_logger("make_grpo_trainer", base, train_dataset), *(kwargs.get("callbacks") or ())]
    trainer = VideoGRPOTrainer(
        model=model,
        reward_funcs=reward_funcs,
        args=args,
        train_dataset=without_decoding(train_dataset),
        eval_dataset=without_decoding(eval_dataset),
        processing_class=processor,
        collator=VideoDataCollator(processor, max_length=max_length, processor_kwargs=processor_kwargs),
        datasets=named_datasets(train_dataset, eval_dataset),
        **kwargs,
    )
    trainer.base_model = base
    shard_by_layers(trainer)
    # PEFT copies the modules that it trains in full, and makes all parameters of a copy trainable.
    freeze_unused_parameters(trainer.model)
    return trainer
