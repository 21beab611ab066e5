"""Names of modules for PEFT, and the function that loads the model of a training under its former place."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..base_loading import load_for_training

__all__ = ["load_for_training", "unmatched_modules"]


def unmatched_modules(model: nn.Module, names: Any) -> list[str]:
    """Those of the names for PEFT with which no name of a module ends. PEFT would ignore them without a message.

    Args:
        model: the model.
        names: a list of names. For anything else the result is empty: a single string is a pattern, which PEFT checks.
    """
    if not isinstance(names, list | tuple | set):
        return []
    modules = [name for name, _ in model.named_modules()]
    return [name for name in names if not any(module.endswith(name) for module in modules)]
