"""Quantizers that run on a CPU, by names; those of torchao are skipped where it is missing (`make test-torchao`)."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="no torchao; make test-torchao has it")


def _torchao(bits: int, **own: Any) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    return TorchAoConfig(Int8WeightOnlyConfig() if bits == 8 else IntxWeightOnlyConfig(torch.int4, PerGroup(16)), **own)


QUANTIZERS: dict[str, Callable[..., Any]] = {
    "int8": lambda **own: BitsAndBytesConfig(load_in_8bit=True, **own),
    "nf4": lambda **own: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **own),
    "fp4-double": lambda **own: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, **own),
    "torchao-int8": lambda **own: _torchao(8, **own),
    "torchao-int4": lambda **own: _torchao(4, **own),
}


def marks_of(name: str) -> list[Any]:
    """What a parameter of that quantizer needs."""
    return [needs_torchao] if "torchao" in name else []


def each_quantizer(names: Iterable[str]) -> Any:
    """Runs a test with the argument `quantizer` for each of them."""
    return pytest.mark.parametrize("quantizer", [pytest.param(name, marks=marks_of(name), id=name) for name in names])
