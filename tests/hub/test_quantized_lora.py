"""PLLaVA's adjustable LoRA on a quantized language model: strength, saving, merging."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pllava_sources import raw_config, released_tensors, write_source, write_tokenizer
from quantizers import QUANTIZERS, each_quantizer, needs_torchao

from hf_videollm import PllavaForConditionalGeneration
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.hub.presets import PRESETS
from hf_videollm.hub.quantize import quantize

pytest.importorskip("bitsandbytes", reason="quantized loading is tested with bitsandbytes")

CHOSEN = ("int8", "nf4", "torchao-int8")
PRESETS_HERE = [
    pytest.param(name, marks=[needs_torchao] if preset.package == "torchao" else [], id=name)
    for name, preset in PRESETS.items()
    if not preset.needs_gpu
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint that keeps its adapter."""
    folder = tmp_path_factory.mktemp("lora")
    convert_pllava(
        write_tokenizer(write_source(folder / "source", released_tensors(), raw_config())), folder / "converted"
    )
    return folder / "converted"


def load(folder: Path, **options: Any) -> PllavaForConditionalGeneration:
    return PllavaForConditionalGeneration.from_pretrained(folder, **options)


def logits(model: Any) -> torch.Tensor:
    pixels = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 5, *[101] * 8, 6, 7]]), pixel_values_videos=pixels)[0]


@each_quantizer(CHOSEN)
def test_the_adapter_is_adjusted_and_saved_beside_quantized_weights(
    quantizer: str, converted: Path, tmp_path: Path
) -> None:
    model = load(converted, quantization_config=QUANTIZERS[quantizer]())
    assert all(type(layer.get_base_layer().weight) is not torch.nn.Parameter for layer in model.lora_layers().values())
    at_4 = logits(model)
    model.set_lora_alpha(16)
    at_16 = logits(model)
    assert (at_16 - at_4).abs().max() > 1e-3, "the control: the adapter matters"
    model.set_lora_alpha(4)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(model), at_4), "saving changes nothing"
    assert torch.equal(logits(load(tmp_path)), at_4)
    assert torch.equal(logits(load(tmp_path, lora_alpha=16)), at_16)


@each_quantizer(CHOSEN)
def test_a_merged_adapter_is_in_the_quantized_weights(quantizer: str, converted: Path, tmp_path: Path) -> None:
    model = load(converted, quantization_config=QUANTIZERS[quantizer]())
    with_adapter = logits(model)
    model.set_lora_alpha(0)
    without = logits(model)
    model.merge_lora(4)
    merged = logits(model)
    # They are rounded a second time, so not equal; but the adapter is there.
    assert (merged - with_adapter).abs().max() < 0.2 * (without - with_adapter).abs().max()
    assert not any(
        parameter.requires_grad
        for parameter in model.model.language_model.parameters()
        if type(parameter) is not torch.nn.Parameter
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), merged)


@pytest.mark.parametrize("name", PRESETS_HERE)
def test_a_variant_keeps_the_adapter(name: str, converted: Path, tmp_path: Path) -> None:
    """`hf-videollm quantize` writes it beside the quantized weights, adjustable and ready to be merged."""
    report = quantize(converted, tmp_path / "variant", preset=name)
    assert bool(report.errors.layers) == (PRESETS[name].package is not None)
    model = load(tmp_path / "variant")
    pixels = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(model.dtype)

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=torch.tensor([[1, 5, *[101] * 8, 6, 7]]), pixel_values_videos=pixels)[0].float()

    at_4 = answer()
    model.set_lora_alpha(0)
    without = answer()
    assert (without - at_4).abs().max() > 1e-3, "the control: the adapter matters"
    model.set_lora_alpha(4)
    assert torch.equal(answer(), at_4)
    model.merge_lora(4)
    assert (answer() - at_4).norm() < 0.7 * (at_4 if "nf4" in name else without - at_4).norm()
