"""Pickled checkpoints (.bin, .pt), read in a child process and never in this one.

A pickle is a program. `torch.load(weights_only=True)` runs only the part of it that builds tensors; should it be fooled
all the same, this happens in a process with little memory and time, whose only product are safetensors files.
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
# Seconds a file may take: start of the child, and a slow disk.
BASE_SECONDS, BYTES_PER_SECOND = 180, 10**7
# How torch names what a pickle asks for beyond tensors, and what it says where it cannot name it.
FOREIGN_OBJECT = re.compile(r"GLOBAL ([\w.]+)")
LONG_REFUSAL = "Weights only load failed"


@dataclass(frozen=True)
class WeightFile:
    """Content of one file of weights.

    Attributes:
        tensors: by name; their data lie in the file, or in the copy of a pickle.
        settings: what a BEATs checkpoint says of itself beside its tensors.
    """

    tensors: dict[str, StoredTensor]
    settings: dict[str, Any] = field(default_factory=dict)


def read_weight_file(file: Path, workspace: Path) -> WeightFile:
    """Headers of one file of weights, pickle or safetensors.

    Args:
        file: .safetensors, or anything else for a pickle.
        workspace: folder for the copies of pickles, which must live until their tensors were read.

    Raises:
        CheckpointError: the file is missing or damaged, or a pickle that asks for more than tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, or no file: pass the path of a file of weights.")
    if file.suffix == ".safetensors":
        return WeightFile({tensor.name: tensor for tensor in read_header(file)})
    refuse_pointer(file)
    size, free = file.stat().st_size, shutil.disk_usage(workspace).free
    if free < size:
        raise CheckpointError(
            f"{file} is copied to the disk of the destination, which has {free:,} bytes free instead of {size:,}: make "
            "room first."
        )
    folder = Path(tempfile.mkdtemp(prefix="pickle.", dir=workspace))
    _run_child(file, folder)
    copies = [tensor for part in sorted(folder.glob("*.safetensors")) for tensor in read_header(part)]
    tensors = {tensor.name: replace(tensor, copied_from=file) for tensor in copies}
    return WeightFile(tensors, read_json(folder / "settings.json"))


def _run_child(file: Path, folder: Path) -> None:
    # -P: the folder of the child must not be searched for modules, its neighbours have names like the library's.
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
        raise CheckpointError(f"{file} cannot be read: the process that reads it was ended ({name}). Get it again.")
    words = done.stdout.decode(errors="replace").strip()
    if foreign := FOREIGN_OBJECT.search(words):
        raise CheckpointError(
            f"{file} is a pickle that asks to run {foreign[1]}, which no weights need: do not trust it, and get the "
            "checkpoint from its authors."
        )
    if words.startswith(LONG_REFUSAL):
        words = "it asks for more than tensors"
    reason = words[:200] or " ".join(done.stderr.decode(errors="replace").split())[-200:]
    raise CheckpointError(f"{file} is no readable file of weights ({reason}): download it again.")


def scan_any_weights(folder: Path, workspace: Path) -> StoredWeights | None:
    """All weights of a folder, as safetensors where there are some, else from pickles; `None` if it has neither.

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
    notes = [f"{', '.join(file.name for file in files)}: pickles, read in a process of their own."]
    return StoredWeights(tensors, files[0] if len(files) == 1 else folder, notes)


def as_safetensors(folder: Path, workspace: Path) -> Path:
    """A folder that holds the weights of `folder` as safetensors, with all their values finite: itself, or a copy.

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
        # transformers asks for the metadata of an index, whatever there is in it.
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
        if (config := source / "config.json").is_file():
            # And reads in it how to generate, where nothing else says that.
            shutil.copyfile(config, folder / config.name)
    check_values(check_headers(*find_weight_files(folder, {})))
    return folder


def _pickles(folder: Path) -> list[Path]:
    """Files of a pickled checkpoint, all of which are there."""
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
