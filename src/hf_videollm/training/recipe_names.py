"""Names of the recipes that come with the package: `<design>/<stage>`, e.g. `iva/align`.

Stages of the papers are in `training/recipes`, those of the tiny models in `synthetic/recipes`. The command line lists
the names in its help, so this file imports nothing heavy.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PAPERS, SYNTHETIC = PACKAGE / "training" / "recipes", PACKAGE / "synthetic" / "recipes"


def recipe_files() -> dict[str, Path]:
    """Maps names to files for all recipes of the package: stages of the papers first, then those of the tiny models."""
    return {
        f"{file.parent.name}/{file.stem}": file
        for folder in (PAPERS, SYNTHETIC)
        for file in sorted(folder.glob("*/*.yaml"))
    }


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """The file of a recipe, given by its path or, if there is no such file, by its present or former name."""
    if Path(recipe).is_file():
        return Path(recipe)
    files = recipe_files()
    former = {_former_name(file): file for file in files.values()}
    return {**former, **files}.get(Path(recipe).as_posix(), Path(recipe))


def design_of_recipe(recipe: str | os.PathLike[str]) -> str | None:
    """The design that a recipe of the package was written for, which is its folder; `None` for any other file."""
    file = find_recipe(recipe).resolve()
    return file.parent.name if file.parent.parent in (PAPERS, SYNTHETIC) else None


def _former_name(file: Path) -> str:
    """The name of a recipe before each design had its own folder, such as `iva_align` or `iva_synthetic_short`.

    `iva_synthetic` was the former name of `iva/videos`, the stage of a tiny model that trains on whole videos.
    """
    design, stage = file.parent.name, file.stem
    if not file.is_relative_to(SYNTHETIC):
        return f"{design}_{stage}"
    return f"{design}_synthetic" if stage == "videos" else f"{design}_synthetic_{stage}"


__all__ = ["design_of_recipe", "find_recipe", "recipe_files"]
