"""Writes a converted checkpoint: weights one by one, then configurations, processor and code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from .options import Progress, WriteOptions, check_space
from .stream import Load, TensorPlan, write_sharded


class ByteCounter:
    """Sums up the sizes of the written tensors, and reports the sum and the total size."""

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
    """Write the weights of a model one by one.

    Args:
        folder: folder to write.
        plans: names, shapes and types of the tensors, in the order in which they are written.
        load: returns the tensor of a name, or its parts along the first dimension.
        options: maximum size of a file, and the function that shows the progress.

    Returns:
        The files, and their total size in bytes.

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
    """Write everything except the weights: configurations, processor, and the code of model and processor.

    `save_checkpoint` writes the same files, but needs the model in memory.

    Args:
        folder: folder to write.
        config: configuration of the model.
        generation_config: generation settings of the model.
        processor: the processor; `None` if there is no tokenizer. It can be added later, because config.json names its
            class.
        classes: classes of model and processor, whose code is copied into the folder.
    """
    config.save_pretrained(folder)
    generation_config.save_pretrained(folder)
    for travelling in classes:
        custom_object_save(travelling, folder)
    if processor is not None:
        processor.save_pretrained(folder)
