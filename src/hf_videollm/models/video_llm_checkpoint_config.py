"""Checks that a model can be built from a configuration, before memory for its weights is allocated.

First the JSON values are checked, then the model is built on torch's device "meta", where tensors take no memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.activations import ACT2FN

from .errors import CheckpointError
from .video_llm_checkpoint_files import StoredHeader
from .video_llm_option_names import nearest

# Exceptions that building a model from impossible values can raise.
IMPOSSIBLE = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
MAX_DEPTH, MAX_ENTRIES = 32, 200_000
# Fields whose names end in these words count modules. Each module takes time to make, even if it is tiny, so their
# number is limited to `MAX_COUNT`.
COUNTS = ("layers", "blocks", "depth", "depths", "heads", "experts", "groups", "insertions")
MAX_COUNT = 1024
# Fields that count layers which have weights, at least one tensor each.
LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
# Fields whose names end in these words are sizes of tensors.
SIZES = ("size", "dim", "width", "channels", "frames", "queries", "tokens", "bins", "buckets", "kernel")
# Fields that a model divides by, or that would make all its tensors empty.
POSITIVE = ("num_attention_heads", "num_key_value_heads", "patch_size", "hidden_size", "image_size", "vocab_size")
MAX_SIZE, MAX_INTEGER = 2**31, 2**53
# Fields that may be infinite: the limits of Mamba's time steps have no upper bound.
UNBOUNDED = ("time_step_limit",)
# A model may have this many more values than the weight files: some are computed (tables of positions).
ROOM = 2**26


class CheckedConfigMixin:
    """Checks the values of a configuration before it is used. As a base class, it must precede `PreTrainedConfig`."""

    model_type: ClassVar[str]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As in transformers.

        Raises:
            CheckpointError: no model can be built from the values.
            ValueError: an option of the call is out of range.
        """
        where = kwargs.get("name_or_path") or config_dict.get("_name_or_path") or "The checkpoint"
        try:
            check_config_values(config_dict)
            _refuse_misspelt(config_dict, cls)
            found = super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        except IMPOSSIBLE as error:
            raise CheckpointError(f"{where}: {describe_impossible(error)}") from error
        try:
            # transformers sets options of the call after it has checked the values of the file.
            (found[0] if isinstance(found, tuple) else found).validate()
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error
        return found


def describe_impossible(error: BaseException) -> str:
    """One sentence that tells why no model can be built from a configuration.

    A strict dataclass wraps its error in one that only names the failed check. Then the inner error is used.
    """
    reason = " ".join(
        str(error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error).split()
    )
    return f"config.json describes no model that can be built ({reason.rstrip('.')[:300] or type(error).__name__})."


def check_config_values(content: Mapping[str, Any]) -> None:
    """Refuse numbers that are too large or negative, and content that is nested too deeply or has too many entries.

    Raises:
        ValueError: the content is refused; the message names the field.
    """
    seen = 0
    pending: list[tuple[str, Any, int]] = [("", dict(content), 0)]
    while pending:
        name, value, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_ENTRIES:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep, or has more than {MAX_ENTRIES:,} entries")
        _check_rope(name, value)
        if isinstance(value, Mapping):
            pending += [(str(key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(name, item, depth + 1) for item in value]
        else:
            _check_number(name, value)


def _refuse_misspelt(content: Mapping[str, Any], config_class: Any) -> None:
    """Refuse an unknown field that is almost the name of a known one.

    Other unknown fields are allowed: a later release may have saved them.
    """
    known = {field.name for field in fields(config_class)}
    for name in content:
        if name not in known and not hasattr(config_class, name) and (similar := nearest(name, known, cutoff=0.93)):
            raise ValueError(f"there is no field {name!r:.60}: did you mean {similar[0]}?")


def check_quantization(quantization: Any) -> None:
    """Refuse a quantization that transformers does not know; it would load the weights as if they were not quantized.

    Raises:
        ValueError: the value names no method of transformers.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if not isinstance(quantization, Mapping):
        return  # transformers itself has made this object
    method = quantization.get("quant_method")
    if quantization.get("load_in_8bit") or quantization.get("load_in_4bit"):
        return
    if not isinstance(method, str) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ValueError(f"quantization_config names the method {method!r:.60}, which transformers does not know")


def check_activation(field: str, name: str) -> None:
    """Refuse the name of an activation function that transformers does not have.

    Raises:
        ValueError: there is no such function; the message names the field and the most similar functions.
    """
    if name not in ACT2FN:
        hint = (
            f"did you mean {' or '.join(similar)}?" if (similar := nearest(name, ACT2FN)) else "such as gelu or silu."
        )
        raise ValueError(f"{field} must be an activation function of transformers, not {name!r:.50}: {hint}")


def _check_rope(name: str, value: Any) -> None:
    """Check the fields of rotary positions, of which transformers replaces some wrong values by its default."""
    if name == "rope_theta" and value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"rope_theta must be a number, not {value!r:.50}")
    if name in ("rope_parameters", "rope_scaling") and value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object with rope_theta and rope_type, not {value!r:.50}")


def _check_number(name: str, value: Any) -> None:
    if name in ("dtype", "torch_dtype") and isinstance(value, str) and value != "auto":
        if not isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype):
            raise ValueError(f"{name} is {value!r:.50}, which is no data type of torch")
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float):
        if not math.isfinite(value) and name not in UNBOUNDED:
            raise ValueError(f"{name} is {value}")
        return
    if name in POSITIVE and value == 0:
        raise ValueError(f"{name} is 0")
    last = name.rsplit("_", 1)[-1]
    if last in (*COUNTS, *SIZES) and value < -1:
        raise ValueError(f"{name} is negative ({value})")
    highest = MAX_COUNT if last in COUNTS else MAX_SIZE if last in SIZES else MAX_INTEGER
    if abs(value) > highest:
        raise ValueError(f"{name} is {value:,}, more than {highest:,}")


def _most_layers(content: Any) -> int:
    """The largest number of layers in a configuration and the configurations inside it."""
    if not isinstance(content, Mapping):
        return 0
    own = [content[name] for name in LAYERS if isinstance(content.get(name), int)]
    return max([0, *own, *map(_most_layers, content.values())])


def check_sizes(
    make: Callable[[], nn.Module],
    config: Any,
    headers: Sequence[StoredHeader],
    source: Any,
    is_quantized: bool,
    is_strict: bool,
) -> None:
    """Refuse a configuration whose model is far larger than its weight files, and a tensor larger than the model.

    Args:
        make: builds the model of `config`; it is called on torch's device "meta", where tensors take no memory.
        config: the configuration.
        headers: the headers of the stored tensors.
        source: folder or Hub id of the checkpoint, for error messages.
        is_quantized: the weights are quantized, so one stored value may hold several weights.
        is_strict: every weight of the model must be stored. Without it, any number of weights may be missing.

    Raises:
        CheckpointError: the model cannot be built, or its size does not fit the weight files.
    """
    # Making many layers takes long, so their number is compared with the number of stored tensors before that.
    if is_strict and (deepest := _most_layers(config.to_dict())) > len(headers):
        raise CheckpointError(
            f"{source}: config.json describes {deepest:,} layers, but the weight files hold {len(headers):,} tensors: "
            "they do not belong together."
        )
    try:
        with torch.device("meta"):
            model = make()
    except ImportError:  # a package is missing; transformers names it in its own error when it loads the model
        return
    except IMPOSSIBLE as error:
        raise CheckpointError(f"{source}: {describe_impossible(error)}") from error
    needed = sum(weight.numel() for weight in model.parameters())
    computed = sum(buffer.numel() for buffer in model.buffers())
    stored = [header.numel for header in headers]
    most = sum(stored) * (32 if is_quantized else 2) + ROOM
    if (is_strict and needed > most) or computed > most:
        raise CheckpointError(
            f"{source}: config.json describes a model of {needed + computed:,} values, but the weight files hold "
            f"{sum(stored):,}: they do not belong together."
        )
    if max(stored, default=0) > needed + computed + ROOM and not is_quantized:
        raise CheckpointError(
            f"{source}: a weight file holds a tensor of {max(stored):,} values, more than the whole model of "
            f"config.json ({needed + computed:,}): they do not belong together."
        )


__all__ = [
    "IMPOSSIBLE",
    "CheckedConfigMixin",
    "check_activation",
    "check_config_values",
    "check_quantization",
    "check_sizes",
    "describe_impossible",
]
