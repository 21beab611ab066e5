"""The mixes of the papers' stages: `training/mixes/<design>/<stage>.yaml`, to be used with a folder of data.

Their files are named as their authors publish them, below one folder for each data set. A recipe says where these
folders are: `data_root`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data.mix import Mix, load_mix, source_fractions
from ..models.video_llm_option_names import did_you_mean
from .recipe import Recipe, RecipeError
from .recipe_errors import is_number

__all__ = ["check_fractions", "expected_rows", "is_paper_mix", "load_recipe_mix", "mix_files"]

FOLDER = Path(__file__).parent / "mixes"


def mix_files() -> dict[str, Path]:
    """Maps names, such as `ftfv/instruct`, to the files of the mixes of the package."""
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(FOLDER.glob("*/*.yaml"))}


def is_paper_mix(name: str) -> bool:
    """Whether a recipe's mix is one of the package, and not a file of the user."""
    return not Path(name).is_file() and name in mix_files()


def check_fractions(recipe: Recipe) -> None:
    """Check `fractions` and `data_root` of a recipe, before the files of its mix are looked for.

    Raises:
        RecipeError: there is no mix that they change, or a share or the name of a source is wrong.
        MixError: the file of the mix cannot be read.
    """
    if recipe.mix is None or recipe.records is not None:
        for name, value in (("fractions", recipe.fractions), ("data_root", recipe.data_root)):
            if value is not None:
                raise RecipeError(f"{name} changes a mix, but the recipe trains on records: leave it out.")
        return
    if not recipe.fractions:
        return
    path = _path(recipe.mix)
    names = source_fractions(path)
    for name, share in recipe.fractions.items():
        if name not in names:
            raise RecipeError(f"fractions: {path} has no source {name!r}: {did_you_mean(name, names)}")
        if not is_number(share) or not 0 < share <= 1:
            raise RecipeError(f"fractions.{name} must be a share above 0, at most 1, not {share!r}.")


def expected_rows(recipe: Recipe) -> tuple[int | None, str]:
    """The rows of an epoch by the paper, and where the number comes from; None if it is not known.

    Other `fractions` than those of the mix change the number. The paper counts the rows of some of them
    (`expected.rows_of`); otherwise, those of a mix of a single source are in proportion to the share.
    """
    expected = recipe.expected or {}
    rows, changed = expected.get("rows"), recipe.fractions or {}
    if rows is None:
        return None, "unknown without data"
    own = source_fractions(_path(recipe.mix)) if changed and recipe.mix is not None else {}
    if all(share == own.get(name) for name, share in changed.items()):
        return rows, "by the paper"
    if len(own) > 1:
        return None, "unknown without data: fractions change the number of the paper"
    ((name, share),) = changed.items()
    counted = (expected.get("rows_of") or {}).get(share)
    if counted is not None:
        return int(counted), "by the paper"
    return round(rows * share / own[name]), "in proportion to the number of the paper"


def load_recipe_mix(recipe: Recipe) -> Mix:
    """The mix that a recipe names, with the recipe's folder of data and shares of videos.

    Raises:
        MixError: the mix is wrong, or its files are not there.
        RecipeError: a mix of the package has no folder of data, or `fractions` names no source of the mix.
    """
    assert recipe.mix is not None
    check_fractions(recipe)
    path = _path(recipe.mix)
    if is_paper_mix(recipe.mix) and recipe.data_root is None:
        raise RecipeError(
            f"The mix {recipe.mix} needs a folder with its data sets ({path} lists them): --set data_root=FOLDER; "
            "or train on other data: --records or --mix."
        )
    mix = load_mix(path, recipe.data_root)
    shares = recipe.fractions or {}
    sources = [replace(source, fraction=float(shares.get(source.source, source.fraction))) for source in mix.sources]
    return replace(mix, sources=tuple(sources))


def _path(mix: str) -> Path:
    return mix_files()[mix] if is_paper_mix(mix) else Path(mix)
