"""What the converters of all designs share: checks before anything is written, and the writing itself."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save

from ..atomic import is_home_or_working_folder
from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_config import IMPOSSIBLE, check_config_values
from .stream import Load, StoredTensor, TensorPlan, read_json, write_sharded

Progress = Callable[[int, int], None]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Fields whose values are not visible in any shape: a base with other ones is probably the wrong one.
SILENT_FIELDS = ("rope_theta", "rms_norm_eps", "num_attention_heads", "hidden_act", "rope_scaling")
# Not part of the architecture: a leftover of training that would make generation slow, and one that changes nothing.
DROPPED_FIELDS = ("use_cache", "pretraining_tp")


# Options


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type that weights are cast to; `None` keeps them.

    Raises:
        CheckpointError: a type that weights are not kept in.
    """
    if dtype is None:
        return None
    parsed = DTYPES.get(str(dtype).removeprefix("torch."))
    if parsed is None:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}.")
    return parsed


def check_places(destination: Path, inputs: Mapping[str, Path | None]) -> None:
    """Replacing the destination must not remove what is being read.

    Args:
        destination: folder to write.
        inputs: what is read (a folder or a file) by its name in messages.

    Raises:
        CheckpointError: the destination holds an input, or is the home or the working folder.
    """
    target = destination.resolve()
    for name, path in inputs.items():
        if path is not None and (path.resolve() == target or target in path.resolve().parents):
            raise CheckpointError(f"{destination} is, or contains, the {name} {path}: choose another destination.")
    if is_home_or_working_folder(destination):
        raise CheckpointError(f"{destination} is the home or the working folder: choose a folder of its own.")


def check_space(folder: Path, needed: int) -> None:
    """Raises `CheckpointError` when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder.parent} has {free:,} bytes free, but the converted weights need {needed:,}: make room first."
        )


# Configurations


def config_dtype(raw: Mapping[str, Any], file: Path) -> torch.dtype | None:
    """`torch_dtype` of a config.json; `None` when it says nothing.

    Raises:
        CheckpointError: a type that weights are not kept in.
    """
    name = raw.get("torch_dtype", raw.get("dtype"))
    if name in (None, "auto"):
        return None
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise CheckpointError(f"{file}: torch_dtype {name!r} is none of {', '.join(DTYPES)}.")
    return dtype


def tower_config(
    section: Mapping[str, Any], model_type: str, defaults: Mapping[str, Any] | None = None
) -> PreTrainedConfig:
    """Configuration of a tower or language model from the fields that describe its architecture.

    Args:
        section: fields of an official config.json; those that this model does not know are left behind.
        model_type: name of the model in transformers.
        defaults: values of fields that are absent or null, where the file was written with other defaults than
            those of today.

    Raises:
        ValueError: the name is unknown.
    """
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type {model_type!r} is unknown to transformers.")
    config_class = CONFIG_MAPPING[model_type]
    known = {entry.name for entry in dataclasses.fields(config_class)} | {"rope_theta", "rope_scaling"}
    known -= {entry.name for entry in dataclasses.fields(PreTrainedConfig)} | set(DROPPED_FIELDS)
    values = dict(defaults or {})
    for name in known & section.keys():
        # Where a default is known, null means it; elsewhere null may be a setting of its own.
        if section[name] is not None or (name not in values and name != "rope_scaling"):
            values[name] = section[name]
    return config_class(**values)


def usual_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The type that most bytes are kept in."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def token_ids(source: Path, raw: Mapping[str, Any], text: Any) -> dict[str, Any]:
    """Ids of the beginning and the end of a text and of padding.

    Args:
        source: checkpoint folder; its generation_config.json counts before config.json.
        raw: content of the official config.json.
        text: configuration of the language model, for what both leave out.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is no id.
    """
    file = source / "generation_config.json"
    stored = read_json(file) if file.is_file() else {}
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = next((place[name] for place in (stored, raw) if place.get(name) is not None), getattr(text, name, None))
        allowed = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(item is None or (isinstance(item, int) and not isinstance(item, bool)) for item in allowed):
            place = file if name in stored else source / "config.json"
            raise CheckpointError(f"{place}: {name} {value!r} is no token id.")
        ids[name] = value
    return ids


def compare_bases(theirs: Any, ours: Any, file: Path) -> list[str]:
    """Notes on facts of a base's language model that contradict the source; the source counts, as in the originals.

    Args:
        theirs: fields of the base's language model.
        ours: fields of the source's language model.
        file: config.json of the base.
    """
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return []
    return [
        f"{name} of the language model is {theirs[name]} in {file} and {ours[name]} in the source, which counts: "
        "is this the base that it was trained from?"
        for name in SILENT_FIELDS
        if name in theirs and name in ours and theirs[name] != ours[name]
    ]


def pixel_options(vision: Any) -> dict[str, Any]:
    """Options that image and video processor share: CLIP resizes the shorter side and crops, SigLIP squeezes."""
    size = vision.image_size
    if vision.model_type == "clip_vision_model":
        return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return {
        "size": {"height": size, "width": size},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def check_raw_config(content: Mapping[str, Any], file: Path) -> None:
    """Raises `CheckpointError` when a configuration holds numbers that no model has, or is nested without end."""
    try:
        check_config_values(content)
    except ValueError as error:
        raise CheckpointError(f"{file} describes no model that can be built ({error}).") from error


# Tensors


def model_shapes(config: Any, model_class: Any, file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model; no memory is taken.

    Raises:
        CheckpointError: nothing can be built from this configuration; `file` is named.
    """
    check_raw_config(config.to_dict(), file)
    try:
        with torch.device("meta"):
            model = model_class(config)
    except IMPOSSIBLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{file} describes no model that can be built ({reason}).") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def misfits(
    weights: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    unknown: Iterable[StoredTensor],
    describe_missing: Callable[[str], str],
    design: str,
) -> list[str]:
    """One sentence for every tensor that is missing, left over, of another shape, or quantized.

    Args:
        weights: our name -> stored tensor.
        expected: our name -> shape in the model.
        unknown: tensors that have no name in the model.
        describe_missing: our name -> the name that its owner would use, and where it should be.
        design: name of the design in messages.
    """
    surplus = [*unknown, *(tensor for name, tensor in weights.items() if name not in expected)]
    return [
        *(f"{describe_missing(name)}" for name in expected if name not in weights),
        *(f"{tensor.name} in {tensor.place} has no place in {design}" for tensor in surplus),
        *(
            f"{tensor.name} in {tensor.place} has the shape {shape_text(tensor.shape)} instead of "
            f"{shape_text(expected[name])}"
            for name, tensor in weights.items()
            if name in expected and tensor.shape != expected[name]
        ),
        *(
            f"{tensor.name} in {tensor.place} is {str(tensor.dtype).removeprefix('torch.')}: quantized weights cannot "
            "be converted, use the original ones"
            for tensor in weights.values()
            if tensor.dtype not in FLOATS
        ),
    ]


def refuse(problems: Sequence[str], limit: int = 3) -> None:
    """Raises `CheckpointError` with the first few of the problems in one line, if there are any."""
    if problems:
        more = f" (and {len(problems) - limit} more)" if len(problems) > limit else ""
        raise CheckpointError("; ".join(problems[:limit]) + more + ".")


def shape_text(shape: tuple[int, ...]) -> str:
    """`(2, 3)`, and `(2)` for one dimension."""
    return "(" + ", ".join(map(str, shape)) + ")"


def merge_lora(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """W + scale * B A, in float32 whatever the weights are kept in (float64 stays)."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=scale)


# Writing


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
    max_shard_size: int,
    progress: Progress | None,
) -> tuple[list[Path], int]:
    """Write the weights of a model one by one; files and their total size in bytes.

    Args:
        plans: names, shapes and types of the tensors, in the order in which they are written.
        load: name -> the tensor, or its parts along the first dimension.
        max_shard_size: bytes of one file.
        progress: called with (bytes written, bytes to write).

    Raises:
        CheckpointError: the disk has not enough room.
    """
    total = sum(item.nbytes for item in plans)
    check_space(folder, total)
    return write_sharded(folder, plans, load, max_shard_size, ByteCounter(total, progress)), total


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
