"""Restricts LoRA to the language model.

PEFT adapts every layer whose name ends in one of `target_modules`, and vision towers, audio towers and LinVT also have
layers named `q_proj`. So this module excludes all other parts of the model, unless the user names them explicitly.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

ALL_LINEAR = "all-linear"


def lora_config(model: Any, **options: Any) -> Any:
    """Make `peft.LoraConfig(**options)` for the language model of a design.

    Names in a list of `target_modules`, such as `"q_proj"`, only match layers of the language model. To adapt a layer
    of another part, name the part as well: `"connector.linear_1"`, or the pattern `".*adapter.*query"`.

    Args:
        model: a model of one of the designs.
        options: options of `peft.LoraConfig`; by default, `target_modules` are all linear layers of the language model.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: `target_modules` names a layer that the language model does not have.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: pip install peft") from error
    targets = options.pop("target_modules", None) or ALL_LINEAR
    excluded = excluded_pattern(model, targets, options.pop("exclude_modules", None))
    names = [name for name, _ in model.named_modules()]
    # PEFT warns of a pattern that excludes nothing.
    if any(re.fullmatch(excluded, name) for name in names):
        options["exclude_modules"] = excluded
    _check_targets(model, targets, excluded, names)
    return LoraConfig(target_modules=targets, **options)


def excluded_pattern(model: nn.Module, targets: str | Iterable[str], more: str | Iterable[str] | None = None) -> str:
    """A regular expression that fully matches the names of all modules that PEFT must not adapt (`exclude_modules`).

    Args:
        model: a model of one of the designs.
        targets: the user's `target_modules`.
        more: the user's `exclude_modules`: names, or a pattern.
    """
    parts = parts_beside_language(model)
    named: list[str] = []
    if not isinstance(targets, str):
        # Names that include an excluded part, such as "connector.linear_1": the user wants these layers adapted.
        named = [re.escape(name) for name in targets if set(name.split(".")) & set(parts)]
    else:
        parts = [part for part in parts if part not in targets]
    patterns = []
    if parts:
        kept = rf"(?!(?:.*\.)?(?:{'|'.join(named)})$)" if named else ""
        patterns.append(rf"{kept}(?:.*\.)?(?:{'|'.join(map(re.escape, parts))})(?:\..*)?")
    if isinstance(more, str):
        patterns.append(more)
    elif more:
        patterns.append(rf"(?:.*\.)?(?:{'|'.join(map(re.escape, more))})")
    return "|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)"


def decoder_of(model: Any) -> Any:
    """The language model of a design, without its head."""
    base: Any = getattr(model, "base_model", model)
    # In LinVT, the language model is inside the image-LLM, which is called `backbone`.
    return getattr(base, "backbone", base).get_decoder()


def parts_beside_language(model: nn.Module) -> list[str]:
    """Names of all parts of a model that are not in its language model.

    These are the siblings of each module on the path from the model to its language model.
    """
    decoder = decoder_of(model)
    path = next(name for name, module in model.named_modules() if module is decoder)
    parts, module = [], model
    for step in path.split("."):
        parts += [
            name for name, child in module.named_children() if name != step and any(True for _ in child.parameters())
        ]
        module = module.get_submodule(step)
    return parts


def _check_targets(model: nn.Module, targets: str | Iterable[str], excluded: str, names: list[str]) -> None:
    """Raise an error for each name that matches no layer. PEFT ignores such a name if another name matches."""
    if isinstance(targets, str):
        return
    allowed = [name for name in names if not re.fullmatch(excluded, name)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in allowed):
            where = (
                ""
                if not any(name == target or name.endswith(f".{target}") for name in names)
                else (" in its language model; name the part as well, e.g. connector.linear_1")
            )
            raise ValueError(f"target_modules: {type(model).__name__} has no module {target}{where}.")


__all__ = ["decoder_of", "excluded_pattern", "lora_config", "parts_beside_language"]
