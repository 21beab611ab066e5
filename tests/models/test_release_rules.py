"""Differences between releases of transformers live in one file, `models/transformers_compat.py`.

Read from the sources; each rule has its counterexample.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_videollm

PACKAGE = Path(hf_videollm.__file__).parent
COMPAT = PACKAGE / "models" / "transformers_compat.py"
OTHERS = sorted(set(PACKAGE.rglob("*.py")) - {COMPAT})
# What tells releases apart by their numbers.
VERSION_TOOLS = {"packaging", "is_transformers_version", "is_torch_version", "get_torch_version", "importlib_metadata"}
OLD_CACHE_NAME = "past_key_values"


def names_in(node: ast.AST) -> Iterator[str]:
    """Modules and names that one statement imports, in their parts."""
    if isinstance(node, ast.Import):
        yield from (part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)


def version_problems(source: str) -> list[str]:
    """Looks at version numbers of other packages, and imports of transformers that may fail."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if VERSION_TOOLS & set(names_in(node)):
            problems.append(f"line {node.lineno}: a tool for version numbers")
        if isinstance(node, ast.Attribute) and node.attr == "__version__":
            problems.append(f"line {node.lineno}: __version__ of another package")
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0] if node.args else None
            if called in ("hasattr", "getattr") and getattr(first, "id", "") == "transformers":
                problems.append(f"line {node.lineno}: asks what this release of transformers has")
            if called in ("version", "metadata") and getattr(first, "value", "") == "transformers":
                problems.append(f"line {node.lineno}: the version of transformers")
        if isinstance(node, ast.Try) and any("transformers" in set(names_in(part)) for part in ast.walk(node)):
            caught = {getattr(part, "id", "") for handler in node.handlers for part in ast.walk(handler)}
            if caught & {"ImportError", "ModuleNotFoundError", "AttributeError"}:
                problems.append(f"line {node.lineno}: an import of transformers that may fail")
    return problems


def cache_name_problems(source: str) -> list[str]:
    """Uses of the name that the cache has in some releases only; parameters of ours may be called so."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == OLD_CACHE_NAME:
            problems.append(f"line {node.lineno}: read it with cache_of")
        if isinstance(node, ast.keyword) and node.arg == OLD_CACHE_NAME:
            problems.append(f"line {node.lineno}: pass it under CACHE_NAME, cache_argument, or as cache to our own")
        if isinstance(node, ast.Constant) and node.value == OLD_CACHE_NAME:
            problems.append(f"line {node.lineno}: look it up with given_cache")
    return problems


def comment_problems(source: str) -> list[str]:
    """Comments that say what one release of transformers does."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return [
        f"line {token.start[0]}: what a release does is said in {COMPAT.name}"
        for token in comments
        if re.search(r"transformers[ <>=]*5\.\d", token.string)
    ]


RULES = (version_problems, cache_name_problems, comment_problems)


@pytest.mark.parametrize("file", OTHERS, ids=[str(file.relative_to(PACKAGE)) for file in OTHERS])
def test_no_other_file_knows_of_releases(file: Path) -> None:
    assert [problem for rule in RULES for problem in rule(file.read_text())] == []


def test_every_entry_says_when_it_can_go() -> None:
    """A section is headed by a line of dashes; its text names the release, or says that it stays."""
    sections = re.split(r"^# --- ", COMPAT.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 6
    for section in sections:
        text = " ".join(section.replace("#", " ").split())
        assert re.search(r"[Uu]ntil|[Ss]tays", text), section.splitlines()[0]


@pytest.mark.parametrize(
    "source",
    [
        "import transformers\nif transformers.__version__ >= '5.24':\n    pass",
        "from packaging import version",
        "from transformers.utils import is_transformers_version",
        "import importlib.metadata\nimportlib.metadata.version('transformers')",
        "import transformers\nhasattr(transformers, 'MtpCache')",
        "try:\n    from transformers import MtpCache\nexcept ImportError:\n    MtpCache = None",
        "def f(output):\n    return output.past_key_values",
        "def f(model, cache):\n    return model(past_key_values=cache)",
        "def f(kwargs):\n    return kwargs.get('past_key_values')",
        "# transformers 5.20 reads it unasked.\nx = {}",
    ],
)
def test_each_rule_finds_its_counterexample(source: str) -> None:
    assert [problem for rule in RULES for problem in rule(source)]


def test_what_is_allowed() -> None:
    source = (
        "from .version import __version__\nfrom .transformers_compat import cache_of\ntry:\n    import av\n"
        "except ImportError:\n    av = None\n"
        "def forward(past_key_values=None, cache=None):\n    return one_cache(cache, past_key_values)\n"
    )
    assert [problem for rule in RULES for problem in rule(source)] == []
