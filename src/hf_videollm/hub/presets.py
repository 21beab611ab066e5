"""Ways to write a smaller variant of a checkpoint, by names. Only the language model is quantized.

The towers, the connector and the other parts of a design stay in bfloat16: each configuration class lists them
(`modules_to_not_convert`, used by `models/video_llm_quantization.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from ..models.errors import one_line
from ..models.video_llm_option_names import did_you_mean

# Sides of the small layer that is quantized to find out whether a preset works here. Both are multiples of 64 and 128,
# the block sizes of 4-bit weights.
PROBE = 128


class PresetError(ValueError):
    """A preset is unknown, or cannot be used on this machine."""


@dataclass(frozen=True)
class QuantizationPreset:
    """One way to write a variant.

    Attributes:
        name: name of the preset.
        suffix: what the repository of the variant has after the name of the original's repository.
        summary: what the preset does, in a few words.
        package: the package that quantizes; `None` if nothing is quantized.
        needs_gpu: whether the weights can be quantized and run on a GPU only.
        largest_error: largest relative error that a quantized layer may have, compared with the original.
        generation: fields of generation_config.json.
        config: further fields of config.json, which transformers reads when it loads the model.
    """

    name: str
    suffix: str
    summary: str
    package: str | None
    make_config: Callable[[], Any]
    needs_gpu: bool = False
    largest_error: float = 0.0
    generation: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """Type of all weights that are not quantized."""
        return torch.bfloat16

    @property
    def variant(self) -> str:
        """The short name of the variant, as `hf-videollm push --variants` takes it."""
        return self.suffix.removeprefix("-")

    def quantization_config(self) -> Any:
        """The quantization config of transformers for the language model; `None` if nothing is quantized.

        Raises:
            ImportError: the package of the preset is not installed.
        """
        return self.make_config()


def _nf4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _int8() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _torchao_int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _torchao_int4() -> Any:
    from torchao.quantization import Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int4WeightOnlyConfig(group_size=128))


def _torchao_dynamic_int8() -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig())


# The errors of layers that were quantized correctly lie far below these limits (docs/quantized.md has the measured
# ones); those of layers with wrong scales lie far above.
_LARGEST_INT4, _LARGEST_INT8 = 0.2, 0.06

PRESETS: dict[str, QuantizationPreset] = {
    preset.name: preset
    for preset in (
        QuantizationPreset(
            name="consumer-nf4",
            suffix="-nf4",
            summary="4 bits (NF4, double quantization), computed in bfloat16; for GPUs with little memory",
            package="bitsandbytes",
            make_config=_nf4,
            largest_error=_LARGEST_INT4,
        ),
        QuantizationPreset(
            name="consumer-int8",
            suffix="-int8",
            summary="8 bits (LLM.int8), for GPUs with little memory",
            package="bitsandbytes",
            make_config=_int8,
            largest_error=_LARGEST_INT8,
        ),
        QuantizationPreset(
            name="a100-bf16",
            suffix="-bf16",
            summary="bfloat16, with a static cache and compiled decoding on a GPU",
            package=None,
            make_config=lambda: None,
            # transformers compiles the decoding on a GPU if the cache is static, unless `disable_compile` is set.
            generation={"cache_implementation": "static"},
            config={"attn_implementation": "sdpa"},
        ),
        QuantizationPreset(
            name="a100-int8",
            suffix="-int8-a100",
            summary="8-bit weights (torchao), computed in bfloat16; for data-centre GPUs",
            package="torchao",
            make_config=_torchao_int8,
            largest_error=_LARGEST_INT8,
        ),
        QuantizationPreset(
            name="a100-int4",
            suffix="-int4-a100",
            summary="4-bit weights (torchao, groups of 128), computed in bfloat16; for data-centre GPUs",
            package="torchao",
            make_config=_torchao_int4,
            needs_gpu=True,
            largest_error=_LARGEST_INT4,
        ),
        QuantizationPreset(
            name="cpu-int8",
            suffix="-int8-cpu",
            summary="8-bit weights and activations (torchao), for CPUs",
            package="torchao",
            make_config=_torchao_dynamic_int8,
            largest_error=_LARGEST_INT8,
        ),
    )
}


def find_preset(name: str) -> QuantizationPreset:
    """The preset of this name.

    Args:
        name: name of a preset, or its short name (`nf4` for `consumer-nf4`).

    Raises:
        PresetError: there is none; the message suggests the most similar one.
    """
    by_variant = {preset.variant: preset for preset in PRESETS.values()}
    found = PRESETS.get(name) or by_variant.get(name)
    if found is None:
        raise PresetError(f"There is no preset {name!r}: {did_you_mean(name, PRESETS)}")
    return found


def check_platform(preset: QuantizationPreset, device: str = "cpu") -> None:
    """Quantize one small layer, to find out whether this machine can use a preset.

    Args:
        preset: the preset.
        device: where the weights are going to be quantized.

    Raises:
        PresetError: a package or the device is missing, or the package does not work here.
    """
    if preset.needs_gpu and not torch.cuda.is_available():
        others = ", ".join(other.name for other in PRESETS.values() if not other.needs_gpu)
        raise PresetError(
            f"The preset {preset.name} needs a CUDA GPU, and torch sees none here: use a machine with one, or one of "
            f"{others}."
        )
    _check_device(device)
    if preset.package is None:
        return
    if find_spec(preset.package) is None:
        raise PresetError(
            f"The preset {preset.name} needs {preset.package}, which is not installed: pip install {preset.package}."
        )
    try:
        _quantize_one_layer(preset, device)
    # The packages raise errors of many classes, also AttributeError and AssertionError.
    except Exception as error:
        reason = one_line(error, 200)
        raise PresetError(
            f"The preset {preset.name} does not work on this machine: {preset.package} could not quantize a small "
            f"layer on {device} ({reason.rstrip('.')})."
        ) from error


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise PresetError(f"There is no device {device!r}: give cpu, cuda or, for the second GPU, cuda:1.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise PresetError(f"The device {device} is a CUDA GPU, and torch sees none here: leave it out, or give cpu.")


def _quantize_one_layer(preset: QuantizationPreset, device: str) -> None:
    layer = torch.nn.Linear(PROBE, PROBE, bias=False).to(device, preset.dtype)
    if preset.package == "torchao":
        from torchao.quantization import quantize_

        quantize_(layer, preset.quantization_config().quant_type)
        return
    import bitsandbytes

    if preset.quantization_config().load_in_4bit:
        bitsandbytes.functional.quantize_4bit(layer.weight.data, quant_type="nf4")
    else:
        bitsandbytes.functional.int8_vectorwise_quant(layer.weight.data.to(torch.float16))


__all__ = ["PRESETS", "PresetError", "QuantizationPreset", "check_platform", "find_preset"]
