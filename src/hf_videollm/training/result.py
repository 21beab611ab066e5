"""The result of a training takes its place in the output folder whole, beside the checkpoints that lie there."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ..atomic import atomic_files

__all__ = ["save_result"]

# Files that a loader takes for the weights of a folder; it prefers a single file to an index and its shards.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def save_result(trainer: Any) -> None:
    """Save the model of a trainer into its `output_dir`.

    Called by all processes of a training. Until the new files are all on the disk, an earlier result stays as it was;
    its weights go when the new ones, which may be in other files, are there. Everything else in the folder stays.

    Raises:
        DiskFullError: there is no room; the earlier result is kept.
    """
    if getattr(trainer, "is_deepspeed_enabled", False):
        # Each process may write a part of its own, into one folder.
        trainer.save_model()
        return
    if not trainer.args.should_save:
        # The weights are gathered by all processes, and written by one.
        with tempfile.TemporaryDirectory(prefix="hf_videollm_") as unused:
            trainer.save_model(unused)
        return
    output = Path(trainer.args.output_dir)
    with atomic_files(output) as temporary:
        trainer.save_model(str(temporary))
        written = {path.name for path in temporary.iterdir()}
    if any(WEIGHTS.fullmatch(name) for name in written):
        for path in output.iterdir():
            if WEIGHTS.fullmatch(path.name) and path.name not in written:
                path.unlink()
