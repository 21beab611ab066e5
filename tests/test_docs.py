"""The documentation is whole: no link leads nowhere, and nothing cites a page that is not in this repository."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from pages import REPOSITORY, anchors, blocks, dead_links, pages

import hf_videollm

# What may cite a page; data, lock files and licences do not.
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".jinja", ".svg")
FOLDERS = ("src", "tests", "tools", "docs", "benchmarks", "examples", "model_cards", ".github", ".ci")
PAGE = re.compile(r"(?<![\w/])docs/[\w/-]+\.(?:md|svg|png)(?:#[\w-]+)?")
# Pages that this project once had beside its repository, in the words in which they were cited.
OUTSIDE = re.compile(
    r"\bshared/\w|\bspecs/\w|\bDESIGN(?:\.md|,? section)|\b[Ss]pecifications?\b|\bsee specs\b|\bspecs page\b"
    r"|\bspec(?:s|ification) page\b"
)
# This file names what it looks for.
SELF = Path(__file__).resolve()


def citing_files() -> list[Path]:
    """Files of the repository that may cite a page."""
    found = [path for path in REPOSITORY.iterdir() if path.suffix in TEXT or path.name == "Makefile"]
    for folder in FOLDERS:
        found += [path for path in (REPOSITORY / folder).rglob("*") if path.suffix in TEXT and path.is_file()]
    return sorted(path for path in found if path != SELF and "__pycache__" not in path.parts)


def bad_citations(path: Path, root: Path = REPOSITORY) -> list[str]:
    """Citations in a file of pages outside the repository, and of pages and headings that do not exist."""
    text = path.read_text(encoding="utf-8")
    bad = [match[0] for match in OUTSIDE.finditer(text)]
    for citation in PAGE.findall(text):
        name, _, anchor = citation.partition("#")
        page = root / name
        if not page.is_file() or (anchor and anchor not in anchors(page.read_text(encoding="utf-8"))):
            bad.append(citation)
    return bad


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert not dead_links(page)


def test_a_dead_link_would_be_seen(tmp_path: Path) -> None:
    """A control: missing files, missing headings; what stands in code is no link."""
    (tmp_path / "other.md").write_text("# One `two`\n\n## One two\n\n## One two\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#one-two) [c](other.md#one-two-2) [d](#here) [e](https://example.org/x)\n"
        "[f](gone.md) [g](other.md#gone) ![h](gone.png) [i](#gone) `[j](gone.md)`\n```\n[k](gone.md)\n```\n"
    )
    assert dead_links(page) == ["gone.md", "other.md#gone", "gone.png", "#gone"]


def test_nothing_cites_a_page_outside_the_repository() -> None:
    bad = {str(path.relative_to(REPOSITORY)): found for path in citing_files() if (found := bad_citations(path))}
    assert not bad, bad


def test_a_bad_citation_would_be_seen(tmp_path: Path) -> None:
    """A control."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# Heading\n")
    file = tmp_path / "code.py"
    for text, bad in (
        ("see docs/page.md", []),
        ("see docs/page.md#heading", []),
        ("see docs/page.md#gone", ["docs/page.md#gone"]),
        ("see docs/gone.md", ["docs/gone.md"]),
        ("../shared/goldens", ["shared/g"]),
        ("(DESIGN section 1)", ["DESIGN section"]),
        ("DESIGN.md says", ["DESIGN.md"]),
        ("the specification, section 7", ["specification"]),
        ("`specs/linvt.md`", ["specs/l"]),
        ("hf-videollm build DESIGN --vision TOWER", []),
    ):
        file.write_text(text)
        assert bad_citations(file, tmp_path) == bad, text


def test_the_order_of_imports_is_the_one_that_is_tested() -> None:
    """docs/architecture.md draws in lines what tests/models/test_import_rules.py checks by numbers."""
    source = (REPOSITORY / "tests" / "models" / "test_import_rules.py").read_text(encoding="utf-8")
    ranks = ast.literal_eval(re.search(r"^RANKS = (\{.*?^\})", source, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    (drawing,) = [block.code for block in blocks(text) if "<-" in block.code]
    lines = [[ranks[name] for name in line.replace("<-", "").strip().split(", ")] for line in drawing.splitlines()]
    assert all(max(above) < min(below) for above, below in itertools.pairwise(lines))
    assert all(line[0] == rank for line in lines[1:] for rank in line)


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs" / "designs").glob("*.md")), ids=lambda page: page.name)
def test_equations_are_shown_on_github_too(page: Path) -> None:
    """GitHub refuses \\operatorname and runs the lines of a block together: one equation a block, without it."""
    equations = [block.code for block in blocks(page.read_text(encoding="utf-8")) if block.language == "math"]
    assert equations
    assert not [equation for equation in equations if "operatorname" in equation or equation.strip().count("\n")]


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names every page of docs/ once, and nothing else."""
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    (navigation,) = yaml.safe_load_all(re.search(r"^nav:\n(?:(?:  .*)?\n)+", text, re.MULTILINE)[0])  # type: ignore[index]
    named = sorted(re.findall(r"[\w/]+\.md", str(navigation)))
    assert named == sorted(str(page.relative_to(REPOSITORY / "docs")) for page in pages(REPOSITORY / "docs"))


# The reference without the text of each function, and without a process of ruff for each signature.
QUICK = {"DOCS_SOURCE": "false", "DOCS_SIGNATURES": "false"}


def build_site(root: Path, site: Path, options: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`make docs`, into another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", **options}
    return subprocess.run(command, cwd=root, env=quiet, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="no mkdocs; make docs installs it")
@pytest.mark.parametrize("options", [QUICK, pytest.param({}, marks=pytest.mark.slow)], ids=["quick", "whole"])
def test_the_site_builds_without_a_warning(options: dict[str, str], tmp_path: Path) -> None:
    """Also the reference of the public names, and every link on the site."""
    result = build_site(REPOSITORY, tmp_path / "site", options)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "WARNING" not in result.stderr
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()
    reference = (tmp_path / "site" / "api" / "hf_videollm.html").read_text(encoding="utf-8")
    missing = [name for name in hf_videollm.__all__ if f'.{name}"' not in reference and not name.startswith("__")]
    assert not missing


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="no mkdocs; make docs installs it")
@pytest.mark.slow
def test_a_dead_link_would_stop_the_site(tmp_path: Path) -> None:
    """A control of the test above, with one page changed."""
    for path in REPOSITORY.iterdir():
        if not path.name.startswith(".") and path.name not in ("docs", "site"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n## Designs\n\n[gone](gone.md)\n")
    result = build_site(tmp_path, tmp_path / "site", QUICK)
    assert result.returncode != 0
    assert "gone.md" in result.stderr
