"""Saves the result of a training into its output folder, completely or not at all. Checkpoints there are kept."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ..atomic import atomic_files
from ..origin import carry_origin

__all__ = ["save_result"]

# Files that `from_pretrained` takes for the weights of a folder. It prefers a single file to an index and its shards,
# so no file of an earlier result may remain.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def save_result(trainer: Any) -> None:
    """Save the model of a trainer into its `output_dir`.

    All processes of a training call this. An earlier result does not change before all new files are on the disk. Then
    those of its weight files that have no successor are removed. Everything else in the folder stays.

    Raises:
        DiskFullError: there is no room; the earlier result is kept.
    """
    if getattr(trainer, "is_deepspeed_enabled", False):
        # With DeepSpeed, each process may write a part of the result, and all parts belong into one folder.
        trainer.save_model()
        return
    if not trainer.args.should_save:
        # All processes take part in gathering the weights, but only one of them writes the result.
        with tempfile.TemporaryDirectory(prefix="hf_videollm_") as unused:
            trainer.save_model(unused)
        return
    output = Path(trainer.args.output_dir)
    with atomic_files(output) as temporary:
        trainer.save_model(str(temporary))
        carry_origin(trainer.model, temporary)
        written = {path.name for path in temporary.iterdir()}
    if any(WEIGHTS.fullmatch(name) for name in written):
        for path in output.iterdir():
            if WEIGHTS.fullmatch(path.name) and path.name not in written:
                path.unlink()
