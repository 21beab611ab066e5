"""An official XGen-MM (BLIP-3) v1.5 checkpoint -> a folder that `AutoModelForImageTextToText` loads.

Everything is checked before the first weight is written, tensors pass through memory one by one, and the folder appears
complete or not at all.

What was checked against the release: the names of all tensors and their total size (see `convert_xgen_mm_keys`), the
architecture and the prompts against the public code. What could not be: the released weights were never at hand, so
that no answer of a converted checkpoint was compared with one of the original.
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
from .. import MAX_SHARD_SIZE
from ..options import (
    Progress,
    Source,
    WriteOptions,
    check_write_options,
    optional_path,
)
from ..pickle_reader import scan_any_weights
from ..report import Rows, WrittenReport
from ..stream import TensorPlan, read_tensor
from ..tensors import model_shapes, usual_dtype
from ..tokenizers import find_tokenizer_folder
from ..writing import write_code_and_configs, write_weights
from .config import ADDED_TOKENS, build_processor, read_source
from .keys import HEAD, PREFIXES, ConversionPlan, plan_conversion


@dataclass(frozen=True, kw_only=True)
class XgenMMReport(WrittenReport):
    """What a conversion of XGen-MM did.

    Attributes:
        left_aside: tensors of the pooling head of SigLIP, and computed ones.
    """

    source: str
    left_aside: int

    def source_rows(self) -> Rows:
        return [("converted", f"{self.source} (XGen-MM)")]

    def detail_rows(self) -> Rows:
        return [("left aside", f"{self.left_aside} tensors that nothing reads")]


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
        source: its folder.
        destination: folder to write; must not exist, or be empty, unless `overwrite`.
        vision_config: JSON file that describes the SigLIP tower, where config.json names an unknown one.
        tokenizer: folder of the tokenizer, where the source has none.
        dtype: cast all weights (`"float32"`, `"float16"`, `"bfloat16"`); kept as they are stored by default.
        max_shard_size: bytes of one weight file.
        overwrite: replace a destination that holds something.
        progress: called with (bytes written, bytes to write).

    Returns:
        What was found and written.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor does not fit; file, tensor and mend are named.
        FileExistsError: the destination holds something and `overwrite` is not set.
    """
    folder, tokenizer_folder, description = Path(source), optional_path(tokenizer), optional_path(vision_config)
    sources = [
        Source("checkpoint", folder, "the XGen-MM checkpoint"),
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
    """Write the model; files and their total size in bytes."""
    types = {name: options.dtype or parts[0][0].dtype for name, parts in plan.pieces.items()}
    plans = [TensorPlan(name, shape, types[name]) for name, shape in plan.shapes.items()]

    def load(name: str) -> Iterator[torch.Tensor]:
        for tensor, rows in plan.pieces[name]:
            yield read_tensor(tensor)[:rows].to(types[name])

    return write_weights(folder, plans, load, options)


__all__ = ["XgenMMReport", "convert_xgen_mm"]
