"""Finds what a recipe trains: the parameters that `trainable` names or, if there is a LoRA, whole modules."""

import re
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from .recipe_errors import RecipeError

# PEFT calls the modules that it trains as a whole, but these containers cannot be called.
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# Model -> names of the parameters that `freeze_all_but` froze. The next stage of a training may train them.
_FROZEN: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def freeze_all_but(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Train only the parameters whose name contains a match of one of the regular expressions.

    Returns:
        Names of the parameters that match. Those among them that were frozen before stay frozen, unless it was an
        earlier call of this function that froze them.

    Raises:
        RecipeError: a pattern matches nothing, or only parameters that are frozen.
    """
    thaw(model)
    chosen = matched_parameters(model, patterns)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _FROZEN[model] = set(trained) - chosen
    for name in _FROZEN[model]:
        trained[name].requires_grad_(False)
    return sorted(chosen)


def thaw(model: nn.Module) -> None:
    """Make the parameters trainable that `freeze_all_but` froze, so that a stage trains what its own recipe says."""
    names = _FROZEN.pop(model, set())
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(True)


def matched_parameters(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Names of the parameters that contain a match of one of the regular expressions.

    Raises:
        RecipeError: a pattern matches nothing, or only parameters that are frozen.
    """
    names = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    # A weight that two parts share has two names: a head that is the embedding, too, is found by both.
    shared = {name: own[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not pattern:
            raise RecipeError(f"trainable: {pattern!r} is in every name: leave `trainable` out to train all.")
        expression = compiled(pattern, "trainable")
        matches = [first for name, first in shared.items() if expression.search(name)]
        if not matches:
            raise RecipeError(
                f"trainable: the pattern {pattern!r} matches no parameter. Their names are like {next(iter(names))!r}."
            )
        if not any(names[name] for name in matches):
            raise RecipeError(f"trainable: the pattern {pattern!r} matches only frozen parameters: {matches[0]}.")
        chosen.update(matches)
    return chosen


def compiled(pattern: Any, field: str) -> re.Pattern[str]:
    """A pattern of names.

    Raises:
        RecipeError: it is no regular expression; the message names the field.
    """
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise RecipeError(
            f"{field}: {pattern!r} is no regular expression ({error}): name a part, such as connector."
        ) from None


def plain_name(name: str) -> str:
    """Name of a parameter without what PEFT writes into it for parts that it trains as a whole."""
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", name)


def check_rate_patterns(patterns: Iterable[str], model: nn.Module) -> None:
    """Refuse patterns of `learning_rates` without a parameter.

    Raises:
        RecipeError: a pattern is no regular expression, or matches nothing that is trained.
    """
    trained = [plain_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in patterns:
        expression = compiled(pattern, "learning_rates")
        if not any(expression.search(name) for name in trained):
            example = f", such as {trained[0]!r}" if trained else ""
            raise RecipeError(f"learning_rates: the pattern {pattern!r} matches no parameter that is trained{example}.")


def last_layers(model: nn.Module, part: str, number: int) -> list[str]:
    """Patterns of the parameters in the last layers of a part of the model.

    Args:
        model: the model.
        part: the last word of the part's name, e.g. `vision_tower`.
        number: of layers, counted from the last one that is used.

    Raises:
        RecipeError: there is no such part, or it has no list of so many layers that are used.
    """
    modules = dict(model.named_modules())
    name = next((name for name in modules if name.rpartition(".")[2] == part), None)
    if name is None:
        raise RecipeError(f"trainable_layers: {type(model).__name__} has no part {part!r}.")
    # The layers of a tower are its longest list of modules.
    lists = {
        inner: module
        for inner, module in modules.items()
        if inner.startswith(f"{name}.") and isinstance(module, nn.ModuleList)
    }
    longest = max(lists, key=lambda inner: len(lists[inner]), default=None)
    # A tower stops at its feature layer. The layers behind it are frozen, because they are not used.
    used = (
        []
        if longest is None
        else [
            index
            for index, layer in enumerate(lists[longest])
            if any(value.requires_grad for value in layer.parameters())
        ]
    )
    if len(used) < number:
        unused = 0 if longest is None else len(lists[longest]) - len(used)
        aside = f" (beside {unused} that are not used)" if unused else ""
        raise RecipeError(
            f"trainable_layers: {part} has {len(used)} layers{aside}, so there are no {number} last ones."
        )
    return [rf"(^|\.){re.escape(str(longest))}\.{layer}\." for layer in used[-number:]]


def whole_modules(model: nn.Module, patterns: Iterable[str], lora: Any) -> list[str]:
    """Names of the largest modules in which the patterns of `trainable` match all trainable parameters.

    Args:
        model: the model, before PEFT changes it.
        patterns: as in `freeze_all_but`.
        lora: the `LoraConfig` of the LoRA that is trained as well.

    Raises:
        RecipeError: a pattern matches nothing, a part of a module but not the rest of it, or layers that get the LoRA.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = matched_parameters(model, patterns) & trained
    modules: list[str] = []
    for name, module in model.named_modules():
        inner = {f"{name}.{own}" for own, _ in module.named_parameters()} & trained
        is_taken = any(name.startswith(f"{whole}.") for whole in modules)
        # A container is never taken itself, only its members.
        if name and inner and inner <= chosen and not is_taken and not isinstance(module, CONTAINERS):
            modules.append(name)
    left = sorted(name for name in chosen if not any(name.startswith(f"{whole}.") for whole in modules))
    if left:
        raise RecipeError(
            f"trainable with lora: {left[0]} belongs to a module whose other parameters are not trained, but beside a "
            "LoRA, PEFT can only train whole modules: name the module."
        )
    from peft.tuners.tuners_utils import check_target_module_exists

    for name, _ in model.named_modules():
        if any(name == whole or name.startswith(f"{whole}.") for whole in modules) and check_target_module_exists(
            lora, name
        ):
            raise RecipeError(
                f"trainable with lora: both name {name}, but a layer can either get a LoRA or be trained as a whole."
            )
    return modules


__all__ = [
    "RecipeError",
    "check_rate_patterns",
    "compiled",
    "freeze_all_but",
    "last_layers",
    "matched_parameters",
    "plain_name",
    "thaw",
    "whole_modules",
]
