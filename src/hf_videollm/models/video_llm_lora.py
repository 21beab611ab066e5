"""LoRA that stays where it is meant to be: in the language model.

PEFT takes names of layers as endings: `q_proj` is also found in vision towers, audio towers and LinVT. So everything
beside the language model is excluded, unless it is named.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

ALL_LINEAR = "all-linear"


def lora_config(model: Any, **options: Any) -> Any:
    """`peft.LoraConfig(**options)` for the language model of a design.

    Names in a list of `target_modules`, such as `"q_proj"`, count inside the language model. A layer elsewhere is
    adapted if its part of the model is named with it: `"connector.linear_1"`, or the pattern `".*adapter.*query"`.

    Args:
        model: a model of one of the designs.
        options: of `peft.LoraConfig`; by default, `target_modules` are all linear layers of the language model.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: `target_modules` names what the language model does not have.
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
    """What PEFT must leave alone, as a regular expression of whole names (`exclude_modules`).

    Args:
        model: a model of one of the designs.
        targets: `target_modules`.
        more: further names or a pattern, as PEFT takes them.
    """
    parts = parts_beside_language(model)
    named: list[str] = []
    if not isinstance(targets, str):
        # Names of layers with their part, which count although the part does not.
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


def parts_beside_language(model: nn.Module) -> list[str]:
    """Names of the parts of a model that stand beside its language model, on the way down to it."""
    base: Any = getattr(model, "base_model", model)
    # LinVT stands around an image-LLM.
    decoder = getattr(base, "backbone", base).get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder)
    parts, here = [], model
    for step in path.split("."):
        parts += [
            name for name, child in here.named_children() if name != step and any(True for _ in child.parameters())
        ]
        here = here.get_submodule(step)
    return parts


def _check_targets(model: nn.Module, targets: str | Iterable[str], excluded: str, names: list[str]) -> None:
    """PEFT passes over a name of a list that it does not find, as long as it finds another."""
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


__all__ = ["excluded_pattern", "lora_config", "parts_beside_language"]
