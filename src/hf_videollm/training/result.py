"""Saves the result of a training into its output folder, completely or not at all. Checkpoints there are kept."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ..atomic import atomic_files
from ..training_outputs import ADAPTER_CONFIG, BASE_FILE

__all__ = ["WEIGHTS", "save_result"]

# Files that hold weights, or that say which files do. No file of an earlier result may remain beside a new one, because
# `from_pretrained` prefers a single file to an index and its shards, and a model to an adapter.
WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors|(adapter_)?model\.safetensors\.index\.json")
OBSOLETE = re.compile(rf"{WEIGHTS.pattern}|{re.escape(BASE_FILE)}")
# Without one of these files, a folder is no model. They are removed first and written last.
ENTRIES = ("config.json", ADAPTER_CONFIG)


def save_result(trainer: Any) -> None:
    """Save the model of a trainer into its `output_dir`.

    All processes of a training call this. An earlier result does not change before all new files are on the disk. Then
    it is replaced: first it is made unreadable, so that a run that is killed in between leaves no mixture of two
    results that would load. Everything else in the folder stays.

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
    with atomic_files(output, last=ENTRIES, obsolete=OBSOLETE) as temporary:
        trainer.save_model(str(temporary))
