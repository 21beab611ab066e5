"""Finds the checkpoint from which a training resumes after it was killed: the last one that is complete.

transformers' `Trainer` writes a checkpoint file by file, `trainer_state.json` last, and it also removes old checkpoints
file by file. A run that is killed meanwhile leaves a folder that looks like a checkpoint. If `Trainer` resumed from it,
it would fail, or continue without the state of the optimizer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic_claim import is_same, try_lock
from ..training_outputs import CHECKPOINT, OPTIMIZER, checkpoint_problem

__all__ = ["checkpoint_problem", "last_whole_checkpoint", "needed_files", "only_run", "steps_of"]

LOCK_NAME = ".training.lock"


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


def steps_of(checkpoint: str | None) -> int:
    """The number of steps after which a checkpoint was saved; 0 if there is none."""
    if checkpoint is None:
        return 0
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


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
