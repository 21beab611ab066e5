"""Finds the checkpoint from which a training resumes after it was killed: the last one that is complete.

transformers' `Trainer` writes a checkpoint file by file, `trainer_state.json` last, and it also removes old checkpoints
file by file. A run that is killed meanwhile leaves a folder that looks like a checkpoint. If `Trainer` resumed from it,
it would fail, or continue without the state of the optimizer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic_claim import is_same, try_lock
from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import read_headers, read_weight_map

__all__ = ["checkpoint_problem", "last_whole_checkpoint", "needed_files", "only_run"]

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
LOCK_NAME = ".training.lock"
OPTIMIZER = ("optimizer.pt", "scheduler.pt")


def last_whole_checkpoint(
    output: str | os.PathLike[str], needed: Sequence[str] | None = OPTIMIZER, remove: bool = True
) -> str | None:
    """Path of the newest complete checkpoint of a training; `None` if there is none.

    Args:
        output: the `output_dir` of the training.
        needed: files that a complete checkpoint has besides its weights and `trainer_state.json`. With `None`, neither
            these files nor the weights are checked: in a sharded training they are in folders of their own.
        remove: remove incomplete checkpoints. Only the process that writes checkpoints may do so.
    """
    folder = Path(output)
    if not folder.is_dir():
        return None
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
    whole = None
    for _, path in sorted(numbered):
        if not path.is_dir():
            continue
        if checkpoint_problem(path, needed) is None:
            whole = str(path)
        elif remove:
            # `trainer_state.json` is removed first. If this run is killed, too, the rest is not taken for a checkpoint.
            (path / "trainer_state.json").unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
    return whole


def checkpoint_problem(folder: Path, needed: Sequence[str] | None = OPTIMIZER) -> str | None:
    """Why training cannot go on from a checkpoint; `None` if it can.

    Args:
        needed: see `last_whole_checkpoint`.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("global_step") != int(folder.name.rpartition("-")[2]):
            return "trainer_state.json is of another step"
    except (OSError, ValueError, RecursionError):
        return "trainer_state.json, which is written last, is missing or cut off"
    if needed is None:
        return None
    for name in needed:
        if not (folder / name).is_file():
            return f"{name} is missing"
    try:
        return _weight_problem(folder)
    except CheckpointError as error:
        return str(error)


def _weight_problem(folder: Path) -> str | None:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = {folder / name for index in indices for name in read_weight_map(index).values()}
    files |= set(folder.glob("*.safetensors"))
    if not files:
        return "it holds no weights"
    for file in sorted(files):
        read_headers(file)
    return None


@contextmanager
def only_run(output: str | os.PathLike[str], is_writer: bool = True) -> Iterator[bool]:
    """Lock the output folder of a training, and give whether incomplete checkpoints in it may be removed.

    Args:
        output: the `output_dir` of the training.
        is_writer: whether this process writes the checkpoints of its run. Other processes do not lock the folder.

    Raises:
        FileExistsError: another run is training into the folder.
    """
    if not is_writer:
        yield False
        return
    os.makedirs(output, exist_ok=True)
    path = Path(output, LOCK_NAME)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            locked = try_lock(descriptor)
            if locked is False:
                raise FileExistsError(
                    f"Another run is training into {output}: wait for it, or choose another output_dir."
                )
            # Another run may have removed the file after it was opened here. Then its lock would keep no run out.
            if locked and not is_same(descriptor, path):
                continue
            try:
                yield bool(locked)
            finally:
                if locked:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def needed_files(trainer: Any) -> Sequence[str] | None:
    """The argument `needed` of `last_whole_checkpoint` for the checkpoints of a trainer."""
    if getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False):
        return None
    return () if trainer.args.save_only_model else OPTIMIZER
