"""The writing of a converted checkpoint: weights one by one, then configurations, processor and code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from .options import Progress, WriteOptions, check_space
from .stream import Load, TensorPlan, write_sharded


class ByteCounter:
    """Told of every tensor written, reports the sum so far and the total."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(self.done, self.total)


def write_weights(
    folder: Path,
    plans: Sequence[TensorPlan],
    load: Load,
    options: WriteOptions,
) -> tuple[list[Path], int]:
    """Write the weights of a model one by one; files and their total size in bytes.

    Args:
        plans: names, shapes and types of the tensors, in the order in which they are written.
        load: name -> the tensor, or its parts along the first dimension.
        options: size of the files, and who is told of the progress.

    Raises:
        CheckpointError: the disk has not enough room.
    """
    total = sum(item.nbytes for item in plans)
    check_space(folder, total)
    return write_sharded(folder, plans, load, options.max_shard_size, ByteCounter(total, options.progress)), total


def write_code_and_configs(
    folder: Path,
    config: Any,
    generation_config: GenerationConfig,
    processor: Any,
    classes: Sequence[type],
) -> None:
    """Everything of a Hub folder but the weights: configurations, processor, and the code that reads them.

    `save_checkpoint` leaves the same files behind, but needs the model in memory.

    Args:
        processor: `None` without a tokenizer: it can be added later, as config.json already names its class.
        classes: model and processor, whose code travels.
    """
    config.save_pretrained(folder)
    generation_config.save_pretrained(folder)
    for travelling in classes:
        custom_object_save(travelling, folder)
    if processor is not None:
        processor.save_pretrained(folder)
