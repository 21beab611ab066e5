"""Which versions of the dependencies were tested: `python tools/lock.py` writes `requirements/locked.txt`.

pip resolves the newest releases that `pyproject.toml` allows, without installing anything. The result is a file of
constraints: it says which version is installed of what is needed, and nothing about what is needed. One file serves all
Python versions that it is checked for (`--check`): pip must find a wheel of every package for each.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LOCK = REPOSITORY / "requirements" / "locked.txt"
# pip itself and the build backend are locked too: they decide how everything else is installed.
TOOLS = ("pip", "hatchling", "editables")
EXTRAS = "[dev,docs,torchao]"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HEADER = """\
# Written by `make lock` on {date} with Python {python} on {machine}; do not edit.
# Constraints for pip: the versions that the tests ran with. `pip install hf-videollm` does not read them.
"""


def canonical(name: str) -> str:
    """The one spelling of a package name: `huggingface_hub` -> `huggingface-hub`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions_in(report: dict[str, Any]) -> dict[str, str]:
    """Package -> version of pip's installation report, without this project."""
    rows = [item["metadata"] for item in report["install"]]
    found = {canonical(row["name"]): row["version"] for row in rows}
    found.pop("hf-videollm", None)
    return dict(sorted(found.items()))


def resolve(*options: str) -> dict[str, str]:
    """The releases that pip would install for the development of this project.

    Args:
        options: further options of `pip install`.

    Raises:
        subprocess.CalledProcessError: pip found no solution; its reasons are on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), *options, *TOOLS, f"{REPOSITORY}{EXTRAS}"]
        subprocess.run(command, check=True)
        return versions_in(json.loads(report.read_text(encoding="utf-8")))


def read_lock(path: Path = LOCK) -> dict[str, str]:
    """Package -> version of a lock.

    Raises:
        ValueError: a line is no `package==version`.
    """
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w.-]+)==(\S+)", line)
        if match is None:
            raise ValueError(f"{path}: {line!r} is not of the form package==version; write the file with `make lock`.")
        found[canonical(match[1])] = match[2]
    return found


def render(versions: dict[str, str]) -> str:
    """The text of a lock."""
    header = HEADER.format(
        date=datetime.now(UTC).date(), python=platform.python_version(), machine=f"{sys.platform} {platform.machine()}"
    )
    return header + "".join(f"{name}=={version}\n" for name, version in versions.items())


def differences(locked: dict[str, str], newest: dict[str, str]) -> list[tuple[str, str, str]]:
    """Packages whose version differs: name, locked version, newest version ("-" where there is none)."""
    names = sorted(locked.keys() | newest.keys())
    rows = [(name, locked.get(name, "-"), newest.get(name, "-")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def check_pythons() -> None:
    """Ask pip for a solution of the lock on every Python version, as wheels.

    Raises:
        subprocess.CalledProcessError: a locked package has no wheel for one of them.
    """
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--constraint", str(LOCK), "--python-version", python, "--only-binary", ":all:"]
            resolve(*options, "--target", folder)
        print(f"Python {python}: every locked package has a wheel.")


def main() -> None:
    """Write the lock, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only ask whether the lock can be installed")
    if not parser.parse_args().check:
        before = read_lock() if LOCK.exists() else {}
        newest = resolve()
        LOCK.parent.mkdir(exist_ok=True)
        LOCK.write_text(render(newest), encoding="utf-8")
        for name, old, new in differences(before, newest):
            print(f"{name}: {old} -> {new}")
        print(f"Wrote {LOCK.relative_to(REPOSITORY)} ({len(newest)} packages).")
    check_pythons()


if __name__ == "__main__":
    main()
