"""The page of speeds and the table of the README have the numbers of `benchmarks/results/`."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from repository_tools import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("speed_page")


def test_the_page_is_up_to_date(tool: ModuleType) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python tools/speed_page.py"


def test_the_table_of_the_readme_is_up_to_date(tool: ModuleType) -> None:
    assert tool.README.read_text(encoding="utf-8") == tool.readme(), "run python tools/speed_page.py"


def test_every_result_is_on_the_page(tool: ModuleType) -> None:
    text = tool.page()
    names = [file.stem.replace("_", " ") for file in tool.RESULTS.glob("*.json")]
    assert len(names) >= 12
    assert all(f"\n## {name}\n" in text for name in names)


def test_a_changed_number_makes_both_pages_old(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, readme = tool.page(), tool.readme()
    for file in tool.RESULTS.glob("*.json"):
        content: dict[str, Any] = json.loads(file.read_text())
        if file.name == "pllava_cpu.json":
            row = content["results"]["answers_to_8_questions"]["as_a_batch"]
            row["times_one_by_one"] = 0.77
        (tmp_path / file.name).write_text(json.dumps(content))
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    assert tool.page() != before
    assert "| 0.77 of the time |" in tool.readme()
    assert "| 0.77 of the time |" not in readme


def test_values_that_are_no_table_are_shown(tool: ModuleType) -> None:
    results = {"size": 3, "group": {"a": {"seconds": 1.5, "rounds": [1.5]}, "b": {"times_a": 2.0, "same": True}}}
    single, group = tool.tables(results)
    assert single == "| what | value |\n|---|---|\n| size | 3 |\n"
    assert group.splitlines()[0] == "| group | seconds | times a | same |"
    assert group.splitlines()[2:] == ["| a | 1.5 | - | - |", "| b | - | 2 | yes |"]
