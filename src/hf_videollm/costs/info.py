"""Describes a checkpoint without loading its weights: what it is, where it comes from, what it costs."""

import copy
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText

from ..inference import load_design_config
from ..models.configuration_video_llm import context_length
from ..models.errors import CheckpointError
from ..models.linvt_checkpoint import refuse_adapter
from ..models.video_llm_option_names import did_you_mean
from .cpu_bytes import process_bytes
from .memory import (
    DTYPES,
    HOW,
    LONGEST_SOUND,
    MemoryPrediction,
    filter_bank_frames,
    predict_memory,
    prompt_tokens,
    sound_seconds,
)
from .origin import BaseModel, Licence, Variants, read_origin
from .stored import StoredWeights, read_stored

FRAMES_OF_30_SECONDS = filter_bank_frames(30)
BYTES_PER_PARAMETER = {"float32": 4.0, "bfloat16": 2.0, "8-bit": 1.0, "4-bit": 0.5}


@dataclass(frozen=True)
class CheckpointInfo:
    """Facts about a checkpoint. Sizes are in bytes.

    Attributes:
        source: folder or Hub id.
        design: name of the model class.
        num_frames: frames that are sampled from a video.
        tokens_per_video: visual tokens of one video.
        tokens_per_image: visual tokens of one image; `None` for LinVT, whose image-LLM may use a different number for
            each image.
        tokens_per_sound: audio tokens of 30 seconds; `None` for designs without audio.
        parameters: number of parameters of each part of the model, and `"total"`.
        lora_alpha: strength of the LoRA adapter; `None` without one.
        weight_bytes: memory of all weights for each type in which they can be loaded. The numbers for 8-bit and 4-bit
            are lower bounds, because these formats keep some layers, such as embeddings and norms, in 16 bits.
        kv_cache_bytes: bfloat16 key-value cache of one video, `sound_seconds` of sound, and 256 tokens of text.
        quantization: how the checkpoint's weights are quantized, such as `"bitsandbytes 4-bit (nf4)"`; `None` if they
            are not. `weight_bytes` is the memory of the model before quantization.
        model_type: `model_type` of the configuration, such as `"pllava"`.
        revision: commit on the Hub that the files come from, if that is recorded.
        base_models: models that this one was made from, as README and config.json name them.
        training_data: names of the data that it was trained on, as its record says.
        licence: licence as README or licence file states it; `None` if none does.
        stored: what the weight files hold, by their headers; `None` if there are none to read.
        variants: quantized variants in other repositories.
        memory: predicted memory for one video, `sound_seconds` of sound, and tokens of text; `None` if it cannot be
            predicted.
        libraries_bytes: memory of this process, which has loaded Python and its libraries but no weights: about what
            comes besides `memory` on a CPU. `None` where the system does not tell.
        memory_by: how that prediction is made, in words.
        notes: what could not be read or does not fit, in sentences.
        sound_seconds: sound of the estimates of cache and memory: 30 seconds, or fewer if the context of the language
            model holds no more; 0 for designs without audio.
    """

    source: str
    design: str
    num_frames: int
    tokens_per_video: int
    tokens_per_image: int | None
    tokens_per_sound: int | None
    parameters: dict[str, int]
    lora_alpha: float | None
    weight_bytes: dict[str, int]
    kv_cache_bytes: int
    quantization: str | None = None
    model_type: str = ""
    revision: str | None = None
    base_models: list[BaseModel] = field(default_factory=list)
    training_data: list[str] = field(default_factory=list)
    licence: Licence | None = None
    stored: StoredWeights | None = None
    variants: Variants = field(default_factory=Variants)
    memory: MemoryPrediction | None = None
    libraries_bytes: int | None = None
    memory_by: str = HOW
    notes: list[str] = field(default_factory=list)
    sound_seconds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe_checkpoint(
    source: str | os.PathLike[str],
    text_tokens: int = 256,
    num_frames: int | None = None,
    dtype: str | None = None,
    memory: bool = True,
) -> CheckpointInfo:
    """Read configuration, README and headers of a checkpoint, and count what the model needs. No weights are read.

    Args:
        source: folder or Hub id. Small files of a Hub id are downloaded if they are not in the cache, weights are not.
        text_tokens: number of tokens of prompt and answer for the estimates of cache and memory.
        num_frames: frames of the video for these estimates; the number in the configuration by default.
        dtype: type of weights and activations for the estimate of memory, one of `memory.DTYPES`; that of the
            checkpoint by default.
        memory: also predict the memory, which takes nearly all of the time.

    Raises:
        ValueError: a number is below 1, or `dtype` is unknown.
        CheckpointError: the folder is not a checkpoint of one of the designs, holds only an adapter, or one of its
            files is damaged.
    """
    source = os.fspath(source)
    _check_case(text_tokens, num_frames, dtype)
    config = _load_config(source)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    tokens_per_video = config.num_video_tokens(config.num_frames)
    tokens_per_sound = config.num_audio_tokens(FRAMES_OF_30_SECONDS) if "audio" in config.modalities else None
    seconds = sound_seconds(config, num_frames=num_frames, text_tokens=text_tokens)
    tokens_of_case = prompt_tokens(config, num_frames=num_frames, text_tokens=text_tokens, seconds=seconds)
    parameters = count_parameters(model)
    content = config.to_dict()
    origin = read_origin(source, content)
    stored, unread = read_stored(source, content.get("lora_adapter"))
    quantization = describe_quantization(getattr(config, "quantization_config", None))
    case = {
        "text_tokens": text_tokens,
        "num_frames": num_frames,
        "sound_frames": filter_bank_frames(seconds) if seconds else None,
    }
    predicted, unknown = _predict(config, stored, quantization, case, dtype) if memory else (None, None)
    return CheckpointInfo(
        source=source,
        design=type(model).__name__,
        num_frames=config.num_frames,
        tokens_per_video=tokens_per_video,
        tokens_per_image=config.num_image_tokens(),
        tokens_per_sound=tokens_per_sound,
        parameters=parameters,
        lora_alpha=config.lora_alpha,
        weight_bytes={name: int(size * parameters["total"]) for name, size in BYTES_PER_PARAMETER.items()},
        kv_cache_bytes=kv_cache_bytes(config.get_text_config(), tokens_of_case),
        quantization=quantization,
        model_type=config.model_type,
        revision=origin.revision,
        base_models=origin.base_models,
        training_data=origin.training_data,
        licence=origin.licence,
        stored=stored,
        variants=origin.variants,
        memory=predicted,
        libraries_bytes=process_bytes(),
        notes=[
            note
            for note in (
                unread,
                unknown,
                _unlike(model, stored, quantization),
                _beyond_context(config, tokens_of_case, seconds),
            )
            if note is not None
        ],
        sound_seconds=seconds,
    )


def _beyond_context(config: Any, tokens: int, seconds: int) -> str | None:
    """A sentence about a prompt of the estimates that the context of the language model does not hold."""
    if (context := context_length(config)) is None:
        return None
    if tokens > context:
        return f"The estimates are for {tokens:,} tokens, but the language model reads at most {context:,}."
    if "audio" in config.modalities and seconds < LONGEST_SOUND:
        return (
            f"The language model reads at most {context:,} tokens, so the estimates are for {seconds} and not for "
            f"{LONGEST_SOUND} seconds of sound."
        )
    return None


def _check_case(text_tokens: int, num_frames: int | None, dtype: str | None) -> None:
    for name, value in (("text_tokens", text_tokens), ("num_frames", num_frames)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: {did_you_mean(dtype, DTYPES)}")


def _predict(
    config: Any, stored: StoredWeights | None, quantization: str | None, case: dict[str, Any], asked: str | None
) -> tuple[MemoryPrediction | None, str | None]:
    """The prediction in the type that was asked for or that of the checkpoint, or the reason why there is none."""
    if quantization is not None and stored is None:
        return None, "The memory cannot be predicted: the sizes of the quantized weights are not known."
    own = DTYPES.get(str(config.dtype).removeprefix("torch."), torch.float32)
    dtype = own if asked is None else DTYPES[asked]
    weights = None
    if quantization is not None and stored is not None:
        config, weights = copy.deepcopy(config), stored.bytes
        # Without values, the model cannot be quantized. Its activations have the same sizes.
        del config.quantization_config
    try:
        return predict_memory(config, dtype=dtype, weights=weights, is_mapped=dtype == own, **case), None
    except ValueError as error:
        return None, str(error)


def _unlike(model: Any, stored: StoredWeights | None, quantization: str | None) -> str | None:
    """A sentence about weight files that hold other numbers of parameters than the model has."""
    if stored is None or quantization is not None:
        return None
    found = sum(part.values for name, part in stored.parts.items() if name != "lora")
    # Buffers, such as statistics of norms, are stored, too. Weights that are tied are stored once or twice.
    own = count_parameters(model)["total"]
    buffers = sum(value.numel() for value in model.state_dict().values()) - sum(
        value.numel() for value in dict(model.named_parameters(remove_duplicate=False)).values()
    )
    tied = sum(value.numel() for value in dict(model.named_parameters(remove_duplicate=False)).values()) - own
    if own <= found <= own + buffers + tied:
        return None
    return f"The weight files hold {found:,} values, but a model of this config.json has {own:,}: they may not fit."


def describe_quantization(quantization_config: Any) -> str | None:
    """The method of a quantization config (an object of transformers, or a dict from config.json) in a few words."""
    if not quantization_config:
        return None
    content = quantization_config if isinstance(quantization_config, dict) else quantization_config.to_dict()
    method = str(content.get("quant_method"))
    if content.get("load_in_8bit"):
        return f"{method} 8-bit"
    if content.get("load_in_4bit"):
        return f"{method} 4-bit ({content.get('bnb_4bit_quant_type')})"
    return method


def _load_config(source: str) -> Any:
    """The configuration of a complete video model; for an image-LLM or an adapter, the error says how to get one."""
    try:
        config = load_design_config(source)
    except CheckpointError as error:
        if _model_type(source) != "xgen_mm":
            raise
        raise CheckpointError(
            f"{source} is XGen-MM, an image-LLM: add LinVT to use it for videos (LinVTForCausalLM.from_image_llm)."
        ) from error
    if config.model_type == "linvt":
        refuse_adapter(source)
    return config


def _model_type(source: str) -> str | None:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    except (OSError, ValueError, StrictDataclassError):
        return None


def count_parameters(model: Any) -> dict[str, int]:
    """Number of parameters of towers, connector, language model and head, by their names. Tied weights count once."""
    parts = {**dict(model.model.named_children()), "lm_head": model.lm_head}
    seen: set[int] = set()
    counts = {}
    for name, part in parts.items():
        fresh = [parameter for parameter in part.parameters() if id(parameter) not in seen]
        seen.update(id(parameter) for parameter in fresh)
        counts[name] = sum(parameter.numel() for parameter in fresh)
    return {**counts, "total": sum(counts.values())}


def kv_cache_bytes(text_config: Any, tokens: int, bytes_per_value: int = 2) -> int:
    """Size of the key-value cache of one sequence: 2 x layers x key-value heads x head width x tokens."""
    heads = text_config.num_attention_heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return 2 * text_config.num_hidden_layers * kv_heads * head_dim * tokens * bytes_per_value
