"""Converts official PLLaVA checkpoints to folders that `from_pretrained` loads, tensor by tensor.

Everything is checked before the first byte is written, and the folder appears complete or not at all.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...atomic import atomic_folder
from ...models.configuration_pllava import PllavaConfig
from ...models.errors import CheckpointError
from ...models.modeling_pllava import PllavaForConditionalGeneration
from ...models.pllava_lora import ADAPTER_FOLDER, ADAPTER_WEIGHTS, LORA_TARGETS, PEFT_PREFIX
from ...models.processing_pllava import PllavaProcessor
from ...origin import write_origin
from .. import MAX_SHARD_SIZE
from ..blocks import cast_blocks, merged_blocks, read_blocks
from ..configs import compare_bases
from ..options import (
    Progress,
    Source,
    WriteOptions,
    check_space,
    check_write_options,
    optional_path,
)
from ..report import Rows, WrittenReport
from ..stream import TensorPlan, read_json, scan_weights, write_file, write_sharded
from ..tensors import usual_dtype
from ..tokenizers import find_tokenizer_folder
from ..writing import ByteCounter, write_code_and_configs
from .config import build_config, build_generation_config, read_source_config
from .keys import ConversionPlan, plan_conversion
from .processor import build_processor

# The official demo and evaluation load with alpha 4. Training used 32 (paper, section 3.4, and the released scripts).
DEFAULT_ALPHA, TRAINING_ALPHA = 4.0, 32
TRAINING_DROPOUT = 0.05


@dataclass(frozen=True, kw_only=True)
class ConversionReport(WrittenReport):
    """The report of a conversion of PLLaVA. The number of parameters excludes the LoRA; bytes and files include it.

    Attributes:
        source: folder of the official checkpoint.
        kind: kind of the source: `"released"`, `"partial"` or `"merged"`.
        lora_rank: rank of the LoRA in the source; `None` if it has none.
        lora_alpha: alpha with which the kept LoRA is loaded; `None` if the result has no separate LoRA.
        merged_alpha: alpha with which this conversion merged the LoRA into the weights; `None` if it did not.
    """

    source: str
    kind: str
    lora_rank: int | None
    lora_alpha: float | None
    merged_alpha: float | None

    def source_rows(self) -> Rows:
        return [("converted", f"{self.source} ({self.kind} checkpoint)")]

    def detail_rows(self) -> Rows:
        if self.merged_alpha is not None:
            lora = f"rank {self.lora_rank}, merged at alpha {self.merged_alpha:g}"
        elif self.lora_alpha is None:
            lora = "none: it was merged before, so its alpha cannot be changed"
        else:
            lora = f"rank {self.lora_rank}, adjustable, loaded with alpha {self.lora_alpha:g}"
        return [("LoRA", lora)]


def convert_pllava(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    lora_alpha: float = DEFAULT_ALPHA,
    merge: float | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert an official PLLaVA checkpoint. Its kind is recognised by its tensors.

    Args:
        source: folder with config.json and safetensors: released, partial (LoRA and projector) or merged.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        base: LLaVA-NeXT folder (llava-hf/llava-v1.6-...) from which a partial checkpoint was trained.
        tokenizer: folder of the tokenizer, if neither the source nor the base has the right one.
        lora_alpha: default alpha with which the kept LoRA is loaded.
        merge: merge the LoRA into the weights with this alpha, instead of keeping it adjustable.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); by default the stored types are kept.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).

    Returns:
        What was read and written.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor does not fit, or an option has no effect for this kind
            of checkpoint. The message names the file, the tensor and the fix.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    source, base, tokenizer = Path(source), optional_path(base), optional_path(tokenizer)
    _check_alphas(lora_alpha, merge)
    sources = [
        Source("source", source, "the PLLaVA checkpoint", needs_config=True),
        Source("base", base, "the LLaVA-NeXT base"),
        Source("tokenizer", tokenizer, "the tokenizer"),
    ]
    options = check_write_options(
        destination, sources, dtype=dtype, max_shard_size=max_shard_size, overwrite=overwrite, progress=progress
    )

    with atomic_folder(options.destination, overwrite=overwrite) as folder:
        raw = read_source_config(source)
        config, notes = build_config(raw, source / "config.json")
        plan = plan_conversion(config, scan_weights(source), None if base is None else scan_weights(base))
        _check_options(plan, source, lora_alpha, merge)
        notes += plan.notes + (_compare_base(raw, base) if base is not None else [])
        generation_config = build_generation_config(source, raw, config)
        result = build_processor(
            config,
            find_tokenizer_folder(source, tokenizer, base),
            _preprocessor_file(source, base),
            generation_config.pad_token_id,
            generation_config.eos_token_id,
        )
        config.image_token_id, config.video_token_id = result.image_token_id, result.video_token_id
        _complete_config(config, plan, lora_alpha, merge, options.dtype)
        files, size = _write_weights(folder, plan, merge, options)
        write_code_and_configs(
            folder, config, generation_config, result.processor, (PllavaForConditionalGeneration, PllavaProcessor)
        )
        write_origin(folder, "hf-videollm convert pllava", [("checkpoint", source), ("base", base)])
    if not plan.lora:
        notes.append("the source has no LoRA: it was merged before, so its alpha cannot be changed.")
    keeps_lora = bool(plan.lora) and merge is None
    return ConversionReport(
        source=str(source),
        destination=str(destination),
        kind=plan.kind,
        parameters=sum(math.prod(tensor.shape) for tensor in plan.weights.values()),
        weight_bytes=size,
        weight_files=[str(file.relative_to(folder)) for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        lora_rank=plan.rank,
        lora_alpha=lora_alpha if keeps_lora else None,
        merged_alpha=merge,
        token_ids={"image": result.image_token_id, "video": result.video_token_id},
        has_processor=result.processor is not None,
        notes=[*result.notes, *notes],
    )


def _check_alphas(lora_alpha: float, merge: float | None) -> None:
    for name, alpha in (("lora_alpha", lora_alpha), ("merge", merge)):
        if alpha is not None and not (math.isfinite(alpha) and alpha >= 0):
            raise CheckpointError(f"{name} must be a number of at least 0, not {alpha}.")
    if merge is not None and lora_alpha != DEFAULT_ALPHA:
        raise CheckpointError(
            f"merge={merge:g} merges the LoRA, so lora_alpha={lora_alpha:g} would have no effect: pass one of them."
        )


def _check_options(plan: ConversionPlan, source: Path, lora_alpha: float, merge: float | None) -> None:
    if plan.lora:
        return
    for name, is_asked in (("merge", merge is not None), ("lora_alpha", lora_alpha != DEFAULT_ALPHA)):
        if is_asked:
            raise CheckpointError(
                f"{source} has no LoRA (it was merged before), so {name} would have no effect: leave it out."
            )


def _compare_base(raw: dict[str, Any], base: Path) -> list[str]:
    """Notes on fields of the base that contradict the source. The source is used, as in the original code."""
    file = base / "config.json"
    if not file.is_file():
        return []
    stored = read_json(file)
    notes = []
    if "pooling_shape" in stored:
        notes.append(f"{file} describes a PLLaVA model: the base should be the plain LLaVA-NeXT folder.")
    notes += compare_bases(stored.get("text_config"), raw.get("text_config"), file)
    return notes


def _preprocessor_file(source: Path, base: Path | None) -> Path | None:
    candidates = [folder / "preprocessor_config.json" for folder in (source, base) if folder is not None]
    return next((file for file in candidates if file.is_file()), None)


def _complete_config(
    config: PllavaConfig, plan: ConversionPlan, lora_alpha: float, merge: float | None, dtype: torch.dtype | None
) -> None:
    """Set the fields that depend on the weights and the options."""
    config.architectures = [PllavaForConditionalGeneration.__name__]
    config.dtype = dtype or config.dtype or usual_dtype(plan.weights.values())
    config.tie_word_embeddings = plan.tied
    config.text_config.tie_word_embeddings = plan.tied
    if plan.lora:
        config.lora_training_alpha = TRAINING_ALPHA
        if merge is None:
            config.lora_adapter, config.lora_alpha = ADAPTER_FOLDER, lora_alpha
        else:
            config.lora_merged_alpha = merge


def _write_weights(
    folder: Path, plan: ConversionPlan, merge: float | None, options: WriteOptions
) -> tuple[list[Path], int]:
    """Write model and adapter; return the files and their total size in bytes."""
    dtype = options.dtype
    plans = [TensorPlan(name, tensor.shape, dtype or tensor.dtype) for name, tensor in plan.weights.items()]
    adapter = {}
    if merge is None:
        for layer, pair in plan.lora.items():
            for part, tensor in zip("AB", pair, strict=True):
                adapter[f"{PEFT_PREFIX}{layer}.lora_{part}.weight"] = tensor
    adapter_plans = [TensorPlan(name, tensor.shape, dtype or tensor.dtype) for name, tensor in adapter.items()]
    total = sum(item.nbytes for item in (*plans, *adapter_plans))
    check_space(folder, total)
    count = ByteCounter(total, options.progress)

    def load(name: str) -> Iterator[torch.Tensor]:
        tensor, pair = plan.weights[name], plan.lora.get(name.removesuffix(".weight"))
        blocks = read_blocks(tensor)
        if merge is not None and pair is not None:
            blocks = merged_blocks(tensor, pair, merge / pair[0].shape[0])
        return cast_blocks(blocks, dtype or tensor.dtype, tensor)

    def load_factor(name: str) -> Iterator[torch.Tensor]:
        return cast_blocks(read_blocks(adapter[name]), dtype or adapter[name].dtype, adapter[name])

    files = write_sharded(folder, plans, load, options.max_shard_size, count)
    if plan.rank is not None and adapter_plans:
        (folder / ADAPTER_FOLDER).mkdir()
        adapter_file = folder / ADAPTER_FOLDER / ADAPTER_WEIGHTS
        write_file(adapter_file, adapter_plans, load_factor, count)
        _adapter_config(plan.rank).save_pretrained(str(folder / ADAPTER_FOLDER))
        files.append(adapter_file)
    return files, total


def _adapter_config(rank: int) -> Any:
    # PEFT is imported only here, because the import takes seconds and also imports bitsandbytes.
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=TRAINING_ALPHA,
        target_modules=LORA_TARGETS,
        lora_dropout=TRAINING_DROPOUT,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )


__all__ = ["ConversionReport", "convert_pllava"]
