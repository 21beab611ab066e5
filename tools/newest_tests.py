"""Run the fast tests on the newest releases of everything: `python tools/newest_tests.py`.

What is newer than the lock is printed, then installed without dependencies into a temporary folder that goes before the
present environment on the path, so that this environment stays as it is locked. Further arguments go to pytest.
A lock that is older than the newest release is no failure, but it is told: `make lock` brings it up to date.
"""

import os
import subprocess
import sys
import tempfile

from floor_tests import REPOSITORY, install
from lock import differences, read_lock, resolve

OPTIONS = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not hub", "tests"]
# transformers prints notices on import where there is a torchao, and the tests look at what is printed.
LEFT_OUT = ("pip", "torchao")


def find_newest() -> dict[str, str]:
    """The newest releases, and a line for each that a constraint of this machine's pip holds back."""
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
    """Say what the lock lacks."""
    if not older:
        print("requirements/locked.txt holds the newest releases.", flush=True)
        return
    print("requirements/locked.txt is older than the newest releases (`make lock` brings it up to date):", flush=True)
    for name, locked, newest in older:
        print(f"  {name}: locked {locked}, newest {newest}", flush=True)


def main(arguments: list[str]) -> int:
    """Report, install, test; the exit code is pytest's."""
    older = differences(read_lock(), find_newest())
    report(older)
    with tempfile.TemporaryDirectory(prefix="hf_videollm_newest_") as folder:
        newer = [f"{name}=={version}" for name, _, version in older if version != "-" and name not in LEFT_OUT]
        if newer:
            install(newer, folder)
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # No cache folder: it would forget which tests failed on the locked versions.
        command = [sys.executable, "-m", "pytest", *OPTIONS, *arguments]
        return subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
