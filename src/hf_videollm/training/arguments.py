"""The arguments of the trainer that a recipe gives, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.errors import one_line
from ..models.transformers_compat import rename_checkpointing
from ..models.video_llm_option_names import did_you_mean
from .mixed import TrainingMix
from .plain_sft import FIXED_ARGUMENTS, argument_types
from .recipe import Recipe, RecipeError
from .recipe_settings import number_arguments

if TYPE_CHECKING:
    from trl import SFTConfig

__all__ = ["DEFAULT_ARGUMENTS", "PlannedArguments", "make_arguments", "planned_arguments", "training_arguments"]

# Arguments for which recipes use the defaults of transformers, because TRL has other ones.
DEFAULT_ARGUMENTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}
# Arguments that need a device or a cluster, which a plan has not.
_OF_MACHINE = ("deepspeed", "fsdp", "fsdp_config", "tf32", "fp16", "bf16_full_eval", "fp16_full_eval")


@dataclass(frozen=True)
class PlannedArguments:
    """Arguments of a training that is not run.

    Attributes:
        wanted: as the recipe gives them.
        args: the trainer's arguments, without those that this machine may not have (GPU, other processes).
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
    if unknown := sorted(set(given) - set(known)):
        raise RecipeError(f"arguments: trl.SFTConfig has no {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
    if clashes:
        raise RecipeError(f"arguments: {sorted(clashes)} cannot be changed; video batches need {FIXED_ARGUMENTS}.")
    given = number_arguments(given, known)
    given = given if mix is None else mix.arguments(given, set(known))
    return {**rename_checkpointing(DEFAULT_ARGUMENTS), **given, **FIXED_ARGUMENTS}


def make_arguments(options: dict[str, Any]) -> SFTConfig:
    """`trl.SFTConfig` of these arguments.

    Raises:
        RecipeError: a value is impossible.
    """
    from trl import SFTConfig

    try:
        return SFTConfig(**options)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"arguments: {one_line(error)}") from error


def planned_arguments(recipe: Recipe, mix: TrainingMix | None = None) -> PlannedArguments:
    """Check the arguments of a recipe as far as that is possible on a machine without its devices.

    Raises:
        RecipeError: an argument is unknown or has an impossible value.
    """
    wanted = training_arguments(recipe, mix)
    kept = {name: value for name, value in wanted.items() if name not in _OF_MACHINE}
    return PlannedArguments(wanted, make_arguments({**kept, "use_cpu": True}))
