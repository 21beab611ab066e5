"""Functions that mkdocs calls: they add equations, links to source files, and the pages of the API reference.

- A fenced block ```` ```math ```` becomes MathML, which browsers show without a script (GitHub shows the same block).
- A relative link out of `docs/`, for example to a source file, leads to a copy of this file on the site.
- The reference has one page for the package and one for each of its public subpackages. It lists the names in `__all__`
  of the modules. They are read from the source text, so neither torch nor transformers is imported.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "hf_videollm"
# Subpackages from which users import. The names of `models` are also in the package itself, and `cli` is the command
# line.
SUBPACKAGES = ("build", "convert", "costs", "data", "evaluation", "hub", "serving", "synthetic", "training")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"^(`{3,}).*?^\1\s*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".md": "markdown"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Register the blocks ```` ```math ````, and add the reference to the navigation."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": format_math})
    assert config.nav is not None
    config.nav.append({"Reference": [{module: f"api/{module}.md"} for module, _ in reference_pages()]})
    return config


def format_math(source: str, language: str, class_name: str, options: Any, md: Any, **kwargs: Any) -> str:
    """The HTML of one block of LaTeX."""
    style = "overflow: auto hidden; padding: 0.2em 0"
    equation = convert(source.strip(), display="block")
    return f'<div class="math" style="{style}" title="{escape(source.strip())}">{equation}</div>'


# Links out of docs/


def outside_links(page: str, markdown: str) -> Iterator[tuple[str, str]]:
    """(target as written, path in the repository) of every relative link of a page that leaves `docs/`."""
    for _, target, _ in LINK.findall(CODE.sub("", markdown)):
        if re.match(r"[a-z]+:", target) or target.startswith("/"):
            continue
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if not path.startswith("docs/"):
            yield target, path


def source_page(path: str) -> str:
    """The page on the site that shows a file of the repository."""
    return f"source/{path}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference and a copy of every file outside `docs/` that a page links to."""
    for module, content in reference_pages():
        files.append(File.generated(config, f"api/{module}.md", content=content))
    for page in list(files.documentation_pages()):
        for target, path in outside_links(page.src_uri, page.content_string):
            if files.get_file_from_path(source_page(path)) is None:
                files.append(File.generated(config, source_page(path), content=show_file(page.src_uri, target, path)))
    return files


def show_file(page: str, target: str, path: str) -> str:
    """The text of a file of the repository as a page."""
    file = REPOSITORY / path
    if not file.is_file():
        raise PluginError(f"{page} links to {target}, but {path} is no file of the repository.")
    language = LANGUAGES.get(file.suffix, "text")
    text = file.read_text(encoding="utf-8")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n``````{language}\n{text.rstrip()}\n``````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change links to files outside `docs/` into links to their copies."""
    uri = page.file.src_uri
    targets = dict(outside_links(uri, markdown))

    def redirect(match: re.Match[str]) -> str:
        path = targets.get(match[2])
        if path is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(source_page(path), posixpath.dirname(uri) or '.')}{match[3]}"

    return LINK.sub(redirect, markdown)


# Reference


def reference_pages() -> list[tuple[str, str]]:
    """(module, Markdown) of every page of the reference."""
    pages = [("hf_videollm", package_page())]
    for name in SUBPACKAGES:
        modules = [file for file in sorted((PACKAGE / name).rglob("*.py")) if public_names(file)]
        if modules:
            pages.append((f"hf_videollm.{name}", subpackage_page(name, modules)))
    return pages


def package_page() -> str:
    """The page with the public names of the package, each with the module that defines it."""
    homes = imported_names(PACKAGE / "__init__.py")
    lines = ["# hf_videollm", "", docstring(PACKAGE / "__init__.py"), ""]
    for name in public_names(PACKAGE / "__init__.py"):
        if name.startswith("__"):
            continue
        if name not in homes:
            raise PluginError(f"hf_videollm.__all__ names {name}, which its __init__.py imports from no module.")
        lines += [f"::: {homes[name]}.{name}", ""]
    return "\n".join(lines)


def subpackage_page(name: str, modules: list[Path]) -> str:
    """The page with the public names of the modules of a subpackage."""
    own = docstring(PACKAGE / name / "__init__.py")
    lines = [f"# hf_videollm.{name}", "", own, ""]
    for file in modules:
        module = module_name(file)
        if file.name == "__init__.py":
            continue
        lines += [f"## {module.removeprefix('hf_videollm.')}", "", f"::: {module}", "    options:"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
    return "\n".join(lines)


def module_name(file: Path) -> str:
    """The name under which a file of the package is imported."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstring(file: Path) -> str:
    """The docstring of a module, read from its source."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def public_names(file: Path) -> list[str]:
    """`__all__` of a module, read from its source; an empty list if there is none."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def imported_names(file: Path) -> dict[str, str]:
    """Maps each name that a file imports to the module it comes from, also inside `if TYPE_CHECKING:`."""
    homes = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            homes |= {alias.name: f"hf_videollm.{node.module}" for alias in node.names}
    return homes
