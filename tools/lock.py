"""Write the versions of the dependencies for the tests into `requirements/locked.txt`: `python tools/lock.py`.

pip resolves the newest releases that `pyproject.toml` allows, without installing anything. The result is a constraints
file: if a package is installed, pip installs this version. One file is used for several Python versions. It is checked
(`--check`) that pip finds a wheel of every package for each of them.
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
# pip and the build backend are locked, too, because they determine how everything else is installed.
TOOLS = ("pip", "hatchling", "editables")
EXTRAS = "[dev,docs,torchao]"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HEADER = """\
# Written by `make lock` on {date} with Python {python} on {machine}; do not edit.
# Constraints for pip: the versions that the tests ran with. `pip install hf-videollm` does not read them.
"""


def canonical(name: str) -> str:
    """The normalised name of a package: `huggingface_hub` -> `huggingface-hub`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions_in(report: dict[str, Any]) -> dict[str, str]:
    """Maps package to version, from pip's installation report, without this project."""
    rows = [item["metadata"] for item in report["install"]]
    found = {canonical(row["name"]): row["version"] for row in rows}
    found.pop("hf-videollm", None)
    return dict(sorted(found.items()))


def resolve(*options: str) -> dict[str, str]:
    """The releases that pip would install for the development of this project.

    Args:
        options: additional options of `pip install`.

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
    """Maps package to version, from a lock file.

    Raises:
        ValueError: a line does not have the form `package==version`.
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
    """The text of a lock file."""
    header = HEADER.format(
        date=datetime.now(UTC).date(), python=platform.python_version(), machine=f"{sys.platform} {platform.machine()}"
    )
    return header + "".join(f"{name}=={version}\n" for name, version in versions.items())


def differences(locked: dict[str, str], newest: dict[str, str]) -> list[tuple[str, str, str]]:
    """Packages whose versions differ: name, locked version, newest version ("-" if there is none)."""
    names = sorted(locked.keys() | newest.keys())
    rows = [(name, locked.get(name, "-"), newest.get(name, "-")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def check_pythons() -> None:
    """Check with pip that the lock file can be installed from wheels on every Python version.

    Raises:
        subprocess.CalledProcessError: a locked package has no wheel for one of them.
    """
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--constraint", str(LOCK), "--python-version", python, "--only-binary", ":all:"]
            resolve(*options, "--target", folder)
        print(f"Python {python}: every locked package has a wheel.")


def main() -> None:
    """Write the lock file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check whether the lock file can be installed")
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
