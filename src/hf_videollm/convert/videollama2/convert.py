"""Converts official VideoLLaMA2 checkpoints to folders that `from_pretrained` loads, tensor by tensor.

Everything is checked before the first weight is written, and the folder appears complete or not at all.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...atomic import atomic_folder
from ...models.configuration_video_llm import has_tied_embeddings
from ...models.configuration_videollama2 import VideoLlama2Config
from ...models.modeling_videollama2 import VideoLlama2ForCausalLM
from ...models.modeling_videollama2_av import VideoLlama2AVForCausalLM
from ...models.processing_videollama2 import VideoLlama2Processor
from ...models.processing_videollama2_av import VideoLlama2AVProcessor
from ...origin import write_origin
from .. import MAX_SHARD_SIZE
from ..blocks import cast_blocks, merged_blocks, read_blocks
from ..configs import compare_bases
from ..options import (
    Progress,
    Source,
    WriteOptions,
    check_write_options,
    optional_path,
)
from ..report import Rows, WrittenReport
from ..stream import StoredTensor, TensorPlan, read_json
from ..tensors import model_shapes, usual_dtype
from ..tokenizers import find_tokenizer_folder
from ..writing import write_code_and_configs, write_weights
from .beats import beats_config
from .config import build_config, build_vision_config, can_hear, language_model, read_source_config
from .keys import ConversionPlan, check_copies, plan_conversion
from .processor import build_generation_config, build_processor
from .sources import Inputs, Sources, collect_sources


@dataclass(frozen=True, kw_only=True)
class VideoLlama2Report(WrittenReport):
    """The report of a conversion of VideoLLaMA2.

    Attributes:
        source: folder of the official checkpoint.
        kind: kind of the source: `"complete"`, `"projector"` (the "Base" form: projectors only) or `"lora"`.
        design: `model_type` of the converted checkpoint.
        origins: part of the model -> where its weights came from.
        lora_scale: factor with which the LoRA was merged; `None` without a LoRA.
    """

    source: str
    kind: str
    design: str
    origins: dict[str, str]
    lora_scale: float | None

    def source_rows(self) -> Rows:
        return [("converted", f"{self.source} ({self.kind} checkpoint)"), *self.origins.items()]

    def detail_rows(self) -> Rows:
        lora = [] if self.lora_scale is None else [("LoRA", f"merged with the factor {self.lora_scale:g}")]
        return [("design", self.design), *lora]


def convert_videollama2(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    vision: str | os.PathLike[str] | None = None,
    vision_config: str | os.PathLike[str] | None = None,
    audio_tower: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> VideoLlama2Report:
    """Convert an official VideoLLaMA2 or VideoLLaMA2-AV checkpoint. Its kind is recognised by its files and tensors.

    A LoRA is merged into the weights, one weight at a time. Pickles are read in a separate process.

    Args:
        source: folder with config.json and all weights, or with the files that training writes for a partial
            checkpoint: mm_projector.bin, mm_projector_a.bin, audio_tower.bin, or a LoRA with non_lora_trainables.bin.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        base: folder of the language model or VideoLLaMA2 checkpoint from which a partial checkpoint was trained. By
            default it is the local folder that config.json names, if this folder exists.
        vision: folder or weight file of the CLIP or SigLIP, if the checkpoint does not hold it.
        vision_config: JSON file with the configuration of the vision tower, if its name is unknown.
        audio_tower: BEATs file, for an AV checkpoint that does not hold its audio tower.
        tokenizer: folder of the tokenizer, if neither the source nor the base has the right one.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); by default the stored types are kept.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).

    Returns:
        What was read and written.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor does not fit, or an option has no effect for this
            checkpoint. The message names the file, the tensor and the fix.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    inputs = Inputs(Path(source), *map(optional_path, (base, vision, vision_config, audio_tower, tokenizer)))
    folders = {"source": "the VideoLLaMA2 checkpoint", "base": "the base", "tokenizer": "the tokenizer"}
    options = check_write_options(
        destination,
        [Source(name, path, folders.get(name), needs_config=name == "source") for name, path in asdict(inputs).items()],
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        progress=progress,
    )

    with (
        atomic_folder(options.destination, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder, prefix="pickles.") as workspace,
    ):
        file = inputs.source / "config.json"
        raw = read_source_config(inputs.source)
        sources = collect_sources(inputs, raw, Path(workspace))
        ear = beats_config(sources.ear, sources.ear_settings) if sources.ear is not None and can_hear(raw) else None
        config, notes = build_config(raw, file, build_vision_config(raw, inputs.vision_config, inputs.vision), ear)
        model_class: Any = VideoLlama2ForCausalLM if ear is None else VideoLlama2AVForCausalLM
        processor_class: Any = VideoLlama2Processor if ear is None else VideoLlama2AVProcessor
        expected = model_shapes(config, model_class, file)
        is_tied = has_tied_embeddings(config.text_config)
        plan = plan_conversion(expected, sources.places, sources.lora_scale, is_tied)
        if ear is not None:
            check_copies(plan.owners["audio tower"])
        result = build_processor(
            config, language_model(raw), find_tokenizer_folder(inputs.source, inputs.tokenizer, sources.base)
        )
        generation_config, generation_notes = build_generation_config(inputs.source, raw, config, result.tokenizer)
        notes += sources.notes + _compare_base(raw, sources) + result.notes + generation_notes
        _complete_config(config, plan, result.token_ids, options.dtype, model_class)
        notes += _compare_dtypes(config, plan, options.dtype)
        files, size = _write_weights(folder, plan, options)
        write_code_and_configs(folder, config, generation_config, result.processor, (model_class, processor_class))
        places = {"checkpoint": inputs.source, "base": inputs.base, "vision tower": inputs.vision}
        places["audio tower"] = inputs.audio_tower
        write_origin(folder, "hf-videollm convert videollama2", places.items())
    return VideoLlama2Report(
        source=str(source),
        destination=str(destination),
        kind=sources.kind,
        design=config.model_type,
        origins={part: str(place.origin) for part, place in plan.owners.items()},
        parameters=sum(math.prod(shape) for shape in plan.shapes.values()),
        weight_bytes=size,
        weight_files=[file.name for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        lora_scale=sources.lora_scale,
        token_ids=result.token_ids,
        has_processor=result.processor is not None,
        notes=notes,
    )


def _compare_base(raw: dict[str, Any], sources: Sources) -> list[str]:
    """Notes on fields of the base that contradict the source."""
    if sources.base is None or not (file := sources.base / "config.json").is_file():
        return []
    return compare_bases(read_json(file), raw, file)


def _compare_dtypes(config: VideoLlama2Config, plan: ConversionPlan, dtype: torch.dtype | None) -> list[str]:
    """A note if the parts of a checkpoint have different types and keep them."""
    names = sorted(
        {str(tensor.dtype).removeprefix("torch.") for tensor in plan.tensors if tensor.dtype.is_floating_point}
    )
    if dtype is not None or len(names) < 2:
        return []
    loaded = str(config.dtype).removeprefix("torch.")
    return [f"the weights are stored as {' and '.join(names)} and load as {loaded}: --dtype gives all one type."]


def _complete_config(
    config: VideoLlama2Config,
    plan: ConversionPlan,
    token_ids: dict[str, int],
    dtype: torch.dtype | None,
    model_class: type,
) -> None:
    """Set the fields that depend on the weights, the tokenizer and the options."""
    for modality, token_id in token_ids.items():
        setattr(config, f"{modality}_token_id", token_id)
    config.architectures = [model_class.__name__]
    config.dtype = dtype or config.dtype or usual_dtype(plan.tensors)
    config.tie_word_embeddings = plan.tied
    config.text_config.tie_word_embeddings = plan.tied


def _write_weights(folder: Path, plan: ConversionPlan, options: WriteOptions) -> tuple[list[Path], int]:
    """Write the model; return the files and their total size in bytes."""
    types = {name: options.dtype or pieces[0].dtype for name, pieces in plan.pieces.items()}
    plans = [TensorPlan(name, shape, types[name]) for name, shape in plan.shapes.items()]

    def load(name: str) -> Iterator[torch.Tensor]:
        for piece in plan.pieces[name]:
            yield from cast_blocks(_merged(piece, plan), types[name], piece)

    return write_weights(folder, plans, load, options)


def _merged(stored: StoredTensor, plan: ConversionPlan) -> Iterator[torch.Tensor]:
    """Read a tensor block by block, and add its LoRA if it has one. The result has the type of the stored tensor."""
    factors = plan.lora.get(stored)
    if factors is None:
        return read_blocks(stored)
    return cast_blocks(merged_blocks(stored, (factors.a, factors.b), factors.scale), stored.dtype, stored)


__all__ = ["VideoLlama2Report", "convert_videollama2"]
