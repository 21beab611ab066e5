"""Reads pickled checkpoints (.bin, .pt) in a child process, never in this process.

A pickle is a program. `torch.load(weights_only=True)` runs only the parts that build tensors. If a malicious file
bypasses this, it does so in a process with limited memory and time, whose only result are safetensors files.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import INDEX_NAME, check_file, check_headers, check_values, find_weight_files
from .stream import (
    StoredTensor,
    StoredWeights,
    has_safetensors,
    read_header,
    read_index,
    read_json,
    refuse_pointer,
    scan_weights,
)

CHILD = Path(__file__).with_name("pickle_child.py")
PICKLE_NAME, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLE_SHARDS = "pytorch_model-0*.bin"
SHARD_NAME = re.compile(r"pytorch_model-(\d+)-of-(\d+)\.bin")
# The time limit for a file: seconds for the start of the child, and bytes per second for a slow disk.
BASE_SECONDS, BYTES_PER_SECOND = 180, 10**7
# The first bytes of all files of torch.save: a zip archive, or (before PyTorch 1.6) a pickle of protocol 2 or later.
BEGINNINGS = (b"PK", b"\x80")
# Parts of torch's error messages: the name of an object that is not allowed, and the message if torch cannot name it.
FOREIGN_OBJECT = re.compile(r"GLOBAL ([\w.]+)")
LONG_REFUSAL = "Weights only load failed"


@dataclass(frozen=True)
class WeightFile:
    """Content of one file of weights.

    Attributes:
        tensors: stored tensors by name. Their data are in the file, or in the copy of a pickle.
        settings: the settings that a BEATs checkpoint has besides its tensors.
    """

    tensors: dict[str, StoredTensor]
    settings: dict[str, Any] = field(default_factory=dict)


def read_weight_file(file: Path, workspace: Path) -> WeightFile:
    """Read the headers of one file of weights, a pickle or safetensors.

    Args:
        file: a file with the suffix .safetensors; any other suffix means a pickle.
        workspace: folder for copies of pickles, which must exist until their tensors are read.

    Raises:
        CheckpointError: the file is missing or damaged, or is a pickle that holds more than tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, or is not a file: pass the path of a file of weights.")
    if file.suffix == ".safetensors":
        return WeightFile({tensor.name: tensor for tensor in read_header(file)})
    refuse_pointer(file)
    _check_beginning(file)
    size, free = file.stat().st_size, shutil.disk_usage(workspace).free
    if free < size:
        raise CheckpointError(
            f"{file} must be copied to the disk of the destination, which has {free:,} bytes free instead of {size:,}: "
            "free some space first."
        )
    folder = Path(tempfile.mkdtemp(prefix="pickle.", dir=workspace))
    _run_child(file, folder)
    copies = [tensor for part in sorted(folder.glob("*.safetensors")) for tensor in read_header(part)]
    tensors = {tensor.name: replace(tensor, copied_from=file) for tensor in copies}
    return WeightFile(tensors, read_json(folder / "settings.json"))


def _check_beginning(file: Path) -> None:
    """Refuse a file that is certainly no file of PyTorch, such as a video, before a process is started for it."""
    with file.open("rb") as handle:
        beginning = handle.read(12)
    if not beginning.startswith(BEGINNINGS):
        found = f"it begins with {beginning!r}" if beginning else "it is empty"
        raise CheckpointError(f"{file} is no PyTorch file ({found}): pass a file of weights (.pt, .bin, .safetensors).")


def _run_child(file: Path, folder: Path) -> None:
    # With -P, Python does not search the folder of the child for modules. Files there have the names of library
    # modules.
    command = [sys.executable, "-P", str(CHILD), str(file.absolute()), str(folder.absolute())]
    seconds = BASE_SECONDS + file.stat().st_size // BYTES_PER_SECOND
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{file} was not read within {seconds} seconds: download it again.") from error
    if done.returncode == 0:
        return
    if done.returncode < 0:
        name = signal.strsignal(-done.returncode)
        raise CheckpointError(
            f"{file} cannot be read: the process that reads it was killed ({name}): download it again."
        )
    words = done.stdout.decode(errors="replace").strip()
    if foreign := FOREIGN_OBJECT.search(words):
        raise CheckpointError(
            f"{file} is a pickle that wants to run {foreign[1]}, which weights never need: do not trust it, and get "
            "the checkpoint from its authors."
        )
    if words.startswith(LONG_REFUSAL):
        words = "it holds more than tensors"
    reason = words[:200] or " ".join(done.stderr.decode(errors="replace").split())[-200:]
    raise CheckpointError(f"{file} cannot be read as a file of weights ({reason}): download it again.")


def scan_any_weights(folder: Path, workspace: Path) -> StoredWeights | None:
    """All weights of a folder: from safetensors if there are any, otherwise from pickles; `None` if there are neither.

    Args:
        workspace: see `read_weight_file`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if has_safetensors(folder):
        return scan_weights(folder)
    files = _pickles(folder)
    if not files:
        return None
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_weight_file(file, workspace).tensors.items():
            if name in tensors:
                raise CheckpointError(f"{name} is in two files of {folder}: remove the one that does not belong here.")
            tensors[name] = tensor
    notes = [f"{', '.join(file.name for file in files)}: pickles, read in a separate process."]
    return StoredWeights(tensors, files[0] if len(files) == 1 else folder, notes)


def as_safetensors(folder: Path, workspace: Path) -> Path:
    """A folder that holds the weights of `folder` as safetensors: the folder itself, or a copy of its pickles.

    Args:
        workspace: see `read_weight_file`.

    Raises:
        CheckpointError: a file is missing or damaged, or a weight is NaN or infinite.
    """
    if not has_safetensors(folder) and (weights := scan_any_weights(folder, workspace)) is not None:
        source = folder
        folder = Path(tempfile.mkdtemp(prefix="copy.", dir=workspace))
        files = sorted({tensor.file for tensor in weights.tensors.values()})
        names = {file: f"model-{number:05}-of-{len(files):05}.safetensors" for number, file in enumerate(files, 1)}
        for file, name in names.items():
            file.rename(folder / name)
        weight_map = {name: names[tensor.file] for name, tensor in weights.tensors.items()}
        # transformers requires an index to have metadata, even if they are empty.
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
        if (config := source / "config.json").is_file():
            # transformers reads the generation settings from it if there is no other file with them.
            shutil.copyfile(config, folder / config.name)
    check_values(check_headers(*find_weight_files(folder, {})))
    return folder


def _pickles(folder: Path) -> list[Path]:
    """The files of a pickled checkpoint; a missing file is an error."""
    index = folder / PICKLE_INDEX
    if index.is_file():
        names = sorted(set(read_index(index, ".bin").values()))
    elif (folder / PICKLE_NAME).is_file():
        names = [PICKLE_NAME]
    else:
        names = sorted(file.name for file in folder.glob(PICKLE_SHARDS))
        if names and (match := SHARD_NAME.fullmatch(names[0])):
            total = int(match[2])
            names = [f"pytorch_model-{number:05}-of-{match[2]}.bin" for number in range(1, total + 1)]
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: download the shard again.")
        check_file(folder / name, folder)
    return [folder / name for name in names]


__all__ = ["WeightFile", "as_safetensors", "read_weight_file", "scan_any_weights"]
