"""What the scripts of benchmarks, tools and examples import from each other and from the package exists."""

import ast
import functools
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "tools", "examples")


@functools.cache
def defined(file: Path) -> set[str]:
    """The names of a module: what it defines, assigns and imports, outside of functions and classes."""
    names, open_nodes = set(), list(ast.parse(file.read_text(encoding="utf-8")).body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            open_nodes += ast.iter_child_nodes(node)
    return names


def source_of(module: str, roots: list[Path]) -> Path | None:
    """The file of a module below one of the roots, or of a package; `None` for other people's modules."""
    for root in roots:
        place = root / module.replace(".", "/")
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def missing_names(script: Path, roots: list[Path]) -> list[str]:
    """Each `module: name` that the script imports from a file below the roots, and that the file does not have."""
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.level:
            continue
        source = source_of(node.module, roots)
        if source is None:
            continue
        names = defined(source)
        # A module with `__getattr__` makes its names when they are asked for.
        if "__getattr__" not in names:
            modules = {alias.name for alias in node.names if source_of(f"{node.module}.{alias.name}", roots)}
            missing += [f"{node.module}: {alias.name}" for alias in node.names if alias.name not in names | modules]
    return missing


@pytest.mark.parametrize("folder", FOLDERS)
def test_scripts_import_what_there_is(folder: str) -> None:
    """A script that nobody runs for a month breaks unseen when a function moves."""
    scripts = sorted((REPOSITORY / folder).rglob("*.py"))
    assert scripts
    roots = [REPOSITORY / folder, REPOSITORY / "src", REPOSITORY / "tests/support"]
    missing = {
        str(script.relative_to(REPOSITORY)): missing_names(script, [script.parent, *roots]) for script in scripts
    }
    assert {script: names for script, names in missing.items() if names} == {}


def test_a_name_that_has_moved_is_found(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(
        "import os\nwith open(os.devnull) as file:\n    kept = 1\ndef local():\n    inner = 1\n"
    )
    script = tmp_path / "script.py"
    script.write_text("from shared import kept, local, os\nfrom elsewhere import any_name\n")
    assert missing_names(script, [tmp_path]) == []
    script.write_text("from shared import inner, gone\n")
    assert missing_names(script, [tmp_path]) == ["shared: inner", "shared: gone"]
