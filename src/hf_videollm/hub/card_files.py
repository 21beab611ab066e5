"""Finds `model_cards/`, with the template and the facts of model cards: in the installed package, or in the repository.

The folder stands at the top of the repository, and a wheel carries a copy inside of the package.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["cards_folder", "load_facts"]

FOLDER = "model_cards"


@cache
def cards_folder() -> Path:
    """The folder `model_cards`.

    Raises:
        FileNotFoundError: neither the package nor the repository has it.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / FOLDER, package.parents[1] / FOLDER):
        if (place / "card.md.jinja").is_file():
            return place
    raise FileNotFoundError(f"{package / FOLDER} is missing: install the package again (it carries this folder).")


@cache
def load_facts(name: str) -> dict[str, Any]:
    """The content of a YAML file of the folder; an empty dict if there is no such file.

    Args:
        name: path in the folder without its suffix, such as `"designs/pllava"`.
    """
    import yaml

    file = cards_folder() / f"{name}.yaml"
    if not file.is_file():
        return {}
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a mapping, not {type(content).__name__}.")
    return content
