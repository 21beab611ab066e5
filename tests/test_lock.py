"""The versions that were tested are written down, fit the declared bounds, and are what the make targets install."""

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "tools"))

from lock import LOCK, canonical, differences, read_lock, render  # noqa: E402

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def declared(*extras: str) -> list[Requirement]:
    """The dependencies and those of extras, which may name each other."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = []
    for requirement in map(Requirement, lines):
        found += declared_by(requirement) if requirement.name == PROJECT["name"] else [requirement]
    return found


def declared_by(requirement: Requirement) -> list[Requirement]:
    return [inner for extra in sorted(requirement.extras) for inner in declared(extra)]


@pytest.mark.parametrize("requirement", declared("dev", "docs", "torchao"), ids=str)
def test_the_lock_fits_the_declared_bounds(requirement: Requirement) -> None:
    locked = read_lock()[canonical(requirement.name)]
    assert requirement.specifier.contains(locked, prereleases=True)


def test_a_lock_that_does_not_fit_would_be_seen() -> None:
    """A control of the test above."""
    assert not Requirement("transformers>=5.20").specifier.contains("5.19.9")


def test_everything_that_make_installs_comes_from_the_lock() -> None:
    """Also pip itself and the build backend."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    settings = dict(line.split(" := ", 1) for line in makefile.splitlines() if " := " in line)
    assert REPOSITORY / settings["LOCK"] == LOCK
    assert "--constraint $(LOCK) --build-constraint $(LOCK)" in settings["PIP_INSTALL"]
    installing = [
        line for line in makefile.splitlines() if line.startswith(("\t$(BIN)/python -m pip", "\t$(PIP_INSTALL)"))
    ]
    assert len(installing) == 6  # pip, the package, three extras, and torchao
    assert all("$(LOCK)" in line or "$(PIP_INSTALL)" in line for line in installing)
    others = [line for line in makefile.splitlines() if line not in installing and not line.startswith("PIP_INSTALL")]
    assert not any("pip install" in line for line in others)
    assert {"pip", "hatchling", "torch", "transformers", "ruff", "mypy", "pytest"} <= read_lock().keys()


def test_what_is_older_is_told() -> None:
    locked = {"a": "1.0", "b": "2.0", "gone": "1"}
    newest = {"a": "1.1", "b": "2.0", "new": "3"}
    assert differences(locked, newest) == [("a", "1.0", "1.1"), ("gone", "1", "-"), ("new", "-", "3")]
    assert not differences(locked, locked)


def test_a_lock_is_read_as_it_is_written(tmp_path: Path) -> None:
    versions = {"huggingface-hub": "2.4.0", "numpy": "2.4.6"}
    path = tmp_path / "locked.txt"
    path.write_text(render(versions))
    assert read_lock(path) == versions
    path.write_text("numpy>=2.0\n")
    with pytest.raises(ValueError, match=r"locked\.txt: 'numpy>=2\.0'"):
        read_lock(path)
