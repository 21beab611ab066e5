"""Run the fast tests with the oldest packages that `pyproject.toml` allows: `python tools/floor_tests.py`.

The packages are installed without their dependencies into a temporary folder, which comes before the current
environment on the path. torch and torchvision are not replaced, because a second PyTorch takes 6 GB. With
`--only-transformers`, only transformers is replaced. All other arguments are passed to pytest.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT_VERSION = "import transformers; print(transformers.__version__); print(transformers.__file__)"


# Packages that are not replaced: a second PyTorch takes 6 GB, and the other two have no older release that differs.
KEPT = ("torch", "torchvision", "jinja2", "pyyaml")
# A package that the oldest huggingface_hub needs. Newer ones do not need it, so the current environment lacks it.
ADDED = ("httpx<1",)


def floors(pyproject: Path = REPOSITORY / "pyproject.toml") -> dict[str, str]:
    """The lower bound of every dependency, such as `{"transformers": "5.20"}`.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    found = {}
    for dependency in tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]:
        match = re.match(r"([\w.-]+)\s*>=\s*(\d+(?:\.\d+)*)", dependency)
        if match is None:
            raise ValueError(f"{pyproject}: the dependency {dependency!r} has no lower bound.")
        found[match[1]] = match[2]
    return found


def pinned(package: str, floor: str) -> str:
    """The requirement for the newest patch release of a version: `5.20` -> `package==5.20.*`."""
    return f"{package}=={floor}" + (".*" if floor.count(".") < 2 else "")


def install(requirements: Sequence[str], folder: str, with_dependencies: bool = False) -> None:
    """Install packages into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    alone = [] if with_dependencies else ["--no-deps"]
    subprocess.run([*command, *alone, "--target", folder, *requirements], check=True)


def check_import(floor: str, folder: str, environment: dict[str, str]) -> None:
    """Check that the tests will import the oldest version.

    Raises:
        RuntimeError: another version or another installation is imported.
    """
    command = [sys.executable, "-c", REPORT_VERSION]
    result = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    version, file = result.stdout.split("\n")[:2]
    if not f"{version}.".startswith(f"{floor}.") or not Path(file).resolve().is_relative_to(Path(folder).resolve()):
        raise RuntimeError(f"Expected transformers {floor} in {folder}, but {version} is imported from {file}.")
    print(f"Testing on transformers {version}", flush=True)


def main(arguments: list[str]) -> int:
    """Install the packages, check them, and run the tests; return pytest's exit code."""
    oldest = {package: floor for package, floor in floors().items() if package not in KEPT}
    if "--only-transformers" in arguments:
        arguments.remove("--only-transformers")
        oldest = {"transformers": oldest["transformers"]}
    with tempfile.TemporaryDirectory(prefix="hf_videollm_floor_") as folder:
        if "huggingface_hub" in oldest:
            install(ADDED, folder, with_dependencies=True)
        install([pinned(package, floor) for package, floor in oldest.items()], folder)
        print("Floors: " + ", ".join(f"{package} {floor}" for package, floor in oldest.items()), flush=True)
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        check_import(oldest["transformers"], folder, environment)
        # Without pytest's cache, which would otherwise forget which tests failed with the newest releases.
        options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not hub"]
        chosen = any((REPOSITORY / argument.partition("::")[0]).exists() for argument in arguments)
        command = [sys.executable, "-m", "pytest", *options, *arguments, *([] if chosen else ["tests"])]
        return subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
