"""The table of designs agrees with the classes, the files and the pages that it speaks of."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_public_api import AUTO_MAPPINGS

import hf_videollm
from hf_videollm.costs.presets import all_presets
from hf_videollm.designs import DESIGNS, Design, buildable
from hf_videollm.known_models import DEFAULT_CHECKPOINT, bundled_checkpoints

REPOSITORY = Path(__file__).parents[1]
# XGen-MM is an image-LLM that LinVT stands before, and has no paper of this package.
WITHOUT_PAGE = ("xgen_mm",)


def auto_classes(row: Design) -> dict[str, str]:
    """Auto class -> name of the class, as the row says."""
    names = {
        "AutoConfig": row.config,
        "AutoModel": row.model,
        "AutoModelForImageTextToText": row.generating_model,
        "AutoModelForMultimodalLM": row.generating_model,
        "AutoModelForCausalLM": row.generating_model,
        "AutoProcessor": row.processor,
        "AutoVideoProcessor": row.video_processor,
        "AutoFeatureExtractor": row.feature_extractor,
    }
    return {name: reference.split(":")[1] for name, reference in names.items() if reference is not None}


def test_the_table_has_every_design_that_is_announced() -> None:
    assert {name: auto_classes(row) for name, row in DESIGNS.items()} == AUTO_MAPPINGS


@pytest.mark.parametrize("name", DESIGNS)
def test_a_row_names_what_there_is(name: str) -> None:
    row = DESIGNS[name]
    assert row.name == name == row.load("config").model_type
    for reference in row.classes().values():
        assert ":" in reference
    assert row.load("generating_model").config_class is row.load("config")
    assert row.load("model").config_class is row.load("config")
    if row.converter is not None:
        assert callable(row.load("converter"))
    assert (row.is_original is None) == (row.advice is None)


def test_bundled_checkpoints_are_those_of_the_table() -> None:
    assets = {path.parent.name for path in (Path(hf_videollm.__file__).parent / "assets").glob("*/config.json")}
    assert set(bundled_checkpoints()) == assets
    assert next(iter(bundled_checkpoints())) == DEFAULT_CHECKPOINT


def test_what_can_be_built_and_counted_is_in_the_table() -> None:
    assert set(buildable()) == set(DESIGNS) - {"xgen_mm"}
    for row in DESIGNS.values():
        for preset in (row.load("presets") or {}).values():
            assert preset.config_class is row.load("config")
    assert all_presets().keys() >= {name for name, row in DESIGNS.items() if row.presets is not None}


def test_the_help_of_commands_names_every_design(cli: Callable[..., tuple[int, str, str]]) -> None:
    converters = {row.converter.split(".")[2] for row in DESIGNS.values() if row.converter is not None}
    presets = {name for name, row in DESIGNS.items() if row.presets is not None}
    for command, names in (("build", set(buildable())), ("convert", converters), ("flops", presets)):
        code, printed, _ = cli(command, "--help")
        assert code == 0
        assert names
        assert not {name for name in names if not re.search(rf"\b{name}\b", printed.replace("-", "_"))}


def rows_of_readme(text: str) -> dict[str, str]:
    """Design -> its line in the README's table of designs, which begins with its title as a link to its page."""
    lines = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    found = {}
    for row in DESIGNS.values():
        mine = [line for line in lines if line.startswith(f"| [{row.title}](docs/designs/")]
        if mine:
            found[row.name] = mine[0]
    return found


def test_the_readme_has_a_line_of_every_design() -> None:
    text = (REPOSITORY / "README.md").read_text()
    found = rows_of_readme(text)
    assert set(found) == set(DESIGNS) - set(WITHOUT_PAGE)
    # The control: a line that is missing is seen.
    assert set(rows_of_readme(text.replace("| [PLLaVA]", "| [Pllava]"))) == set(found) - {"pllava"}


@pytest.mark.parametrize("name", sorted(set(DESIGNS) - set(WITHOUT_PAGE)))
def test_every_design_has_a_page(name: str) -> None:
    pages = [page.read_text() for page in (REPOSITORY / "docs" / "designs").glob("*.md")]
    row = DESIGNS[name]
    assert any(row.title in page.splitlines()[0] or f"`{row.generating_model.split(':')[1]}`" in page for page in pages)


def test_a_row_may_be_added_twice_and_no_other_of_its_name() -> None:
    row = DESIGNS["iva"]
    hf_videollm.register_design(row)
    with pytest.raises(ValueError, match=r"There is a design 'iva' already \(hf_videollm.models.configuration_iva:"):
        hf_videollm.register_design(replace(row, title="another"))
    assert DESIGNS["iva"] == row
