"""Opens what a training has left: a folder with an adapter of PEFT, a `checkpoint-N`, or the folder of a whole run.

An adapter needs the model that it was trained on. Trainings of this package record that model in `base_model.json`
beside the adapter. Of other trainings, the name that PEFT notes in `adapter_config.json` is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .atomic import atomic_file
from .base_loading import TRUST, load_for_training
from .known_models import bundled_checkpoints, find_model
from .models.errors import CheckpointError
from .models.video_llm_checkpoint import freeze_unused_parameters
from .models.video_llm_checkpoint_files import (
    check_file,
    check_headers,
    check_values,
    read_checkpoint_json,
    read_headers,
    read_weight_map,
)
from .models.video_llm_processor_files import processor_errors
from .pair_check import check_pair
from .weight_digest import weight_digest

__all__ = [
    "ADAPTER_CONFIG",
    "BASE_FILE",
    "CHECKPOINT",
    "OPTIMIZER",
    "BaseModel",
    "adapter_processor",
    "attach_adapter",
    "checkpoint_problem",
    "find_output",
    "is_training_output",
    "load_base",
    "load_trained",
    "open_base",
    "read_base",
    "write_base",
]

BASE_FILE = "base_model.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Files that a checkpoint of a training has besides its weights and `trainer_state.json`.
OPTIMIZER = ("optimizer.pt", "scheduler.pt")


@dataclass(frozen=True)
class BaseModel:
    """The model that a training began with.

    Attributes:
        model: absolute path of its folder, its Hub id, or the name of a bundled checkpoint.
        model_options: fields of its configuration that were changed, which may have added parts.
        seed: seed of the initial weights of these parts.
        quantization: the quantization config of its language model, as a dict; `None` if it was not quantized.
        digest: `weight_digest` of its folder when the training began; `None` for a model on the Hub.
    """

    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    quantization: dict[str, Any] | None = None
    digest: str | None = None

    @classmethod
    def of(cls, source: str, **others: Any) -> BaseModel:
        """Describe a model as it is now.

        Args:
            source: folder or Hub id.
            others: the fields `model_options`, `seed` and `quantization`.
        """
        path = Path(source).absolute()
        bundled = next((name for name, place in bundled_checkpoints().items() if place.absolute() == path), None)
        name = bundled or (str(path) if path.is_dir() else source)
        return cls(name, **others, digest=weight_digest(source))


def write_base(folder: str | os.PathLike[str], base: BaseModel) -> None:
    """Write the record of the base model into a folder."""
    with atomic_file(Path(folder) / BASE_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(base), indent=2) + "\n", encoding="utf-8")


def is_training_output(source: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter or checkpoints of a training, and no complete model of its own."""
    folder = Path(source)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return False
    return (folder / ADAPTER_CONFIG).is_file() or any(map(CHECKPOINT.fullmatch, os.listdir(folder)))


def find_output(source: str | os.PathLike[str]) -> Path:
    """The folder in which a training's model lies: the given one or, if it holds none, its newest whole checkpoint.

    Raises:
        CheckpointError: there is neither.
    """
    folder = Path(source)
    if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
        return folder
    names = os.listdir(folder) if folder.is_dir() else []
    numbered = sorted((int(match[1]), match[0]) for name in names if (match := CHECKPOINT.fullmatch(name)))
    problem = "it has no checkpoint-N"
    for _, name in reversed(numbered):
        if (found := checkpoint_problem(folder / name, ())) is None:
            return folder / name
        problem = f"{name}: {found}"
    raise CheckpointError(
        f"{folder} holds no model that a training has finished saving ({problem}): resume the training."
    )


def checkpoint_problem(folder: Path, needed: Sequence[str] | None = OPTIMIZER) -> str | None:
    """Why a checkpoint of a training is not whole; `None` if it is.

    Args:
        folder: a `checkpoint-N`.
        needed: files that it must have besides its weights and `trainer_state.json`. With `None`, neither these files
            nor the weights are checked: in a sharded training they are in folders of their own.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("global_step") != int(folder.name.rpartition("-")[2]):
            return "trainer_state.json is of another step"
    except (OSError, ValueError, RecursionError):
        return "trainer_state.json, which is written last, is missing or cut off"
    if needed is None:
        return None
    for name in needed:
        if not (folder / name).is_file():
            return f"{name} is missing"
    try:
        return _weight_problem(folder)
    except CheckpointError as error:
        return str(error)


def _weight_problem(folder: Path) -> str | None:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = {folder / name for index in indices for name in read_weight_map(index).values()}
    files |= set(folder.glob("*.safetensors"))
    if not files:
        return "it holds no weights"
    for file in sorted(files):
        read_headers(file)
    return None


def read_base(folder: Path) -> BaseModel:
    """The base model of an adapter: from its folder, that of its run, or the name that PEFT has noted.

    Raises:
        CheckpointError: a record is damaged, or nothing names the base model.
    """
    for file in (folder / BASE_FILE, folder.parent / BASE_FILE):
        # The folder above is that of the run only if this folder is one of its checkpoints.
        if file.is_file() and (file.parent == folder or CHECKPOINT.fullmatch(folder.name)):
            try:
                return BaseModel(**read_checkpoint_json(check_file(file, file.parent)))
            except TypeError as error:
                raise CheckpointError(f"{file} is no record of a base model ({error}): remove it.") from error
    name = read_checkpoint_json(check_file(folder / ADAPTER_CONFIG, folder)).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder} does not say which model its adapter was trained on: name it as the base.")
    return BaseModel(name)


def open_base(folder: Path, base: str | None = None) -> BaseModel:
    """The base model of an adapter, whose folder was found and is unchanged since the training.

    Args:
        folder: folder of the adapter.
        base: folder, Hub id or bundled name to take instead of the recorded one; it must hold the same weights.

    Raises:
        CheckpointError: it is not found, or holds other weights than those that were trained on.
    """
    recorded = read_base(folder)
    try:
        source = find_model(base or recorded.model)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is an adapter for the model {recorded.model}, which is not found ({error}): name its present "
            "place with --base, as in `hf-videollm finish checkpoint RUN DST --base FOLDER`."
        ) from error
    digest = weight_digest(source) if recorded.digest is not None else None
    if digest != recorded.digest and os.path.isdir(source):
        raise CheckpointError(
            f"{source} holds other weights than those that {folder} was trained on: name the right model with --base, "
            "as in `hf-videollm finish checkpoint RUN DST --base FOLDER`."
        )
    return BaseModel(**{**asdict(recorded), "model": source})


def load_trained(
    source: str | os.PathLike[str], *, base: str | None = None, quantized: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Load the model and processor that a training has left, whatever it has left them as.

    Args:
        source: folder of a run, a `checkpoint-N`, or a folder with an adapter or a complete model.
        base: the model that an adapter was trained on; the recorded one by default.
        quantized: load the language model quantized if it was so in the training.
        dtype: of the weights; `None` takes that of the checkpoint.

    Returns:
        The model, in evaluation mode, and its processor. The layers of an adapter stay separate inside the model, so
        that it computes exactly what it computed at the end of the training.

    Raises:
        CheckpointError: the folder holds no whole model, or the base model is missing or another one.

    Example:
        >>> model, processor = load_trained("runs/first")   # doctest: +SKIP
    """
    folder = find_output(find_model(source))
    if not (folder / ADAPTER_CONFIG).is_file():
        model, processor = load_for_training(str(folder), dtype=dtype)
        return model.eval(), processor
    model, processor = load_base(folder, base, quantized, dtype)
    model = attach_adapter(model, folder).get_base_model()
    freeze_unused_parameters(model)
    # Whoever asks where the model comes from must not take it for the base model.
    model.config.name_or_path = str(folder)
    return model.eval(), adapter_processor(folder, model) or processor


def load_base(folder: Path, base: str | None = None, quantized: bool = True, dtype: Any = None) -> tuple[Any, Any]:
    """Load the model and processor that an adapter was trained on.

    Args:
        folder: folder of the adapter, whose files are checked first.
        base: see `open_base`.
        quantized: see `load_trained`, as for `dtype`.
    """
    file = check_file(folder / ADAPTER_WEIGHTS, folder)
    check_values(check_headers([file], None))
    record = open_base(folder, base)
    quantization = _quantization(record.quantization) if quantized else None
    return load_for_training(record.model, record.model_options, record.seed, quantization, dtype)


def attach_adapter(model: Any, folder: Path) -> Any:
    """Put an adapter into a model, and return the model in PEFT's wrapper.

    Raises:
        CheckpointError: the adapter does not fit: a tensor of it would stay random, or would be left out.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        tuned = PeftModel.from_pretrained(model, str(folder))
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder} holds an adapter that does not fit its base model: {reason[:300]}") from error
    with safe_open(str(folder / ADAPTER_WEIGHTS), "pt") as tensors:
        stored = set(tensors.keys())
    wanted = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    # PEFT may also have stored the embeddings, which it then loads as well.
    left = {name for name in stored - wanted if "embed" not in name and "lm_head" not in name}
    if wrong := sorted((wanted - stored) | left):
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS} does not fit the base model: {len(wrong)} tensors are only in one of them, "
            f"such as {wrong[0]}."
        )
    return tuned


def adapter_processor(folder: Path, model: Any) -> Any:
    """The processor that the training has saved beside the adapter; `None` if it saved none."""
    from transformers import AutoProcessor

    if not (folder / "processor_config.json").is_file():
        return None
    with processor_errors(folder, TRUST):
        processor = AutoProcessor.from_pretrained(folder, **TRUST)
    try:
        check_pair(model.config, processor)
    except ValueError as error:
        raise CheckpointError(f"{folder} holds a processor of another model. {error}") from error
    return processor


def _quantization(content: Mapping[str, Any] | None) -> Any:
    if content is None:
        return None
    from transformers.quantizers import AutoQuantizationConfig

    return AutoQuantizationConfig.from_dict(dict(content))
