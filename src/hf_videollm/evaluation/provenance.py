"""Where a result comes from: model, versions, code and machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .settings import fingerprint

__all__ = ["PACKAGES", "command_line", "git_revision", "machine", "model_facts", "now", "package_versions"]

# Packages whose release may change an answer or a score.
PACKAGES = ("hf_videollm", "transformers", "torch", "torchvision", "tokenizers", "av", "numpy", "pillow", "evaluate")


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Name -> version of the packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "hf_videollm":
                from ..version import __version__

                versions[name] = __version__
    return versions


def git_revision(folder: Path | None = None) -> str | None:
    """Commit of the checkout that this package runs from, with `-dirty` if files differ; None without a checkout."""
    place = Path(__file__).parent if folder is None else folder
    if not any((parent / ".git").exists() for parent in (place, *place.parents)):
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(place), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        # An installed package may lie below a checkout of something else.
        if not git("ls-files", "--", str(place)):
            return None
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """The time, to the second, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def model_facts(pipe: Any, source: str) -> dict[str, Any]:
    """Model, revision, precision and attention of a loaded pipeline.

    Args:
        pipe: from `load_pipeline`.
        source: what the user called the model.
    """
    model, config = pipe.model, pipe.model.config
    name = str(config.name_or_path or source)
    return {
        "model": source,
        "path": name,
        "revision": getattr(config, "_commit_hash", None) or folder_revision(name),
        "design": config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "lora_alpha": config.lora_alpha,
        "chat_template": fingerprint(str(pipe.processor.chat_template)),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def folder_revision(name: str) -> str | None:
    """A name of what a local checkpoint holds: a hash of its files' names, sizes and configuration.

    Weights are not read, because that would take minutes for large models. `lora_alpha` in config.json does not count:
    a run names the alpha that it had, whether the folder, an option or a sweep has set it, and a sweep that records the
    best one must be able to go on.
    """
    import hashlib

    folder = Path(name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        content = path.read_bytes() if path.suffix in (".json", ".jinja") and size < 1 << 20 else b""
        if path.name == "config.json" and (changed := _without_alpha(content)) is not None:
            content, size = changed, len(changed)
        digest.update(f"{path.name} {size}\n".encode())
        digest.update(content)
    return f"folder-{digest.hexdigest()[:16]}"


def _without_alpha(content: bytes) -> bytes | None:
    """The text of a configuration without the LoRA's alpha; None where it has none."""
    import json

    try:
        config = json.loads(content)
    except ValueError:
        return None
    if not isinstance(config, dict) or "lora_alpha" not in config:
        return None
    del config["lora_alpha"]
    return json.dumps(config, sort_keys=True).encode()


def machine() -> dict[str, Any]:
    """Operating system, Python and processor or GPU."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count(), "gpus": gpus}


def command_line() -> list[str]:
    """What this process was started with, as one would write it: torchrun and `python -m` give the path of a file."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return ["python", "-m", program.parent.name, *sys.argv[1:]]
    return [program.name, *sys.argv[1:]]
