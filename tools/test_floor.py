"""Run the fast tests on the oldest transformers that `pyproject.toml` allows: `python tools/test_floor.py`.

Only transformers itself is installed, into a temporary folder that goes before the present environment on the path.
A whole second environment would mean a second PyTorch, which is 6 GB. What this does not test is therefore the floors
of the other packages. Further arguments go to pytest.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT_VERSION = "import transformers; print(transformers.__version__); print(transformers.__file__)"


def floor_of(package: str, pyproject: Path = REPOSITORY / "pyproject.toml") -> str:
    """The lower bound of a dependency, e.g. `5.20`.

    Raises:
        ValueError: the package is no dependency or has no lower bound.
    """
    dependencies = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    for dependency in dependencies:
        if match := re.match(rf"{re.escape(package)}\s*>=\s*(\d+(?:\.\d+)*)", dependency):
            return match[1]
    raise ValueError(f"{pyproject} has no line `{package}>=...` among its dependencies.")


def install(requirement: str, folder: str) -> None:
    """Install one package, without its dependencies, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", folder, requirement], check=True)


def check_import(floor: str, folder: str, environment: dict[str, str]) -> None:
    """Make sure that the tests will see the floor version.

    Raises:
        RuntimeError: another version, or another installation, is imported.
    """
    command = [sys.executable, "-c", REPORT_VERSION]
    result = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    version, file = result.stdout.split("\n")[:2]
    if not f"{version}.".startswith(f"{floor}.") or not Path(file).resolve().is_relative_to(Path(folder).resolve()):
        raise RuntimeError(f"Expected transformers {floor} in {folder}, but {version} is imported from {file}.")
    print(f"Testing on transformers {version}", flush=True)


def main(arguments: list[str]) -> int:
    """Install, check, test; the exit code is pytest's."""
    floor = floor_of("transformers")
    with tempfile.TemporaryDirectory(prefix="hf_videollm_floor_") as folder:
        install(f"transformers=={floor}" + (".*" if floor.count(".") < 2 else ""), folder)
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        check_import(floor, folder, environment)
        # No cache folder: it would forget which tests failed on the newest release.
        options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not hub", "tests"]
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        return subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
