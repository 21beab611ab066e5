"""`docs/measured/linvt_backbones.md` says what the tables of the code and a run of the tool say."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from repository_tools import load_tool
from transformers.masking_utils import create_masks_for_generate

from hf_videollm.models.linvt_families import ADDED_FEATURES, FRAME_CALLS, REFUSED, TYPE_RULES
from hf_videollm.models.linvt_generation import LinVTGenerationMixin

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("linvt_support")


def tables(tool: ModuleType) -> list[dict[str, list[str]]]:
    """Rows of each table of the document by their first cell."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", tool.DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [[line.strip("|").split(" | ") for line in block.splitlines()[2:]] for block in blocks]
    return [{row[0].strip(): [cell.strip() for cell in row[1:]] for row in table} for table in rows]


def test_every_family_of_the_tests_stands_in_the_document(tool: ModuleType) -> None:
    works, notes, refused, deepstack = tables(tool)
    assert works.keys() == notes.keys() == tool.cases.CASES.keys()
    families = {family for family, *_ in tool.cases.CASES.values()}
    assert len(families) >= 20
    assert {row[0] for row in works.values()} == {"yes"}
    assert {row[2] for row in works.values()} == {"bitwise"}
    assert FRAME_CALLS.keys() | TYPE_RULES.keys() | ADDED_FEATURES <= families
    assert {name: row[0] for name, row in refused.items()} == tool.REFUSED_CLASSES
    assert REFUSED.keys() <= set(tool.REFUSED_CLASSES.values())
    assert deepstack.keys() == {name for name, row in notes.items() if "deepstack" in row[1]}


def test_notes_and_reasons_are_those_of_the_code(tool: ModuleType) -> None:
    _, notes, refused, _ = tables(tool)
    for name, (call, note) in notes.items():
        assert call == tool.frame_call(tool.cases.CASES[name][0])
        assert note == ("; ".join(tool.family_notes(name)) or "-"), "run tools/linvt_support.py"
    for name, (family, reason) in refused.items():
        assert reason == tool.refusal(name, family)


def test_the_tool_measures(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tool.measure("llava_clip_llama")
    assert results["bypass"] == 0
    assert max(results[key] for key in ("cached", "batch", "static")) < 1e-4
    assert results["moved"] > 0.1
    # It sees what is wrong: here, masks of a static cache that know no images.
    monkeypatch.setattr(
        LinVTGenerationMixin,
        "create_masks_for_generate",
        lambda self, config, **inputs: create_masks_for_generate(config=config, **inputs),
    )
    results = tool.measure("gemma3")
    assert results["static"] > 1e-3
    assert results["cached"] < 1e-4
