"""Refuses to resume a run with another recipe, other data or another base model than it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..known_models import find_model
from ..models.errors import one_line
from ..weight_digest import weight_digest
from .recipe import Recipe, RecipeError
from .resume import last_whole_checkpoint
from .run_record import RECIPE_FILE, data_of_records, read_run, recipe_content

__all__ = ["check_resumption", "check_same_recipe"]

# Arguments that do not change the curve, but only where and how often something is written, and how far the run goes.
FREE_ARGUMENTS = {
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "disable_tqdm",
    "report_to",
    "run_name",
    "use_cpu",
    "push_to_hub",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
}
# Longest value that is shown whole.
_LONGEST = 200
FREE_BEGINNINGS = ("logging_", "log_level", "save_", "eval_", "dataloader_", "hub_", "gradient_checkpointing")
# Fields whose content is compared by digests, because a path may change, and fields that are for readers alone.
FREE_FIELDS = {"model", "records", "mix", "frame_cache", "sources", "base", "loss"}


def check_resumption(recipe: Recipe) -> None:
    """`check_same_recipe` for the output folder that the recipe names, if it names one."""
    if (output := recipe.arguments.get("output_dir")) is not None:
        check_same_recipe(recipe, str(output))


def check_same_recipe(recipe: Recipe, output: str) -> None:
    """Compare a recipe with the one that the run in the output folder began with.

    Args:
        recipe: of the run that is to begin.
        output: its output folder. Without a whole checkpoint in it, nothing is resumed, and nothing is compared.

    Raises:
        RecipeError: they differ in what changes the losses; the message names the field and both values.
    """
    folder = Path(output)
    file = folder / RECIPE_FILE
    if not file.is_file() or last_whole_checkpoint(folder, (), remove=False) is None:
        return
    try:
        earlier = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{file} is damaged ({one_line(error, 100)}): remove it.") from error
    present = recipe_content(recipe)
    for name in sorted(({*earlier, *present} - FREE_FIELDS) - {"arguments"}):
        _compare(folder, name, earlier.get(name), present.get(name))
    before, after = earlier.get("arguments") or {}, present.get("arguments") or {}
    for name in sorted({*before, *after} - FREE_ARGUMENTS):
        if not name.startswith(FREE_BEGINNINGS):
            _compare(folder, f"arguments.{name}", before.get(name), after.get(name))
    _compare_content(recipe, folder, read_run(folder))


def _compare(folder: Path, name: str, before: Any, after: Any) -> None:
    if _plain(before) != _plain(after):
        raise RecipeError(
            f"{folder} holds a run of another recipe: {_difference(name, before, after)}. Take "
            f"{folder / RECIPE_FILE}, which is the recipe of that run, another output_dir, or begin anew with "
            "--no-resume."
        )


def _difference(name: str, before: Any, after: Any) -> str:
    """What differs, in words; of two mappings, the keys with other values alone."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return f"{name} was {_shown(before)}, and is {_shown(after)} now"
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    changed = [_difference(str(key), *pair) for key, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])]
    return f"{name} was another one ({'; '.join(changed)})"


def _plain(value: Any) -> Any:
    """A value in which `1e-3` and `0.001` are the same."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _compare_content(recipe: Recipe, folder: Path, run: Mapping[str, Any]) -> None:
    """Compare the data and the base model by their digests."""
    data = run.get("data") or {}
    if recipe.records is not None and recipe.mix is None and data.get("sha256") and "records" in data:
        found = data_of_records(recipe.records, 0)["sha256"]
        if found != data["sha256"]:
            raise RecipeError(
                f"{folder} holds a run on other data: {recipe.records} is not what it was then. Take the same records, "
                "another output_dir, or begin anew with --no-resume."
            )
    if (recipe.mix is not None) != ("mix" in data) and data:
        was = data.get("mix") or data.get("records")
        raise RecipeError(
            f"{folder} holds a run on other data ({was}): take another output_dir, or begin anew with --no-resume."
        )
    if recipe.mix is not None and "mix" in data:
        files = [(recipe.mix, data.get("sha256"))]
        files += [(entry["annotation"], entry.get("sha256")) for entry in data.get("sources", ())]
        for path, digest in files:
            if digest is not None and Path(path).is_file() and data_of_records(path, 0)["sha256"] != digest:
                raise RecipeError(
                    f"{folder} holds a run on other data: {path} is not what it was then. Take the same data, another "
                    "output_dir, or begin anew with --no-resume."
                )
    base = run.get("base_model") or {}
    is_known = recipe.model is not None and base.get("digest") is not None
    if is_known and weight_digest(find_model(recipe.model)) != base["digest"]:
        raise RecipeError(
            f"{folder} holds a run that began with another base model: the weights of {recipe.model} are not those of "
            f"{base.get('model')} then. Take another output_dir, or begin anew with --no-resume."
        )
