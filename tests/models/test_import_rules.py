"""The rules that let `models/` travel to the Hub as it stands (docs/architecture.md), read from the sources.

transformers copies a class's file and the files that its relative imports name, found by two regular expressions, into
one flat folder, and refuses to load a file whose other imports are not installed. Each rule has its counterexample.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

import hf_videollm

PACKAGE = Path(hf_videollm.__file__).parent
MODEL_FILES = sorted((PACKAGE / "models").glob("*.py"))
ALL_FILES = sorted(PACKAGE.rglob("*.py"))
# What a process with transformers and torch has; anything else is optional and imported in a `try`.
REQUIRED = {"huggingface_hub", "numpy", "PIL", "safetensors", "torch", "torchvision", "transformers"}
ALLOWED = REQUIRED | sys.stdlib_module_names
# How transformers finds relative imports (transformers/dynamic_module_utils.py).
RELATIVE = re.compile(r"^\s*(?:import\s+\.(\S+)\s*$|from\s+\.(\S+)\s+import)", re.MULTILINE)
# Names of the files in models/, see models/__init__.py.
ROLES = (
    "configuration",
    "modeling",
    "processing",
    "video_processing",
    "feature_extraction",
    "chat_template",
    "pipeline",
)
OWNERS = ("video_llm", "media", "linvt", "iva", "pllava", "videollama2")
OF_ALL = ("errors", "transformers_compat")
# A part may import itself and what stands lower. `moved` knows the others by their names alone.
RANKS = {
    "atomic_claim": -3,
    "atomic_exchange": -3,
    "retry_after": -3,
    "disk_full": -2,
    "atomic": -1,
    "designs": -1,
    "models": 0,
    "version": 0,
    "official": 0,
    "after_import": 0,
    "known_models": 1,
    "origin": 1,
    "pair_check": 1,
    "weight_digest": 1,
    "base_loading": 1.4,
    "training_outputs": 1.6,
    "moved": 2,
    "old_backbones": 2,
    "registration": 2,
    "inference": 2,
    "data": 2,
    "convert": 2,
    "evaluation": 3,
    "costs": 3,
    "hub": 4,
    "synthetic": 4,
    "build": 5,
    "training": 5,
    "__init__": 6,
    "cli": 7,
}


def nodes_outside_try(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, except what is inside a `try` statement."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Try):
            yield child
            yield from nodes_outside_try(child)


def imported_modules(node: ast.AST) -> list[str]:
    """Absolute modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def relative_import_problems(source: str, siblings: set[str]) -> list[str]:
    """Relative imports other than `from .module import name`, and text that transformers takes for one."""
    problems, known = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            known.add(node.module)
            if node.level > 1 or node.module is None or "." in node.module:
                problems.append(f"line {node.lineno}: only `from .module import name` is copied to the Hub")
            elif node.module not in siblings:
                problems.append(f"line {node.lineno}: no file {node.module}.py next to it")
            elif any(alias.name == "*" for alias in node.names):
                problems.append(f"line {node.lineno}: names are imported one by one")
    for match in RELATIVE.finditer(source):
        if (name := match[1] or match[2]) not in known:
            problems.append(f"text that transformers takes for an import of {name}")
    return problems


def foreign_import_problems(source: str) -> list[str]:
    """Imports of what may not be installed, outside `try`; imports of our own package; private names."""
    problems = []
    tree = ast.parse(source)
    for node in nodes_outside_try(tree):
        for module in imported_modules(node):
            if module.split(".")[0] not in ALLOWED:
                problems.append(f"line {node.lineno}: {module} is optional, import it in a try")
    for node in ast.walk(tree):
        modules = imported_modules(node)
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if any(module.split(".")[0] == "hf_videollm" for module in modules):
            problems.append(f"line {node.lineno}: the package is not there when a file is loaded from the Hub")
        for module in modules:
            parts = [*module.split("."), *names]
            if parts[0] == "transformers" and any(part.startswith("_") and not part.startswith("__") for part in parts):
                problems.append(f"line {node.lineno}: a private name of transformers")
    return problems


def config_isinstance_problems(source: str) -> list[str]:
    """`isinstance(x, SomeConfig)`: false for a config loaded as remote code, whose class is another object."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            names = [getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node.args[1])]
            if any(name.endswith("Config") for name in names):
                problems.append(f"line {node.lineno}: {ast.unparse(node)}")
    return problems


def is_named_by_the_rule(name: str) -> bool:
    """The rule of names that `models/__init__.py` states."""
    return name in OF_ALL or re.fullmatch(rf"({'|'.join((*ROLES, *OWNERS))})_[a-z0-9_]+", name) is not None


def part_of(file: Path) -> str:
    """`models`, `data`, ..., or the module's name at the top level."""
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def parts_imported(source: str, file: Path) -> dict[str, int]:
    """Parts of the package that a file imports -> line, whether written absolutely or relatively."""
    package = ["hf_videollm", *file.relative_to(PACKAGE).parts[:-1]]
    parts = {}
    for node in ast.walk(ast.parse(source)):
        modules = imported_modules(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            modules = [".".join(part for part in base if part)]
        if isinstance(node, ast.ImportFrom):
            modules = [f"{module}.{alias.name}" for module in modules for alias in node.names]
        for module in modules:
            top, _, rest = module.partition(".")
            if top == "hf_videollm":
                name = rest.split(".")[0]
                # A name that is no part, as in `from . import __version__`, comes from the package itself.
                parts[name if name in RANKS else "__init__"] = node.lineno
    return parts


def direction_problems(source: str, file: Path) -> list[str]:
    """Imports against the one direction."""
    own = part_of(file)
    wrong = {part: line for part, line in parts_imported(source, file).items() if part != own}
    # The command line may use what the package exports.
    return [
        f"line {line}: {own} imports {part}"
        for part, line in wrong.items()
        if RANKS[part] >= RANKS[own] and not (own == "cli" and part == "__init__")
    ]


by_name = {"argvalues": MODEL_FILES, "ids": [file.name for file in MODEL_FILES]}


@pytest.mark.parametrize("file", **by_name)
def test_relative_imports_are_those_that_transformers_copies(file: Path) -> None:
    siblings = {sibling.stem for sibling in MODEL_FILES}
    assert relative_import_problems(file.read_text(), siblings) == []


@pytest.mark.parametrize("file", **by_name)
def test_foreign_imports_are_installed_or_optional(file: Path) -> None:
    assert foreign_import_problems(file.read_text()) == []


@pytest.mark.parametrize("file", **by_name)
def test_no_isinstance_on_configs(file: Path) -> None:
    assert config_isinstance_problems(file.read_text()) == []


@pytest.mark.parametrize("file", **by_name)
def test_transformers_reads_the_file_as_we_do(file: Path) -> None:
    """Its own functions find existing files of this folder, and no package that may be absent."""
    needed = [Path(name) for name in get_relative_import_files(file)]
    assert set(needed) <= set(MODEL_FILES)
    assert set(get_imports(file)) - ALLOWED == set()


@pytest.mark.parametrize("design", ["pllava"])
def test_every_file_a_checkpoint_needs_is_reached(design: str) -> None:
    """The imports of the model bring its configuration, the shared base and the pipeline along."""
    needed = {Path(name).name for name in get_relative_import_files(PACKAGE / "models" / f"modeling_{design}.py")}
    assert {f"configuration_{design}.py", "modeling_video_llm.py", "pipeline_video_text_to_text.py"} <= needed


@pytest.mark.parametrize("name", [file.stem for file in MODEL_FILES if file.stem != "__init__"])
def test_names_in_models_follow_one_rule(name: str) -> None:
    assert is_named_by_the_rule(name)


@pytest.mark.parametrize("name", ["video_io", "lora_pllava", "eager_attention", "modeling_", "llava_video", "media"])
def test_names_against_the_rule_are_found(name: str) -> None:
    assert not is_named_by_the_rule(name)


def test_the_rule_of_names_is_written_in_the_folder() -> None:
    written = (PACKAGE / "models" / "__init__.py").read_text()
    assert all(f"`{word}`" in written for word in (*ROLES, *OWNERS))
    assert all(f"`{name}.py`" in written for name in OF_ALL)


def test_models_is_flat() -> None:
    assert [path.name for path in (PACKAGE / "models").iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize("file", ALL_FILES, ids=[str(file.relative_to(PACKAGE)) for file in ALL_FILES])
def test_imports_go_one_way(file: Path) -> None:
    assert part_of(file) in RANKS, "say in RANKS where this part stands"
    assert direction_problems(file.read_text(), file) == []


def siblings_imported(source: str, file: Path) -> set[str]:
    """Folders beside the file's own that it imports from."""
    base = ["hf_videollm", *file.relative_to(PACKAGE).parts[:-2]]
    found = set()
    for node in ast.walk(ast.parse(source)):
        modules = imported_modules(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            package = ["hf_videollm", *file.relative_to(PACKAGE).parts[:-1]]
            modules = [".".join([*package[: len(package) - node.level + 1], node.module or ""]).strip(".")]
        for module in modules:
            parts = module.split(".")
            if parts[: len(base)] == base and len(parts) > len(base):
                found.add(parts[len(base)])
    folders = {path.name for path in file.parent.parent.iterdir() if path.is_dir()}
    return (found & folders) - {file.parent.name}


CONVERTERS = sorted((PACKAGE / "convert").glob("*/*.py"))


@pytest.mark.parametrize("file", CONVERTERS, ids=[str(file.relative_to(PACKAGE)) for file in CONVERTERS])
def test_converters_never_import_each_other(file: Path) -> None:
    assert siblings_imported(file.read_text(), file) == set()


@pytest.mark.parametrize(
    "source", ["from ..pllava.config import x", "import hf_videollm.convert.pllava.keys", "from ..pllava import keys"]
)
def test_converters_that_import_each_other_are_found(source: str) -> None:
    file = PACKAGE / "convert" / "ftfv" / "convert.py"
    assert siblings_imported(source, file) == {"pllava"}
    assert siblings_imported("from ..options import Source\nfrom .keys import x", file) == set()


# The rules themselves: each finds its counterexample, and leaves good code alone.


@pytest.mark.parametrize(
    "source",
    [
        "from . import sibling",
        "from ..data import records",
        "from .sub.module import name",
        "from .sibling import *",
        "from .absent import name",
        'def f():\n    """As\n    from .absent import name\n    """',
        "def f():\n    from . import sibling",
    ],
)
def test_bad_relative_imports_are_found(source: str) -> None:
    assert relative_import_problems(source, {"sibling"})


@pytest.mark.parametrize(
    "source",
    [
        "import av",
        "def f():\n    import av",
        "if True:\n    from peft import LoraConfig",
        "try:\n    import hf_videollm.data\nexcept ImportError:\n    pass",
        "from transformers.utils import _private",
        "from transformers._private import name",
    ],
)
def test_bad_foreign_imports_are_found(source: str) -> None:
    assert foreign_import_problems(source)


@pytest.mark.parametrize("argument", ["MyConfig", "(dict, PreTrainedConfig)", "configs.MyConfig", "dict | MyConfig"])
def test_isinstance_on_configs_is_found(argument: str) -> None:
    assert config_isinstance_problems(f"isinstance(config, {argument})")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/a.py", "from ..data.records import read_jsonl"),
        ("models/a.py", "from hf_videollm import load_video"),
        ("data/a.py", "from hf_videollm.hub.checkpoint import save_checkpoint"),
        ("training/a.py", "from ..build import run"),
        ("training/a.py", "from .. import cli"),
        ("hub/a.py", "def f():\n    import hf_videollm.cli.commands"),
    ],
)
def test_wrong_directions_are_found(file: str, source: str) -> None:
    assert direction_problems(source, PACKAGE / file)


def test_good_imports_pass() -> None:
    source = (
        "from __future__ import annotations\nimport os\nimport torch\nfrom transformers.utils import logging\n"
        "from .sibling import (\n    name,\n)\ntry:\n    import av\nexcept ImportError:\n    av = None\n"
        "isinstance(os, dict)\n"
    )
    assert relative_import_problems(source, {"sibling"}) == []
    assert foreign_import_problems(source) == []
    assert config_isinstance_problems(source) == []
    for file, good in {
        "hub/a.py": "from ..data import records\nfrom .atomic import x",
        "cli/commands.py": "from . import load_video\nfrom .hub import info",
    }.items():
        assert direction_problems(good, PACKAGE / file) == []
