"""What every result says about its run: machine, versions, revision, date, method. Imports no heavy library.

The load of the machine is taken when this module is imported, which is before anything is measured, and at the end.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# Counts up when the meaning of a field changes.
FORM = 1
PACKAGES = ("hf_videollm", "torch", "transformers", "av", "numpy", "safetensors", "bitsandbytes", "torchao", "timm")
_run: dict[str, Any] = {}


def begin() -> None:
    """A run begins now. Importing this module begins one, too."""
    _run.update(began=time.monotonic(), load=load(), revision=revision())


def load() -> float | None:
    """Processes that run or wait, in the mean of the last minute; `None` where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_model() -> str:
    """The name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def memory_gib() -> float | None:
    """Memory of the machine; `None` where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def in_mib(size: int) -> float:
    """Bytes in MiB, as the results give them."""
    return round(size / 2**20, 1)


def gpu_name() -> str | None:
    """The name of the GPU, if torch is loaded and sees one. A benchmark without torch does not load it for this."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


def hardware() -> dict[str, Any]:
    """The machine, and how busy it was before and after the run."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "gpu": gpu_name(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": _run["load"],
        "load_after": load(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter here; `None` for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["hf_videollm"] is None and (package := sys.modules.get("hf_videollm")) is not None:
        found["hf_videollm"] = package.__version__
    return found


def revision(repository: Path = REPOSITORY) -> str | None:
    """The commit that was measured, with a digest of what was changed since; `None` outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        changes = git("diff", "HEAD", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit


def complete(content: Mapping[str, Any], name: str, machine: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The result with what the common form needs. What the benchmark has written itself is kept.

    Args:
        content: what was measured, under `results`, and facts of the benchmark's own.
        name: name of the benchmark.
        machine: name of the machine, from the user.
        arguments: those of the benchmark's command line.
    """
    facts: dict[str, Any] = {
        "form": FORM,
        "benchmark": name,
        "machine": machine,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _run["revision"],
        "arguments": own_arguments(arguments),
        "seconds": round(time.monotonic() - _run["began"], 1),
        "hardware": hardware(),
        "method": {},
    }
    own = {key: value for key, value in content.items() if key not in ("versions", "results")}
    return {
        **facts,
        **own,
        "versions": {**versions(), **content.get("versions", {})},
        "results": content["results"],
    }


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what is measured, without those that say where the result goes and how to call the
    machine."""
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("--out", "--machine"):
            rest[:1] = []
        elif not argument.startswith(("--out=", "--machine=")):
            kept.append(argument)
    return kept


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result, which appears as a whole: a run that is killed leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


begin()
