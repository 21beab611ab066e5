"""`hf-videollm quantize`: variants are what they should be, or are not written."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantizers import needs_torchao
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from hf_videollm import CheckpointError, PllavaForConditionalGeneration, default_checkpoint, save_checkpoint
from hf_videollm.hub import presets
from hf_videollm.hub import quantize as module
from hf_videollm.hub.licences import LicenceError, check_licence, licence_of
from hf_videollm.hub.presets import PRESETS, PresetError, check_platform, find_preset
from hf_videollm.hub.quantize import REPORT_FILE, quantize
from hf_videollm.hub.quantized_weights import compare_with_original, compare_written, fingerprints, is_quantized

bitsandbytes = pytest.importorskip("bitsandbytes", reason="two presets are those of bitsandbytes")

Cli = Callable[..., tuple[int, str, str]]
# Those that run on a CPU.
NAMES = [
    pytest.param(name, marks=[needs_torchao] if preset.package == "torchao" else [], id=name)
    for name, preset in PRESETS.items()
    if not preset.needs_gpu
]


def load(folder: Any, **options: Any) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_has_a_quantized_language_model_and_bfloat16_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model that is going to be saved must not run")

    steps: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(PllavaForConditionalGeneration, "forward", runs)
        report = quantize("pllava-tiny", tmp_path / "variant", preset=name, progress=steps.append)
    begun = [step for step in steps if "," not in step]
    assert begun[2:4] + begun[-1:] == ["Writing", "Loading the variant again", "Comparing with the original"]
    for step in begun:
        done = [tuple(map(int, re.findall(r"\d+", told))) for told in steps if told.startswith(f"{step}, ")]
        assert [place for place, _ in done] == list(range(1, done[-1][1] + 1)), "each step is counted to its end"
    model, preset = load(tmp_path / "variant"), PRESETS[name]
    for layer, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert is_quantized(part.weight) == (preset.package is not None and "language_model." in layer), layer
    others = (model.model.vision_tower, model.model.connector)
    assert {parameter.dtype for part in others for parameter in part.parameters()} == {torch.bfloat16}
    assert report.weight_bytes < 0.51 * report.source_bytes
    assert report.errors.layers == (28 if preset.package else 0)
    assert report.errors.largest < preset.largest_error / 1.5 or not preset.package
    stored = json.loads((tmp_path / "variant" / REPORT_FILE).read_text())
    assert stored == {key: value for key, value in report.to_dict().items() if key != "destination"}
    assert str(tmp_path) not in (tmp_path / "variant" / REPORT_FILE).read_text()


def test_the_settings_of_the_a100_variant_are_read_by_transformers(tmp_path: Path) -> None:
    quantize("pllava-tiny", tmp_path / "variant", preset="a100-bf16")
    model = load(tmp_path / "variant")
    assert model.dtype == torch.bfloat16
    assert model.generation_config.cache_implementation == "static"
    assert model.config._attn_implementation == "sdpa"
    eager = load(tmp_path / "variant", attn_implementation="eager")
    assert eager.config._attn_implementation == "eager", "the user's word counts"
    size = model.config.vision_config.image_size
    inputs = {
        "input_ids": torch.tensor([[1, *[5] * model.config.num_video_tokens(8), 7]]),
        "pixel_values_videos": torch.zeros(1, 8, 3, size, size, dtype=torch.bfloat16),
    }
    answer = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(answer, model.generate(**inputs, max_new_tokens=3, cache_implementation="dynamic"))


def test_a_licence_goes_along(tmp_path: Path) -> None:
    """Its text, and its terms: nobody may publish the variant under a looser one."""
    source = shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    name = min(weights)
    weights[name] = weights[name] + 1  # other weights than those of the bundled checkpoint, whose licence is known
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    (source / "LICENCE.txt").write_text("For research only")
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: someone/base\n---\n# A model\n")
    quantize(source, tmp_path / "variant", preset="bf16")
    assert (tmp_path / "variant" / "LICENCE.txt").read_text() == "For research only"
    chain = licence_of(tmp_path / "variant")
    assert [(one.role, one.name) for one in chain.sources] == [
        ("original", "source"),
        ("source of source", "someone/base"),
    ]
    with pytest.raises(LicenceError, match=r"mit is looser than cc-by-nc-4\.0"):
        check_licence(chain, "mit")
    check_licence(chain, "cc-by-nc-4.0")


def damage_scales(folder: Path) -> None:
    """What bitsandbytes does to a model that has run: the scales are all there, and in another order."""
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    for name in tensors:
        if name.endswith("0.mlp.up_proj.weight.absmax"):
            tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_variant_that_loads_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = module.save_checkpoint

    def save_wrongly(model: Any, processor: Any, folder: Path, **options: Any) -> None:
        save(model, processor, folder, **options)
        damage_scales(folder)

    monkeypatch.setattr(module, "save_checkpoint", save_wrongly)
    with pytest.raises(CheckpointError, match=r"nothing was written: 1 of \d+ weights differ, .*0\.mlp\.up_proj"):
        quantize("pllava-tiny", tmp_path / "variant", preset="consumer-nf4")
    assert list(tmp_path.iterdir()) == []


def test_a_variant_far_from_the_original_is_refused() -> None:
    model = load(default_checkpoint("pllava-tiny"), dtype=torch.bfloat16)
    other = load(default_checkpoint("pllava-tiny"), dtype=torch.bfloat16)
    assert compare_with_original(model, other, 0.0).layers == 0
    with torch.no_grad():
        other.model.connector.linear_1.weight.mul_(1.5)
    with pytest.raises(CheckpointError, match="should have stayed as it is"):
        compare_with_original(model, other, 0.0)
    eight = load(
        default_checkpoint("pllava-tiny"),
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    assert 0 < compare_with_original(eight, model, 0.06).largest < 0.02
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight.mul_(1.2)
    with pytest.raises(CheckpointError, match=r"1\.mlp\.up_proj\.weight lost too much"):
        compare_with_original(eight, model, 0.06)


def test_a_model_whose_four_bit_layers_have_run_elsewhere_is_saved_as_it_computes(tmp_path: Path) -> None:
    """They were put into the model after it was loaded, as by a tool that quantizes its parts."""
    source = default_checkpoint("pllava-tiny")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = load(source, dtype=torch.bfloat16, quantization_config=four)
    expected = fingerprints(model)
    layer = model.model.language_model.layers[0].mlp.up_proj
    convert = getattr(bitsandbytes.functional, "_convert_weight_packed_for_cpu", None)
    if convert is None:
        pytest.skip("this release of bitsandbytes does not pack")
    layer.support_avx512bf16_for_cpu = True
    layer.weight.data, _ = convert(layer.weight.data, layer.weight.quant_state)
    with pytest.raises(CheckpointError, match="has been packed by bitsandbytes"):
        fingerprints(model)
    save_checkpoint(model, AutoProcessor.from_pretrained(source), tmp_path / "saved")
    # Packing rounds the scales to bfloat16; those of bfloat16 weights are such numbers already.
    compare_written(expected, load(tmp_path / "saved"))


def test_presets_have_short_names() -> None:
    assert find_preset("nf4") is PRESETS["consumer-nf4"]
    assert len({preset.suffix for preset in PRESETS.values()}) == len(PRESETS)
    with pytest.raises(PresetError, match="did you mean consumer-nf4"):
        find_preset("consumer-nf")


def test_a_preset_that_this_machine_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, preset in PRESETS.items():
        if preset.package is None:
            check_platform(preset)
        else:
            with pytest.raises(PresetError, match=f"{name} needs {preset.package}, which is not installed: pip"):
                check_platform(preset)
    # A GPU cannot be installed, so it is named before the package that can.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PresetError, match="a100-int4 needs a CUDA GPU"):
        check_platform(PRESETS["a100-int4"])
    monkeypatch.setattr(presets, "find_spec", lambda name: object())
    with pytest.raises(PresetError, match="The device cuda:1 is a CUDA GPU, and torch sees none here"):
        check_platform(PRESETS["a100-bf16"], "cuda:1")
    monkeypatch.setattr(presets, "_quantize_one_layer", lambda *_: 1 / 0)
    with pytest.raises(PresetError, match=r"consumer-nf4 does not work on this machine: .*\(division by zero\)"):
        check_platform(PRESETS["consumer-nf4"])


def test_bad_input_is_one_line_and_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 1_000_000)
    before = sorted(tmp_path.rglob("*"))
    for checkpoint, dst, options, reason in (
        ("pllava-tiny", "new", "consumer-nf", "There is no preset 'consumer-nf': did you mean"),
        ("pllava-tiny", "full", "a100-bf16", "is not empty: choose another destination, or pass --overwrite"),
        ("pllava-tiny", "new", "a100-bf16 --device gpu", "There is no device 'gpu': give cpu, cuda or"),
        (str(tmp_path / "empty"), "new", "a100-bf16", "holds no config.json"),
        (str(tmp_path / "gone"), "new", "a100-bf16", "no such folder"),
        (str(tmp_path / "cut"), "new", "consumer-nf4", "is truncated or damaged"),
    ):
        code, out, err = cli("quantize", checkpoint, str(tmp_path / dst), "--preset", *options.split())
        assert (code, out) == (2, "")
        assert reason in err
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_variants_are_not_quantized_again(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("quantize", "iva-tiny", str(tmp_path / "variant"), "--preset", "consumer-nf4", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["preset"], report["source"]) == ("consumer-nf4", "iva-tiny")
    code, _, err = cli("quantize", str(tmp_path / "variant"), str(tmp_path / "again"), "--preset", "a100-bf16")
    assert code == 2
    assert "is quantized already: give the original" in err
    code, _, err = cli("quantize", "iva-tiny", default_checkpoint("iva-tiny"), "--preset", "nf4", "--overwrite")
    assert code == 2
    assert "is the checkpoint itself" in err
