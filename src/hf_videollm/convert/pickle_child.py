"""The tensors of one pickle -> safetensors files, in a process of its own that can do little harm.

`pickle_reader` runs this file by its path, so nothing of the package is imported here:

    python pickle_child.py FILE FOLDER

Data are mapped from the file and written from there, so memory holds no checkpoint. What cannot be read is said in one
line on stdout; the exit code is then 3.
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
# What small checkpoints may need beyond the size of their file.
SLACK = 64 * 2**20


class RefusedError(Exception):
    """The file holds something that is not copied."""


def limit_resources(size: int) -> None:
    """Bound memory, output and computing time by the size of the file, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    statistics = Path("/proc/self/statm")
    limits = {"RLIMIT_FSIZE": 2 * size + SLACK, "RLIMIT_CPU": 120 + size // 10**7, "RLIMIT_CORE": 0}
    if statistics.is_file():
        used = int(statistics.read_text().split()[0]) * resource.getpagesize()
        # The mapped file, a copy of it (files in the format before PyTorch 1.6 cannot be mapped), and room to work.
        limits["RLIMIT_AS"] = used + 2 * size + 2**31
    for name, value in limits.items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bounded, bounded))


def load(file: Path) -> Any:
    """The content, of which only tensors and plain containers are built."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def take_apart(content: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by name, and the settings that BEATs checkpoints carry beside them: `{"cfg": ..., "model": ...}`."""
    settings: dict[str, Any] = {}
    if isinstance(content, dict) and set(content) == {"cfg", "model"}:
        settings, content = content["cfg"], content["model"]
        if not isinstance(settings, dict):
            raise RefusedError("its 'cfg' is no table of settings")
        plain = (bool, int, float, str, type(None))
        settings = {name: value for name, value in settings.items() if isinstance(value, plain)}
    if not isinstance(content, dict) or not content:
        raise RefusedError(f"it holds a {type(content).__name__} instead of named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise RefusedError(f"its entry {name!r:.80} is no tensor but a {type(value).__name__}")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise RefusedError(f"its tensor {name!r:.80} is sparse, quantized or empty of data")
    return content, settings


def check_sizes(tensors: dict[str, torch.Tensor], size: int) -> None:
    """A few bytes can describe a tensor of any size, by repeating them: such a file would fill the disk."""
    sizes = {name: math.prod(tensor.shape) * tensor.element_size() for name, tensor in tensors.items()}
    for name, bytes_needed in sizes.items():
        if bytes_needed > size:
            raise RefusedError(f"its tensor {name!r:.80} would need {bytes_needed:,} bytes, more than the whole file")
    if sum(sizes.values()) > 2 * size + SLACK:
        raise RefusedError(f"its tensors would need {sum(sizes.values()):,} bytes, many times the file")


def write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the tensors; those that share memory land in different files, as safetensors wants it."""
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
    """Copy the tensors of `file` into `folder`, and its settings beside them.

    Raises:
        RefusedError: it holds something that is not copied.
        Exception: whatever a hostile file provokes.
    """
    tensors, settings = take_apart(load(file))
    check_sizes(tensors, file.stat().st_size)
    write(tensors, folder)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def main(file: Path, folder: Path) -> int:
    """`copy` with bounded resources; the exit code is returned."""
    try:
        limit_resources(file.stat().st_size)
        copy(file, folder)
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
