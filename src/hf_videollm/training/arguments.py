"""The arguments of the trainer that a recipe gives, checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.errors import one_line
from ..models.transformers_compat import rename_checkpointing
from ..models.video_llm_option_names import did_you_mean
from .argument_rules import RANGES, check_ranges, refuse_arguments
from .mixed import TrainingMix
from .plain_sft import FIXED_ARGUMENTS, argument_types
from .recipe import Recipe, RecipeError
from .recipe_settings import number_arguments
from .rehearsal import FAULTS, named_fault, rehearse

if TYPE_CHECKING:
    from trl import SFTConfig

__all__ = ["DEFAULT_ARGUMENTS", "PlannedArguments", "checked_arguments", "training_arguments"]

# Arguments for which recipes use the defaults of transformers, because TRL has other ones.
DEFAULT_ARGUMENTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}
# Arguments of which one value is "no", which YAML reads as false.
_STRATEGIES = ("save_strategy", "logging_strategy", "eval_strategy")
# Arguments that need a device or a cluster, which a plan has not.
_OF_MACHINE = ("deepspeed", "tf32", "fp16", "bf16_full_eval", "fp16_full_eval")


@dataclass(frozen=True)
class PlannedArguments:
    """Arguments of a training.

    Attributes:
        wanted: as the recipe gives them.
        args: the trainer's arguments; those of a plan without what this machine may not have (GPU, other processes).
    """

    wanted: dict[str, Any]
    args: SFTConfig

    @property
    def checkpointing(self) -> bool:
        """Whether layers are run again in the backward pass."""
        return any(bool(self.wanted.get(f"{name}_checkpointing")) for name in ("activation", "gradient"))


def training_arguments(recipe: Recipe, mix: TrainingMix | None = None) -> dict[str, Any]:
    """The arguments of `trl.SFTConfig` for a recipe.

    Raises:
        RecipeError: an argument is unknown, is no number where one belongs, or contradicts media or the mix.
    """
    clashes = {
        name: value
        for name, value in recipe.arguments.items()
        if name in FIXED_ARGUMENTS and value != FIXED_ARGUMENTS[name]
    }
    known, given = argument_types(), rename_checkpointing(recipe.arguments)
    given = {name: "no" if value is False and name in _STRATEGIES else value for name, value in given.items()}
    if unknown := sorted(set(given) - set(known)):
        raise RecipeError(f"arguments: trl.SFTConfig has no {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
    if clashes:
        raise RecipeError(f"arguments: {sorted(clashes)} cannot be changed; video batches need {FIXED_ARGUMENTS}.")
    refuse_arguments(given)
    given = number_arguments(given, known)
    check_ranges("arguments", given, RANGES)
    # Only answers are learned anyway; TRL would look for marks in the template of the processor.
    given = {
        name: value for name, value in given.items() if name not in ("assistant_only_loss", "completion_only_loss")
    }
    given = given if mix is None else mix.arguments(given, set(known))
    return {**rename_checkpointing(DEFAULT_ARGUMENTS), **given, **FIXED_ARGUMENTS}


def checked_arguments(recipe: Recipe, mix: TrainingMix | None = None, is_run: bool = False) -> PlannedArguments:
    """Make the arguments of a recipe, and try them on a stand-in for its model (`rehearsal.py`).

    Args:
        recipe: the recipe.
        mix: its mix.
        is_run: a training follows. Otherwise the arguments need no device, which this machine may not have.

    Raises:
        RecipeError: an argument is unknown or has an impossible value; the message names it.
    """
    wanted = training_arguments(recipe, mix)
    _check_deepspeed(wanted.get("deepspeed"))
    _check_hub(wanted)

    def attempt(options: Mapping[str, Any]) -> SFTConfig:
        kept = {name: value for name, value in options.items() if is_run or name not in _OF_MACHINE}
        args = SFTConfig(**(kept if is_run else {**kept, "use_cpu": True}))
        rehearse(args)
        return args

    from trl import SFTConfig

    try:
        return PlannedArguments(wanted, attempt(wanted))
    except FAULTS as error:
        raise named_fault(error, wanted, recipe.arguments, attempt) from error


def _check_deepspeed(setting: Any) -> None:
    """Refuse a configuration of DeepSpeed that is not there, or that nothing can read."""
    if setting is None:
        return
    if isinstance(setting, str) and not setting.startswith("{"):
        try:
            json.loads(Path(setting).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else one_line(error, 100)
            raise RecipeError(
                f"arguments: deepspeed: {setting} cannot be read ({reason}): name a JSON file."
            ) from error
    if find_spec("deepspeed") is None:
        raise RecipeError("arguments: deepspeed needs DeepSpeed: pip install deepspeed.")


def _check_hub(wanted: Mapping[str, Any]) -> None:
    """Refuse to push if nobody is logged in: the trainer would say so after the model has been loaded."""
    if not wanted.get("push_to_hub"):
        return
    from huggingface_hub import HfApi

    try:
        HfApi(token=wanted.get("hub_token")).whoami()
    # The Hub's client passes on errors of several libraries.
    except Exception as error:
        reason = one_line(error).split(". ")[0]
        raise RecipeError(
            f"arguments: push_to_hub needs the Hub and a login ({reason}): run `hf auth login`, or leave it out and "
            "use `hf-videollm push` later."
        ) from error
