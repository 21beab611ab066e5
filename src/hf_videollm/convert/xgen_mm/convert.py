"""Converts an official XGen-MM (BLIP-3) v1.5 checkpoint to a folder that `AutoModelForImageTextToText` loads.

Everything is checked before the first weight is written, only one tensor is in memory at a time, and the folder appears
complete or not at all.

The names of all tensors and their total size were compared with the release (see `keys.py`), and the architecture and
the prompts with the public code. The released weights were not available, so no answer of a converted checkpoint was
compared with an answer of the original.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...atomic import atomic_folder
from ...models.errors import CheckpointError
from ...models.modeling_xgen_mm import XgenMMForConditionalGeneration
from ...models.processing_xgen_mm import XgenMMProcessor
from ...origin import write_origin
from .. import MAX_SHARD_SIZE
from ..blocks import cast_blocks, read_blocks
from ..options import (
    Progress,
    Source,
    WriteOptions,
    check_write_options,
    optional_path,
)
from ..pickle_reader import scan_any_weights
from ..report import Rows, WrittenReport
from ..stream import TensorPlan
from ..tensors import model_shapes, usual_dtype
from ..tokenizers import find_tokenizer_folder
from ..writing import write_code_and_configs, write_weights
from .config import ADDED_TOKENS, build_processor, read_source
from .keys import HEAD, PREFIXES, ConversionPlan, plan_conversion


@dataclass(frozen=True, kw_only=True)
class XgenMMReport(WrittenReport):
    """The report of a conversion of XGen-MM.

    Attributes:
        source: folder of the official checkpoint.
        left_aside: number of tensors that are not used: SigLIP's pooling head, and buffers that are computed.
    """

    source: str
    left_aside: int

    def source_rows(self) -> Rows:
        return [("converted", f"{self.source} (XGen-MM)")]

    def detail_rows(self) -> Rows:
        return [("not used", f"{self.left_aside} tensors that the model does not need")]


def convert_xgen_mm(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    vision_config: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> XgenMMReport:
    """Convert an official XGen-MM v1.5 checkpoint.

    Args:
        source: folder of the checkpoint.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        vision_config: JSON file with the configuration of the SigLIP tower, if the name in config.json is unknown.
        tokenizer: folder of the tokenizer, if the source has none.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); by default the stored types are kept.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).

    Returns:
        What was read and written.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor does not fit. The message names the file,
            the tensor and the fix.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    folder, tokenizer_folder, description = Path(source), optional_path(tokenizer), optional_path(vision_config)
    sources = [
        Source("checkpoint", folder, "the XGen-MM checkpoint", needs_config=True),
        Source("tokenizer", tokenizer_folder, "the tokenizer"),
        Source("vision config", description),
    ]
    options = check_write_options(
        destination, sources, dtype=dtype, max_shard_size=max_shard_size, overwrite=overwrite, progress=progress
    )

    with (
        atomic_folder(options.destination, overwrite=overwrite) as target,
        tempfile.TemporaryDirectory(dir=target, prefix="pickles.") as workspace,
    ):
        weights = scan_any_weights(folder, Path(workspace))
        if weights is None:
            raise CheckpointError(f"{folder} has no weights: download the checkpoint again with all its files.")
        official = read_source(folder, description, PREFIXES[HEAD] + "bias" in weights.tensors)
        config = official.config
        expected = model_shapes(config, XgenMMForConditionalGeneration, folder / "config.json")
        plan = plan_conversion(expected, weights, official.table_rows, len(ADDED_TOKENS))
        result = build_processor(folder, official, find_tokenizer_folder(folder, tokenizer_folder, None))
        config.architectures = [XgenMMForConditionalGeneration.__name__]
        config.dtype = options.dtype or usual_dtype(tensor for parts in plan.pieces.values() for tensor, _ in parts)
        files, size = _write_weights(target, plan, options)
        classes = (XgenMMForConditionalGeneration, XgenMMProcessor)
        write_code_and_configs(target, config, result.generation_config, result.processor, classes)
        write_origin(target, "hf-videollm convert xgen-mm", [("checkpoint", folder)])
    return XgenMMReport(
        source=str(source),
        destination=str(destination),
        left_aside=len(plan.dropped),
        parameters=sum(math.prod(shape) for shape in plan.shapes.values()),
        weight_bytes=size,
        weight_files=[file.name for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        token_ids={"image": config.image_token_id},
        has_processor=result.processor is not None,
        notes=weights.notes + result.notes,
    )


def _write_weights(folder: Path, plan: ConversionPlan, options: WriteOptions) -> tuple[list[Path], int]:
    """Write the model; return the files and their total size in bytes."""
    types = {name: options.dtype or parts[0][0].dtype for name, parts in plan.pieces.items()}
    plans = [TensorPlan(name, shape, types[name]) for name, shape in plan.shapes.items()]

    def load(name: str) -> Iterator[torch.Tensor]:
        for tensor, rows in plan.pieces[name]:
            yield from cast_blocks(read_blocks(tensor, rows), types[name], tensor)

    return write_weights(folder, plans, load, options)


__all__ = ["XgenMMReport", "convert_xgen_mm"]
