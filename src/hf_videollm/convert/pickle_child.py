"""Copies the tensors of one pickle to safetensors files, in a separate process that can do little harm.

`pickle_reader` runs this file by its path, so it imports nothing of the package:

    python pickle_child.py FILE FOLDER

The data are mapped from the file and written from there, so the checkpoint is never in memory as a whole. If the file
cannot be read, the reason is one line on stdout, and the exit code is 3.
"""

import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

REFUSED = 3
# Additional bytes that are allowed beyond the size of the file, which small checkpoints may need.
SLACK = 64 * 2**20


class RefusedError(Exception):
    """The file holds something that is not copied to safetensors."""


def limit_resources(size: int) -> None:
    """Limit memory, output and processor time according to the size of the file, if the system can do that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    statistics = Path("/proc/self/statm")
    limits = {"RLIMIT_FSIZE": 2 * size + SLACK, "RLIMIT_CPU": 120 + size // 10**7, "RLIMIT_CORE": 0}
    if statistics.is_file():
        used = int(statistics.read_text().split()[0]) * resource.getpagesize()
        # Memory for the mapped file, for a copy (files in the format before PyTorch 1.6 cannot be mapped), and 2 GiB
        # more.
        limits["RLIMIT_AS"] = used + 2 * size + 2**31
    for name, value in limits.items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bounded, bounded))


def load(file: Path) -> Any:
    """Load the content of the file. Only tensors and plain containers are built."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def take_apart(content: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Separate tensors and settings. BEATs checkpoints have both: `{"cfg": ..., "model": ...}`."""
    settings: dict[str, Any] = {}
    if isinstance(content, dict) and set(content) == {"cfg", "model"}:
        settings, content = content["cfg"], content["model"]
        if not isinstance(settings, dict):
            raise RefusedError("its 'cfg' is not a dict of settings")
        plain = (bool, int, float, str, type(None))
        settings = {name: value for name, value in settings.items() if isinstance(value, plain)}
    if not isinstance(content, dict) or not content:
        raise RefusedError(f"it holds a {type(content).__name__} instead of named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise RefusedError(f"its entry {name!r:.80} is not a tensor but a {type(value).__name__}")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise RefusedError(f"its tensor {name!r:.80} is sparse, quantized or without data")
    return content, settings


def check_sizes(tensors: dict[str, torch.Tensor], size: int) -> None:
    """Refuse tensors that are larger than the file.

    A pickle can describe a huge tensor by repeating a few bytes. A copy of this tensor would fill the disk.
    """
    sizes = {name: math.prod(tensor.shape) * tensor.element_size() for name, tensor in tensors.items()}
    for name, bytes_needed in sizes.items():
        if bytes_needed > size:
            raise RefusedError(f"its tensor {name!r:.80} would need {bytes_needed:,} bytes, more than the whole file")
    if sum(sizes.values()) > 2 * size + SLACK:
        raise RefusedError(f"its tensors would need {sum(sizes.values()):,} bytes, many times the file")


def write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the tensors. Tensors that share memory go into different files, because safetensors requires that."""
    files: list[dict[str, torch.Tensor]] = []
    seen: dict[int, int] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        number = seen[memory] = seen.get(memory, -1) + 1
        if number == len(files):
            files.append({})
        files[number][name] = tensor.detach().contiguous()
    for number, part in enumerate(files):
        save_file(part, folder / f"{number:05}.safetensors")


def copy(file: Path, folder: Path) -> None:
    """Copy the tensors and the settings of `file` into `folder`.

    Raises:
        RefusedError: the file holds something that is not copied.
        Exception: any error that a malicious file causes.
    """
    tensors, settings = take_apart(load(file))
    check_sizes(tensors, file.stat().st_size)
    write(tensors, folder)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def main(file: Path, folder: Path) -> int:
    """Run `copy` with limited resources, and return the exit code."""
    try:
        limit_resources(file.stat().st_size)
        copy(file, folder)
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
