"""What a training writes down about itself in its output folder, so that it can be repeated and continued.

| file | holds |
|---|---|
| `recipe.yaml` | the recipe as it was run, with all changes of the command line |
| `run.json` | base model, data and their digests, seeds, arguments; for each session versions, git revision, machine |
| `log.jsonl` | what the trainer logged, one JSON object per line |
| `losses.png` | the losses over the steps (needs matplotlib) |
| `README.md` | the model card |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..atomic import atomic_file
from ..evaluation.provenance import command_line, git_revision, machine, now, package_versions
from ..models.errors import one_line
from ..training_outputs import BaseModel
from .recipe import Recipe
from .recipe_errors import RecipeError

__all__ = ["COMMAND", "RECIPE_FILE", "RUN_FILE", "RunRecord", "data_of_records", "read_run", "recipe_content"]

RECIPE_FILE, RUN_FILE = "recipe.yaml", "run.json"
COMMAND = "hf-videollm train"
PACKAGES = (
    "hf_videollm",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "torch",
    "torchvision",
    "bitsandbytes",
    "av",
    "numpy",
    "pillow",
)
BLOCK = 1 << 20


class RunRecord:
    """The record of one run, which may have several sessions: one more each time that it is resumed.

    Args:
        recipe: the recipe; `None` for a trainer that a script made without one.
        base: the model that the training begins with, if it was loaded from a folder or the Hub.
        data: what is trained on, with digests.
        made_by: the command or function that trains; by default that of recipes.
    """

    def __init__(
        self, recipe: Recipe | None, base: BaseModel | None, data: Mapping[str, Any], made_by: str = COMMAND
    ) -> None:
        self.recipe, self.base, self.data = recipe, base, dict(data)
        self.made_by = made_by

    def begin(self, folder: Path, args: Any, model: Any, first_step: int, max_steps: int) -> None:
        """Write the record of a session that begins now.

        Args:
            folder: the output folder.
            args: arguments of the trainer.
            model: the model as it is trained.
            first_step: number of steps that were done before.
            max_steps: number of the last step.
        """
        parameters = list(model.named_parameters())
        earlier = read_run(folder) if first_step else {}
        session = {
            "started": now(),
            "first_step": first_step,
            "last_step": max_steps,
            "versions": package_versions(PACKAGES),
            "git_revision": git_revision(),
            **machine(),
            "processes": args.world_size,
            "command": command_line(),
        }
        content = {
            "made_by": self.made_by,
            "base_model": None if self.base is None else asdict(self.base),
            "data": self.data,
            "seeds": {"seed": args.seed, "data_seed": args.data_seed, "mix": self.data.get("seed")},
            "parameters": sum(parameter.numel() for _, parameter in parameters),
            "trained_parameters": sum(parameter.numel() for _, parameter in parameters if parameter.requires_grad),
            "arguments": args.to_dict(),
            "sessions": [*earlier.get("sessions", []), session],
        }
        _write_json(folder / RUN_FILE, content)
        if self.recipe is not None:
            with atomic_file(folder / RECIPE_FILE) as temporary:
                text = yaml.safe_dump(recipe_content(self.recipe), sort_keys=False, allow_unicode=True)
                temporary.write_text(text, encoding="utf-8")

    def end(self, folder: Path, step: int) -> None:
        """Note that the session has come to its end."""
        content = read_run(folder)
        if content.get("sessions"):
            content["sessions"][-1] |= {"ended": now(), "reached_step": step}
            _write_json(folder / RUN_FILE, content)


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that say something, as plain values that YAML can hold."""
    defaults = asdict(Recipe())
    content = {name: value for name, value in asdict(recipe).items() if value not in (None, {}, defaults[name])}
    return dict(json.loads(json.dumps(content, default=str)))


def data_of_records(path: str, rows: int) -> dict[str, Any]:
    """Describe a file of records: its path, a hash of its content, and the number of samples made from it."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return {"records": str(path), "sha256": digest.hexdigest(), "rows": rows}


def read_run(folder: Path) -> dict[str, Any]:
    """The content of `run.json`; an empty dict if there is none.

    Raises:
        RecipeError: the file is damaged.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} is damaged ({one_line(error, 100)}): remove it.") from error
    return dict(content) if isinstance(content, dict) else {}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
