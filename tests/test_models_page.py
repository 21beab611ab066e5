"""docs/models.md is what checkpoints and configurations say."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from repository_tools import load_tool
from test_benchmark_table import empty_cells

from hf_videollm.designs import DESIGNS
from hf_videollm.hub.card_files import cards_folder, load_facts
from hf_videollm.known_models import bundled_checkpoints

REPOSITORY = Path(__file__).resolve().parents[1]
VIDEO_DESIGNS = [name for name, row in DESIGNS.items() if row.video_processor is not None]
CITED: dict[str, Any] = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("models_page")


def test_the_page_is_up_to_date(tool: ModuleType) -> None:
    page = tool.page()
    assert tool.DOCUMENT.read_text(encoding="utf-8") == page, "run python tools/models_page.py"
    assert empty_cells(page) == []


def test_every_bundled_checkpoint_is_published_with_facts() -> None:
    models = load_facts("published")["models"]
    assert {entry.get("bundled") for entry in models} - {None} == set(bundled_checkpoints())
    assert len({entry["id"] for entry in models}) == len(models)
    for name in bundled_checkpoints():
        assert {"summary", "training", "tables", "results", "limits", "example"} <= set(
            load_facts(f"checkpoints/{name}")
        )
    assert load_facts("no such file") == {}


@pytest.mark.parametrize("name", VIDEO_DESIGNS)
def test_every_design_has_facts_and_a_picture(name: str) -> None:
    facts = load_facts(f"designs/{name}")
    assert {"summary", "for_whom", "steps", "frames", "checked", "limits", "citation", "paper_models"} <= set(facts)
    assert (cards_folder() / "pictures" / f"{name}.png").is_file()
    # The files of tests that a card names exist.
    named = re.findall(r"`(tests/[\w/.]+)`", " ".join(facts["checked"]))
    assert all((REPOSITORY / path).exists() for path in named)


@pytest.mark.parametrize("name", VIDEO_DESIGNS)
def test_citations_are_those_of_the_repository(name: str) -> None:
    text = load_facts(f"designs/{name}")["citation"]
    (paper,) = [row for row in CITED["references"] if DESIGNS[name].paper in row["url"]]
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert f"author={{{authors}}}" in text
    assert f"year={{{paper['year']}}}" in text
    assert f"arXiv:{DESIGNS[name].paper}" in text

    def bare(title: str) -> str:
        return re.sub(r"[{}\s]", "", title).lower()

    assert bare(paper["title"]) == bare(re.search(r"title=\{(.*)\},", text)[1])  # type: ignore[index]
