"""Makes an FTFV checkpoint, ready for training, from the vision module of Qwen-VL and a causal language model.

No FTFV was released. The paper starts its training from these two models, and so does this package. Everything is
checked before the first weight is written, only one tensor is in memory at a time, and the folder appears complete or
not at all.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...atomic import atomic_folder
from ...models.configuration_ftfv import FtfvConfig
from ...models.configuration_video_llm import has_tied_embeddings
from ...models.modeling_ftfv import FtfvForConditionalGeneration
from ...models.processing_ftfv import FtfvProcessor
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
from ..parts import language_generation_config
from ..report import Rows, WrittenReport
from ..stream import TensorPlan, read_tensor
from ..tensors import model_shapes, usual_dtype
from ..tokenizers import find_tokenizer_folder
from ..writing import write_code_and_configs, write_weights
from .keys import TEMPORAL, ConversionPlan, plan_conversion, take_part
from .processor import build_processor
from .sources import build_config, read_language, read_visual

TEMPORAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class FtfvReport(WrittenReport):
    """What an FTFV was made from.

    Attributes:
        qwen_vl: folder of the Qwen-VL checkpoint.
        language_model: folder of the language model.
        left_aside: number of tensors of the Qwen-VL checkpoint that do not belong to its vision module.
        seed: random seed of the temporal code, the only part that no source has.
    """

    qwen_vl: str
    language_model: str
    left_aside: int
    seed: int

    def source_rows(self) -> Rows:
        return [
            ("vision tower, adapter", self.qwen_vl),
            ("language model", self.language_model),
            ("temporal code", f"random, N(0, {TEMPORAL_STD}), seed {self.seed}"),
        ]

    def detail_rows(self) -> Rows:
        return [("not used", f"{self.left_aside} tensors of Qwen-VL's own language model")]


def convert_ftfv(
    qwen_vl: str | os.PathLike[str],
    language_model: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    num_frames: int = 8,
    num_tokens_per_frame: int = 128,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FtfvReport:
    """Make an FTFV checkpoint that is ready for training. Its temporal code is random, and nothing is trained yet.

    Args:
        qwen_vl: folder of a Qwen-VL checkpoint. Its vision module is used, its language model is not.
        language_model: folder of a causal language model that is as wide as the vectors of the vision module, such as
            Vicuna 7B.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        tokenizer: folder of the tokenizer, if the language model's folder has none.
        num_frames: frames per video; each has its own temporal code.
        num_tokens_per_frame: K, the number of tokens per frame that the sampler keeps; it can be changed later.
        seed: random seed of the temporal code, which starts as N(0, 0.02).
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
    source, language_folder, tokenizer_folder = Path(qwen_vl), Path(language_model), optional_path(tokenizer)
    sources = [
        Source("Qwen-VL checkpoint", source, "the Qwen-VL checkpoint", needs_config=True),
        Source("language model", language_folder, "the language model", needs_config=True),
        Source("tokenizer", tokenizer_folder, "the tokenizer"),
    ]
    options = check_write_options(
        destination, sources, dtype=dtype, max_shard_size=max_shard_size, overwrite=overwrite, progress=progress
    )

    with (
        atomic_folder(options.destination, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder, prefix="pickles.") as workspace,
    ):
        visual = read_visual(source, Path(workspace))
        language = read_language(language_folder, Path(workspace))
        config = build_config(source, language.config, num_frames=num_frames, num_tokens_per_frame=num_tokens_per_frame)
        expected = model_shapes(config, FtfvForConditionalGeneration, source / "config.json")
        is_tied = has_tied_embeddings(config.text_config)
        plan = plan_conversion(expected, visual.weights, language.weights, language.prefix, is_tied)
        result = build_processor(config, find_tokenizer_folder(language_folder, tokenizer_folder, None))
        generation_config, generation_notes = language_generation_config(
            language_folder, language.raw, config.text_config, result.processor and result.processor.tokenizer
        )
        notes = visual.weights.notes + language.notes + result.notes + generation_notes
        notes += _complete_config(config, plan, result.token_ids, options.dtype)
        files, size = _write_weights(folder, plan, config, seed, options)
        classes = (FtfvForConditionalGeneration, FtfvProcessor)
        write_code_and_configs(folder, config, generation_config, result.processor, classes)
        places = [("vision tower and adapter", source), ("language model", language_folder)]
        write_origin(folder, "hf-videollm convert ftfv", places)
    return FtfvReport(
        qwen_vl=str(qwen_vl),
        language_model=str(language_model),
        destination=str(destination),
        left_aside=visual.left_aside,
        parameters=sum(math.prod(shape) for shape in plan.shapes.values()),
        weight_bytes=size,
        weight_files=[file.name for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        seed=seed,
        token_ids=result.token_ids,
        has_processor=result.processor is not None,
        notes=notes,
    )


def _complete_config(
    config: FtfvConfig, plan: ConversionPlan, token_ids: dict[str, int], dtype: torch.dtype | None
) -> list[str]:
    """Set the fields that depend on the weights, the tokenizer and the options; return a note if the types differ."""
    for modality, token_id in token_ids.items():
        setattr(config, f"{modality}_token_id", token_id)
    stored = [source.tensor for source in plan.sources.values()]
    config.architectures = [FtfvForConditionalGeneration.__name__]
    config.dtype = dtype or usual_dtype(stored)
    config.tie_word_embeddings = plan.tied
    config.text_config.tie_word_embeddings = plan.tied
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored})
    if dtype is not None or len(types) == 1:
        return []
    loaded = str(config.dtype).removeprefix("torch.")
    return [f"the weights are stored as {' and '.join(types)} and load as {loaded}: --dtype gives all one type."]


def _write_weights(
    folder: Path, plan: ConversionPlan, config: FtfvConfig, seed: int, options: WriteOptions
) -> tuple[list[Path], int]:
    """Write the model; return the files and their total size in bytes."""
    types = {name: options.dtype or source.tensor.dtype for name, source in plan.sources.items()}
    # The temporal code is added to the inputs of the adapter, so it has the type of the adapter's weights.
    types[TEMPORAL] = types["model.connector.kv_proj.weight"]
    plans = [TensorPlan(name, shape, types[name]) for name, shape in plan.shapes.items()]

    def load(name: str) -> torch.Tensor | Iterator[torch.Tensor]:
        if name == TEMPORAL:
            code = torch.randn(plan.shapes[name], generator=torch.Generator().manual_seed(seed))
            return (TEMPORAL_STD * code).to(types[name])
        source = plan.sources[name]
        if source.part is None:
            return cast_blocks(read_blocks(source.tensor), types[name], source.tensor)
        values = take_part(read_tensor(source.tensor), source.part, config.vision_config.num_attention_heads)
        return cast_blocks([values], types[name], source.tensor)

    return write_weights(folder, plans, load, options)


__all__ = ["FtfvReport", "convert_ftfv"]
