"""Loads a checkpoint as a pipeline that answers questions."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

from .known_models import find_model
from .models.configuration_video_llm import PIPELINE_TASK, PublishedConfig
from .models.errors import CheckpointError
from .models.pipeline_video_text_to_text import VideoTextToTextPipeline
from .models.video_llm_checkpoint_config import describe_impossible
from .models.video_llm_checkpoint_files import check_links, find_file, read_checkpoint_json
from .models.video_llm_contract import ModelContract
from .models.video_llm_lora_files import describe_adapter
from .models.video_llm_option_names import names_options
from .models.video_llm_processor_files import processor_errors
from .official import advice_for_official
from .pair_check import check_pair
from .training_outputs import is_training_output, load_trained

DTYPES = ("auto", "float32", "bfloat16", "float16")


@names_options
def load_pipeline(
    source: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    lora_alpha: float | None = None,
    trust_remote_code: bool = False,
) -> VideoTextToTextPipeline:
    """Load a checkpoint as a `"video-text-to-text"` pipeline.

    Args:
        source: folder, Hub id, or name of a bundled checkpoint; or what a training has left: its folder, one of its
            checkpoints, or an adapter.
        dtype: dtype of the weights, one of `DTYPES` or of torch; `"auto"` takes that of the checkpoint.
        device: a torch device; `None` takes the first GPU, or the CPU if there is no GPU.
        lora_alpha: strength of the checkpoint's LoRA adapter, for designs that keep it adjustable.
        trust_remote_code: allow code in the checkpoint's repository to run.

    Raises:
        TypeError: an option is unknown; the message names the most similar known one.
        ValueError: `dtype` is unknown, or the device is not available.
        CheckpointError: a file of the checkpoint is damaged, the checkpoint does not fit its model, or it has no
            adapter although `lora_alpha` is passed.
        OSError: the checkpoint cannot be found.
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    # False is passed, too: without a value, transformers would ask the user on the terminal.
    arguments: dict[str, Any] = {"trust_remote_code": bool(trust_remote_code)}
    place = _parse_device(device)
    source = find_model(source)
    if is_training_output(source):
        model, processor = _load_output(source, dtype, lora_alpha)
    else:
        model, processor = _load_checkpoint(source, dtype, lora_alpha, arguments)
    return pipeline(
        PIPELINE_TASK,
        model=model,
        processor=processor,
        tokenizer=processor.tokenizer,
        device=place,
        trust_remote_code=bool(trust_remote_code),
        pipeline_class=VideoTextToTextPipeline,
    )


def _load_checkpoint(source: str, dtype: str, lora_alpha: float | None, arguments: dict[str, Any]) -> tuple[Any, Any]:
    # This refuses official checkpoints that were not converted. They would load as another model, mostly random.
    config = load_design_config(source, **arguments)
    # A design that keeps its adapter checks in `from_pretrained` whether the checkpoint has one.
    keeps_lora = isinstance(config, PublishedConfig) and config.keeps_lora
    if lora_alpha is not None and not keeps_lora:
        raise CheckpointError(_no_alpha(source))
    model = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, **arguments, **({} if lora_alpha is None else {"lora_alpha": lora_alpha})
    )
    with processor_errors(source, arguments):
        processor = AutoProcessor.from_pretrained(source, **arguments)
    try:
        check_pair(model.config, processor)
    except ValueError as error:
        raise CheckpointError(f"{source} holds model and processor of different models. {error}") from error
    return model, processor


def _load_output(source: str, dtype: str, lora_alpha: float | None) -> tuple[Any, Any]:
    """Load the adapter, or the newest checkpoint, that a training has left."""
    model, processor = load_trained(source, dtype=dtype)
    if lora_alpha is not None:
        if not isinstance(model, ModelContract) or not model.keeps_lora or model.lora_name() is None:
            raise CheckpointError(_no_alpha(source))
        adjustable: Any = model
        adjustable.set_lora_alpha(lora_alpha)
    return model, processor


def _no_alpha(source: str) -> str:
    return f"{source} has no LoRA adapter whose strength could be set: leave out lora_alpha."


def _parse_device(device: str | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown: use cpu, cuda or cuda:0.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch sees no GPU here: use cpu.")
    try:
        torch.ones(1, device=place).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # NotImplementedError is a RuntimeError
        raise ValueError(f"device={device!r} was asked for, but torch cannot use it here: use cpu.") from error
    return place


def _why_no_config(folder: str) -> str:
    """The message for a folder without config.json."""
    adapter = describe_adapter(Path(folder))
    if adapter is None:
        return f"{folder} holds no config.json: give the folder that from_pretrained loads, or a Hub id."
    return (
        f"{folder} is {adapter}, and does not hold that model: write a complete checkpoint with "
        f"`hf-videollm finish checkpoint {folder} DST`, and pass its folder (docs/how_to/finish.md)."
    )


def _require_model_type(content: dict[str, Any], file: Path) -> None:
    """Refuse another value than a name. transformers would ignore it and look for code in the repository."""
    if not isinstance(model_type := content.get("model_type", ""), str):
        raise CheckpointError(
            f"{file}: model_type must be the name of a design, such as pllava, not {model_type!r:.100}: download the "
            "file again."
        )


def load_design_config(source: str, **kwargs: Any) -> PublishedConfig:
    """Load the configuration of a checkpoint of one of the designs.

    Raises:
        CheckpointError: it is no such checkpoint, or the configuration has impossible values. For an official
            checkpoint, the message names the command that converts it.
    """
    source = find_model(source)
    if os.path.isdir(source) and not os.path.isfile(os.path.join(source, "config.json")):
        raise CheckpointError(_why_no_config(source))
    if os.path.isdir(source):
        check_links(Path(source))
    # This refuses a file that is too long, nested too deeply or no JSON, before transformers parses it.
    if (file := find_file(source, "config.json", kwargs)) is not None:
        _require_model_type(read_checkpoint_json(file), file)
    kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
    try:
        config = AutoConfig.from_pretrained(source, **kwargs)
    except StrictDataclassError as error:
        raise CheckpointError(f"{source}: {describe_impossible(error)}") from error
    except CheckpointError as error:
        if advice := advice_for_official(source):
            raise CheckpointError(f"{source} is an unconverted checkpoint. {advice}") from error
        raise
    except (OSError, ValueError) as error:
        if advice := advice_for_official(source):
            raise CheckpointError(f"{source} is an unconverted checkpoint. {advice}") from error
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{source} is no checkpoint that can be read ({reason.rstrip('.')}). Give a folder with config.json, or a "
            "Hub id."
        ) from error
    if not isinstance(config, PublishedConfig) and not kwargs.get("trust_remote_code"):
        advice = advice_for_official(source) or "hf-videollm convert --help tells what can be converted."
        raise CheckpointError(
            f"{source} is a checkpoint of type {config.model_type!r}, not one of the designs of hf_videollm. {advice}"
        )
    return config
