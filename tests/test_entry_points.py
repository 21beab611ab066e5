"""Every module that can be run with `python -m` runs without a warning, also one of the interpreter."""

import re
import subprocess
from pathlib import Path

import pytest
import ready_python

import hf_videollm

PACKAGE = Path(hf_videollm.__file__).parent
# Another process starts it, with two files; it has no help.
WITHOUT_HELP = ("hf_videollm.convert.pickle_child",)


def entry_points(package: Path) -> list[str]:
    """Names that `python -m` runs: packages with `__main__.py`, and modules that ask for their own name."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if path.name == "__main__.py":
            found.append(".".join(parts[:-1]))
        elif re.search(r"^if __name__ == \"__main__\":$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.append(".".join(parts))
    return found


def run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = [] if name in WITHOUT_HELP else ["--help"]
    return ready_python.run("-m", name, *arguments, cwd=folder)


def test_the_entry_points_are_found() -> None:
    found = entry_points(PACKAGE)
    assert {"hf_videollm.cli", "hf_videollm.synthetic.benchmarks", "hf_videollm.synthetic.clips"} <= set(found)
    assert set(WITHOUT_HELP) <= set(found)


@pytest.mark.parametrize("name", entry_points(PACKAGE))
def test_an_entry_point_says_nothing_on_stderr(name: str, tmp_path: Path) -> None:
    result = run(name, tmp_path)
    assert "Warning" not in result.stderr, result.stderr
    if name not in WITHOUT_HELP:
        assert (result.returncode, result.stderr) == (0, "")
        assert "usage" in result.stdout.lower()


def test_the_warning_of_runpy_would_be_seen(tmp_path: Path) -> None:
    """The control: a package that imports the module which is then run."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import command\n")
    (package / "command.py").write_text('if __name__ == "__main__":\n    print("usage")\n')
    assert entry_points(package) == ["package.command"]
    result = run("package.command", tmp_path)
    assert result.returncode == 0
    assert "RuntimeWarning" in result.stderr
