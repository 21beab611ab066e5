"""Run the fast tests with the newest releases of everything: `python tools/newest_tests.py`.

Releases that are newer than the lock file are printed. They are installed without dependencies into a temporary folder,
which comes before the current environment on the path, so the environment itself does not change. All arguments are
passed to pytest. An old lock file is reported, but is not a failure; `make lock` updates it.
"""

import os
import subprocess
import sys
import tempfile

from floor_tests import REPOSITORY, install
from lock import differences, read_lock, resolve

OPTIONS = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not hub", "tests"]
# Packages that are not installed. If torchao is installed, transformers prints notices on import, and tests check the
# printed text.
LEFT_OUT = ("pip", "torchao")


def find_newest() -> dict[str, str]:
    """The newest releases that pip may install here; print those that this machine's configuration holds back."""
    newest = resolve()
    constraint = os.environ.pop("PIP_CONSTRAINT", None)
    try:
        os.environ["PIP_CONSTRAINT"] = ""
        unbound = resolve()
    finally:
        os.environ.pop("PIP_CONSTRAINT")
        if constraint is not None:
            os.environ["PIP_CONSTRAINT"] = constraint
    for name, taken, released in differences(newest, unbound):
        print(f"held back by the pip configuration of this machine: {name} {taken}, newest {released}", flush=True)
    return newest


def report(older: list[tuple[str, str, str]]) -> None:
    """Print the packages whose newest release is not in the lock file."""
    if not older:
        print("requirements/locked.txt holds the newest releases.", flush=True)
        return
    print("requirements/locked.txt is older than the newest releases (`make lock` updates it):", flush=True)
    for name, locked, newest in older:
        print(f"  {name}: locked {locked}, newest {newest}", flush=True)


def main(arguments: list[str]) -> int:
    """Report old locks, install the newest releases, and run the tests; return pytest's exit code."""
    older = differences(read_lock(), find_newest())
    report(older)
    with tempfile.TemporaryDirectory(prefix="hf_videollm_newest_") as folder:
        newer = [f"{name}=={version}" for name, _, version in older if version != "-" and name not in LEFT_OUT]
        if newer:
            install(newer, folder)
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # Without pytest's cache, which would otherwise forget which tests failed with the locked versions.
        command = [sys.executable, "-m", "pytest", *OPTIONS, *arguments]
        return subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
