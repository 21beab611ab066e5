"""Recipes of the package are found by their names, by those that they had before, and by the paths of files."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hf_videollm
from hf_videollm.cli.commands import app
from hf_videollm.designs import DESIGNS
from hf_videollm.training.recipe import RecipeError, load_recipe
from hf_videollm.training.recipe_names import PAPERS, SYNTHETIC, find_recipe, recipe_files

PACKAGE = Path(hf_videollm.__file__).parent
NAMES = sorted(recipe_files())
# Command lines, pages and logs of training name these; they go on.
FORMER_NAMES = {
    "ftfv_synthetic": "ftfv/videos",
    "ftfv_synthetic_motion": "ftfv/motion",
    "ftfv_synthetic_stills": "ftfv/stills",
    "iva_align": "iva/align",
    "iva_instruct": "iva/instruct",
    "iva_pretrain": "iva/pretrain",
    "iva_synthetic": "iva/videos",
    "iva_synthetic_short": "iva/short",
    "iva_synthetic_stills": "iva/stills",
    "linvt_synthetic": "linvt/videos",
    "linvt_synthetic_images": "linvt/images",
    "linvt_synthetic_lora": "linvt/lora",
    "linvt_synthetic_motion": "linvt/motion",
    "linvt_synthetic_places": "linvt/places",
    "linvt_synthetic_words": "linvt/words",
    "pllava_synthetic": "pllava/videos",
    "pllava_synthetic_stills": "pllava/stills",
    "videollama2_av_synthetic": "videollama2_av/videos",
    "videollama2_av_synthetic_sound": "videollama2_av/sound",
}


def test_every_recipe_of_the_package_has_one_name() -> None:
    """None lies where no name leads to it, and none has the name of another."""
    # The mixes beside them name data, and have a test of their own.
    files = [file for file in PACKAGE.rglob("*.yaml") if "mixes" not in file.relative_to(PACKAGE).parts]
    assert len(files) > 10
    assert sorted(recipe_files().values()) == sorted(files)
    assert {file.parent.parent for file in files} == {PAPERS, SYNTHETIC}


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_belong_to_a_design(name: str) -> None:
    assert load_recipe(name).arguments
    assert name.partition("/")[0] in DESIGNS


@pytest.mark.parametrize("former", sorted(FORMER_NAMES))
def test_former_names_go_on(former: str) -> None:
    assert find_recipe(former) == recipe_files()[FORMER_NAMES[former]]
    assert load_recipe(former) == load_recipe(FORMER_NAMES[former])


def test_what_has_a_former_name_is_found_by_no_other_word() -> None:
    """The control: what was never a name is a path."""
    for name in ("pllava", "pllava_videos", "pllava/synthetic", "videos", "iva_short", "training/recipes/iva/align"):
        assert find_recipe(name) == Path(name)


def test_files_come_before_names_and_folders_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_recipe("iva/align")
    # A run may well be saved in a folder of this name.
    (tmp_path / "iva" / "align").mkdir(parents=True)
    assert load_recipe("iva/align") == shipped
    (tmp_path / "iva" / "short").write_text("model: mine")
    assert load_recipe("iva/short").model == "mine"


@pytest.mark.parametrize("name", ["iva/alig", "no_such", "runs/recipe"])
def test_an_unknown_name_is_told_with_all_that_are_known(name: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert [known for known in NAMES if known not in str(error.value)] == []


def test_help_lists_the_names() -> None:
    text = re.sub(r"\s+", " ", CliRunner().invoke(app, ["train", "--help"]).output)
    assert [known for known in NAMES if known not in text] == []
