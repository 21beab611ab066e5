"""What the arguments of a recipe's trainer and its LoRA may be, where transformers, TRL and PEFT take anything.

A value outside of these ranges would train nothing, or NaN, or fail in the first step. An argument that is refused
would change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .plain_sft import REFUSED
from .recipe_errors import RecipeError, is_number
from .trl_arguments import ANY, Refused

__all__ = ["RANGES", "Range", "check_ranges", "refuse_arguments"]


class Range(NamedTuple):
    """Numbers that are allowed.

    Attributes:
        words: which these are, behind "must be".
        holds: whether a number is one of them.
    """

    words: str
    holds: Callable[[float], bool]


FROM_0 = Range("at least 0", lambda value: value >= 0)
ABOVE_0 = Range("above 0", lambda value: value > 0)
FROM_1 = Range("at least 1", lambda value: value >= 1)
SHARE = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = Range("from 0, and below 1", lambda value: 0 <= value < 1)
SEED = Range("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
# -1 is the default, with which the number of epochs counts.
STEPS = Range("at least 1 (leave it out to train whole epochs)", lambda value: value >= 1 or value == -1)

# Arguments of `trl.SFTConfig`.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "warmup_steps"), FROM_0),
    **dict.fromkeys(("dataloader_num_workers", "neftune_noise_alpha", "eval_delay"), FROM_0),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "save_steps", "eval_steps", "ddp_timeout"), ABOVE_0),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), FROM_1),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "save_total_limit"), FROM_1),
    **dict.fromkeys(("dataloader_prefetch_factor", "torch_empty_cache_steps"), FROM_1),
    **dict.fromkeys(("warmup_ratio", "label_smoothing_factor"), SHARE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), BELOW_1),
    **dict.fromkeys(("seed", "data_seed"), SEED),
    "max_steps": STEPS,
}
_NO_ROWS = "a recipe has no rows for an evaluation: leave it out; make_trainer(..., eval_dataset=...) evaluates."
_OWN_PROCESSOR = "the processor of the checkpoint decides that: leave it out."
_NOT_TOKENISED = "rows are made into batches while the model trains, and not before: leave it out."
# Arguments that would change nothing here, or that only a trainer with other rows can follow.
REFUSED_IN_RECIPES: dict[str, Refused] = {
    **REFUSED,
    "eval_strategy": Refused(("steps", "epoch", True), _NO_ROWS),
    "do_eval": Refused((True,), _NO_ROWS),
    "eval_on_start": Refused((True,), _NO_ROWS),
    "load_best_model_at_end": Refused((True,), _NO_ROWS),
    "resume_from_checkpoint": Refused(
        ANY, "a run continues from the last checkpoint in its output_dir by itself: leave it out, and name that folder."
    ),
    "model_init_kwargs": Refused(
        ANY, "the model is loaded as `model` and `model_options` of the recipe say: use these."
    ),
    "trust_remote_code": Refused((True,), "code of a checkpoint is not run: leave it out."),
    "use_liger_kernel": Refused((True,), "there are no Liger kernels for the designs: leave it out."),
    "train_sampling_strategy": Refused(
        ("group_by_length",), "the length of a row is not known before its video is read: leave it out."
    ),
    "group_by_length": Refused((True,), "the length of a row is not known before its video is read: leave it out."),
    "length_column_name": Refused(ANY, "the length of a row is not known before its video is read: leave it out."),
    "pad_to_multiple_of": Refused(ANY, _OWN_PROCESSOR),
    **dict.fromkeys(("pad_token", "eos_token", "chat_template_path"), Refused(ANY, _OWN_PROCESSOR)),
    **dict.fromkeys(("dataset_text_field", "dataset_num_proc", "packing_strategy"), Refused(ANY, _NOT_TOKENISED)),
    "shuffle_dataset": Refused((True,), "rows are shuffled in every epoch: leave it out."),
    "truncation_mode": Refused(ANY, "rows are never cut: leave it out."),
}


def check_ranges(field: str, options: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Refuse numbers that are outside of their range.

    Args:
        field: of the recipe, for the message.
        options: values; those that are no numbers are left to other checks.
        ranges: maps names of options to the numbers that they may be.

    Raises:
        RecipeError: a number is outside.

    Example:
        >>> check_ranges("lora", {"r": 0}, {"r": FROM_1})
        Traceback (most recent call last):
        ...
        hf_videollm.training.recipe_errors.RecipeError: lora: r must be at least 1, not 0.
    """
    for name, value in options.items():
        if name in ranges and is_number(value) and not ranges[name].holds(value):
            raise RecipeError(f"{field}: {name} must be {ranges[name].words}, not {value!r}.")


def refuse_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a training of a recipe would ignore, or could not follow.

    Raises:
        RecipeError: there is one; the message says what to do instead.
    """
    for name, refused in REFUSED_IN_RECIPES.items():
        if refused.has(arguments.get(name)):
            raise RecipeError(f"arguments: {name}={arguments[name]!r}: {refused.reason}")
    if arguments.get("bf16") and arguments.get("fp16"):
        raise RecipeError("arguments: bf16 and fp16 exclude each other: leave one of them out.")
