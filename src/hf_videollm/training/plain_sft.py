"""TRL's `SFTTrainer` for video with one call: the settings that media need, and a trainer that learns answers only.

trainer = hf_videollm.make_trainer("my-checkpoint", dataset, args=hf_videollm.sft_config(output_dir="run"))
trainer.train()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.bad_media import BadMediaLog
from ..data.media_cache.setting import open_cache
from ..models.video_llm_checkpoint import freeze_unused_parameters
from ..models.video_llm_option_names import refuse_unknown
from .collator import VideoDataCollator
from .given_model import found_model, model_and_processor, processor_before_loading
from .mixed import BAD_MEDIA
from .option_checks import check_generate, check_patterns, check_processor_kwargs, check_rates
from .recipe_settings import number_arguments
from .row_checks import check_eval_rows, check_max_bad, check_rows
from .run_logger import run_logger
from .trl_arguments import Refused, make_arguments, refuse_max_length, types_of

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer

__all__ = ["FIXED_ARGUMENTS", "argument_types", "make_trainer", "sft_config"]

# Values that batches with media need. With them, TRL does not tokenise or cut samples, and does not drop columns.
FIXED_ARGUMENTS: dict[str, Any] = {
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": False,
    "max_length": None,
    "packing": False,
}
_NOT_PACKED = Refused(
    (True,), "rows are not packed, because a packed row would mix up the videos of several: leave it out."
)
_ANSWERS_ONLY = Refused((False,), "only answers are learned: leave it out.")
# Settings with which a trainer would do something else than this one does, and why they are refused.
REFUSED: dict[str, Refused] = {
    "packing": _NOT_PACKED,
    "eval_packing": _NOT_PACKED,
    "padding_free": Refused((True,), "rows with media are padded: leave it out."),
    "remove_unused_columns": Refused((True,), "the columns hold the media: leave it out."),
    "assistant_only_loss": _ANSWERS_ONLY,
    "completion_only_loss": _ANSWERS_ONLY,
}


def argument_types() -> dict[str, Any]:
    """Maps the arguments of `trl.SFTConfig` to their types."""
    from trl import SFTConfig

    return types_of(SFTConfig)


def sft_config(**kwargs: Any) -> SFTConfig:
    """Arguments for training with media: `trl.SFTConfig` with the values that media need.

    On a machine without a GPU, `bf16` and `gradient_checkpointing` are off unless they are asked for, because they only
    cost time there; `report_to` is "none". All other defaults are TRL's.

    Args:
        kwargs: arguments of `trl.SFTConfig`.

    Raises:
        ValueError: an argument asks for what cannot be done with media, such as packing; the message says which.
        TypeError: `SFTConfig` has no such argument; the message names a similar one.

    Example:
        >>> sft_config(output_dir="run", max_steps=10, use_cpu=True).remove_unused_columns
        False
    """
    from trl import SFTConfig

    refuse_max_length(kwargs, "make_trainer")
    kwargs = number_arguments(kwargs, argument_types())
    options = {**(kwargs.pop("dataset_kwargs", None) or {}), "skip_prepare_dataset": True}
    return make_arguments(SFTConfig, kwargs, {**FIXED_ARGUMENTS, "dataset_kwargs": options}, REFUSED)


def make_trainer(
    model: Any,
    train_dataset: Any,
    *,
    processor: Any = None,
    args: SFTConfig | None = None,
    eval_dataset: Any = None,
    generate: Mapping[str, Any] | bool = False,
    compute_metrics: Callable[[Any], Mapping[str, float]] | None = None,
    learning_rates: Mapping[str, float] | None = None,
    processor_kwargs: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    frame_cache: Any = None,
    max_bad: float = 0.01,
    **kwargs: Any,
) -> SFTTrainer:
    """Make a trainer that learns the answers of a dataset of any form (`rows.read_row`).

    Before a model is loaded, every row of a `Dataset` is checked without decoding its media, and the first row of an
    `IterableDataset`, whose others are checked when they are reached (`row_checks.py`).

    Args:
        model: the model; or a folder, Hub id or the name of a bundled checkpoint, from which model and processor are
            loaded.
        train_dataset: a `Dataset` or `IterableDataset`. Its `Video`, `Image` and `Audio` columns may be in any state.
        processor: processor of `model`; by default that of the checkpoint from which `model` was loaded.
        args: from `sft_config`; other arguments must have the same values for media.
        eval_dataset: rows, or a dict of names to rows, for the loss on them.
        generate: also let the model answer the rows of `eval_dataset`, and measure how many answers are equal to the
            last ones of the rows (`eval_exact_match`). A mapping holds options of `model.generate`.
        compute_metrics: gets an `EvalPrediction` with the generated answers as `predictions` and those of the rows as
            `label_ids`, both lists of texts, and returns more metrics. It needs `generate`.
        learning_rates: maps patterns of parameter names to learning rates; see `PartwiseSFTTrainer`.
        processor_kwargs: options for the processor, e.g. `{"num_frames": 4}`.
        max_length: refuse rows with more tokens than this.
        frame_cache: folder for decoded frames and sounds, so that a file is decoded only once; or
            `{"folder": ..., "max_size": "50 GB"}`. Several trainings may share it.
        max_bad: largest share of the rows of a `Dataset` whose media may be missing or broken, as in a mix; 0 allows
            none. Such rows are left out, counted in the log and listed in `bad_media.jsonl` of the output folder. In an
            evaluation only missing files are left out, and in an `IterableDataset` nothing.
        kwargs: further arguments of `trl.SFTTrainer`, such as `callbacks` and `peft_config`.

    Raises:
        TypeError: the processor is missing and cannot be found; or an argument, or an option of the processor or of
            `generate`, is unknown.
        ValueError: `args` would lose media; `compute_metrics` has no generated answers; `frame_cache`, `max_bad` or a
            rate is wrong; or a row has no answer, or media that do not fit its messages, which the message names.
        TooManyBadMediaError: more files than `max_bad` allows are missing.
        FileNotFoundError: there is no such model.

    Example:
        >>> trainer = make_trainer("my-checkpoint", dataset, args=sft_config(output_dir="run"))   # doctest: +SKIP
        >>> trainer.train()                                                                       # doctest: +SKIP
    """
    from transformers import set_seed
    from trl import SFTTrainer

    from .mix_reporter import BadMediaReporter
    from .skipping import SkippingCollator
    from .trainer import PartwiseSFTTrainer

    if "data_collator" in kwargs or "processing_class" in kwargs:
        name = "data_collator" if "data_collator" in kwargs else "processing_class"
        instead = "processor_kwargs and max_length" if name == "data_collator" else "processor"
        raise TypeError(f"make_trainer makes the {name} itself: pass {instead}, or use trl.SFTTrainer.")
    refuse_unknown(kwargs, {*inspect.signature(SFTTrainer.__init__).parameters} - {"self"}, "make_trainer")
    if compute_metrics is not None and not generate:
        raise ValueError("compute_metrics gets generated answers: pass generate=True, too.")
    if generate and eval_dataset is None:
        raise ValueError("generate=True needs rows to answer: pass eval_dataset.")
    args = args or sft_config()
    _check_arguments(args)
    cache, max_bad = open_cache(frame_cache), check_max_bad(max_bad)
    learning_rates = check_rates(learning_rates)
    # TRL 1.10 adds a LoRA, and draws its weights, before the trainer sets the seed.
    set_seed(args.seed)
    model, base = found_model(model, args.seed)
    reader = processor_before_loading(model, processor)
    collator = VideoDataCollator(reader, cache=cache, max_length=max_length, processor_kwargs=processor_kwargs)
    check_processor_kwargs(reader, processor_kwargs)
    if isinstance(generate, Mapping):
        check_generate(generate, reader)
    if learning_rates and isinstance(model, str | Path) and kwargs.get("peft_config") is None:
        check_patterns(learning_rates, str(model))
    show_bar = args.process_index == 0 and not args.disable_tqdm
    checked = check_rows(train_dataset, collator, "train_dataset", max_bad, show_bar=show_bar)
    eval_dataset = check_eval_rows(eval_dataset, collator, max_bad, must_end=bool(generate), show_bar=show_bar)
    model, collator.processor = model_and_processor(model, processor, args.seed)
    reporters: list[Any] = []
    train_collator = None
    if checked.key is not None:
        log = BadMediaLog(Path(str(args.output_dir)) / BAD_MEDIA, checked.total, max_bad, checked.missing)
        train_collator = SkippingCollator(collator, checked.rows, log, key=checked.key)
        reporters = [BadMediaReporter(log)]
    kwargs["callbacks"] = [*reporters, run_logger("make_trainer", base, checked.rows), *(kwargs.get("callbacks") or ())]
    trainer = PartwiseSFTTrainer(
        learning_rates=learning_rates,
        generate=dict(generate) if isinstance(generate, Mapping) else ({} if generate else None),
        compute_answer_metrics=compute_metrics,
        model=model,
        args=args,
        train_dataset=checked.rows,
        eval_dataset=eval_dataset,
        data_collator=collator,
        train_collator=train_collator,
        processing_class=collator.processor,
        **kwargs,
    )
    trainer.base_model = base
    # PEFT copies the modules that it trains in full, and makes all parameters of a copy trainable.
    freeze_unused_parameters(trainer.model)
    return trainer


def _check_arguments(args: SFTConfig) -> None:
    """Refuse arguments with which TRL would drop or cut media, whoever made them."""
    if args.remove_unused_columns or args.max_length is not None or args.packing or args.padding_free:
        raise ValueError("These arguments would drop or cut media: make them by hf_videollm.sft_config(...).")
    options: Any = args.dataset_kwargs or {}
    if not options.get("skip_prepare_dataset"):
        raise ValueError("TRL would tokenise the rows without their media: make args by hf_videollm.sft_config(...).")
