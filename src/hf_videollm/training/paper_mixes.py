"""The mixes of the papers' stages: `training/mixes/<design>/<stage>.yaml`, to be used with a folder of data.

Their files are named as their authors publish them, below one folder for each data set. A recipe says where these
folders are: `data_root`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data.mix import Mix, load_mix
from ..models.video_llm_option_names import did_you_mean
from .recipe import Recipe, RecipeError

__all__ = ["is_paper_mix", "load_recipe_mix", "mix_files"]

FOLDER = Path(__file__).parent / "mixes"


def mix_files() -> dict[str, Path]:
    """Maps names, such as `ftfv/instruct`, to the files of the mixes of the package."""
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(FOLDER.glob("*/*.yaml"))}


def is_paper_mix(name: str) -> bool:
    """Whether a recipe's mix is one of the package, and not a file of the user."""
    return not Path(name).is_file() and name in mix_files()


def load_recipe_mix(recipe: Recipe) -> Mix:
    """The mix that a recipe names, with the recipe's folder of data and shares of videos.

    Raises:
        MixError: the mix is wrong, or its files are not there.
        RecipeError: a mix of the package has no folder of data, or `fractions` names no source of the mix.
    """
    assert recipe.mix is not None
    path = Path(recipe.mix)
    if is_paper_mix(recipe.mix):
        path = mix_files()[recipe.mix]
        if recipe.data_root is None:
            raise RecipeError(
                f"The mix {recipe.mix} needs a folder with its data sets ({path} lists them): --set data_root=FOLDER; "
                "or train on other data: --records or --mix."
            )
    mix = load_mix(path, recipe.data_root)
    if not recipe.fractions:
        return mix
    names = {source.source for source in mix.sources}
    for name, share in recipe.fractions.items():
        if name not in names:
            raise RecipeError(f"fractions: {path} has no source {name!r}: {did_you_mean(name, names)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise RecipeError(f"fractions.{name} must be a share above 0, at most 1, not {share!r}.")
    sources = [
        replace(source, fraction=float(recipe.fractions.get(source.source, source.fraction))) for source in mix.sources
    ]
    return replace(mix, sources=tuple(sources))
