"""Official PLLaVA checkpoints in every layout become folders that load, with the numbers of the original."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
from pllava_sources import (
    IMAGE_ID,
    RANK,
    base_tensors,
    lora_tensors,
    official_tensors,
    our_tensors,
    partial_tensors,
    raw_config,
    released_tensors,
    write_source,
    write_tokenizer,
)
from refusals import siblings
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from hf_videollm import PllavaForConditionalGeneration, save_checkpoint
from hf_videollm.convert.pllava.config import build_config, build_generation_config
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.convert.pllava.keys import plan_conversion
from hf_videollm.convert.stream import StoredTensor, StoredWeights
from hf_videollm.models.errors import CheckpointError

TOLERANCE = 2e-5


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A released checkpoint with its tokenizer."""
    return write_tokenizer(write_source(tmp_path / "source", released_tensors(), raw_config()))


def loaded_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


# What is written


def test_a_released_checkpoint_keeps_its_lora_adjustable(released: Path, tmp_path: Path) -> None:
    report = convert_pllava(released, tmp_path / "out")
    ours = our_tensors(raw_config())
    assert_same(loaded_weights(tmp_path / "out"), ours)
    factors = load_file(tmp_path / "out" / "lora" / "adapter_model.safetensors")
    official = lora_tensors(ours)
    assert len(factors) == len(official) == 8
    layer = "model.language_model.layers.1.self_attn.v_proj.lora_B"
    source = "language_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
    assert torch.equal(factors[f"base_model.model.{layer}.weight"], official[source])
    adapter = json.loads((tmp_path / "out" / "lora" / "adapter_config.json").read_text())
    facts = {"r": RANK, "lora_alpha": 32, "lora_dropout": 0.05, "task_type": "CAUSAL_LM", "peft_type": "LORA"}
    assert {name: adapter[name] for name in facts} == facts
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["lora_adapter"], config["lora_alpha"], config["lora_training_alpha"]) == ("lora", 4.0, 32)
    assert config["architectures"] == ["PllavaForConditionalGeneration"]
    assert config["model_type"] == "pllava"
    assert (report.kind, report.lora_rank, report.lora_alpha, report.merged_alpha) == ("released", RANK, 4.0, None)
    assert report.parameters == sum(tensor.numel() for tensor in ours.values())
    assert report.notes == []


@pytest.mark.parametrize("layout", ["plain", "tidy", "memory"])
def test_a_partial_checkpoint_takes_the_rest_from_its_base(tmp_path: Path, layout: str) -> None:
    source = write_tokenizer(write_source(tmp_path / "source", partial_tensors(), raw_config()))
    base = write_source(tmp_path / "base", base_tensors(layout), {"model_type": "llava_next"}, shards=2)
    report = convert_pllava(source, tmp_path / "out", base=base)
    # The projector is the fine-tuned one: that of the base has other values.
    assert_same(loaded_weights(tmp_path / "out"), our_tensors(raw_config()))
    assert report.kind == "partial"
    assert (tmp_path / "out" / "lora" / "adapter_model.safetensors").is_file()


def test_a_base_saved_by_transformers_is_understood(tmp_path: Path) -> None:
    raw = raw_config()
    text = {name: value for name, value in raw["text_config"].items() if name != "max_length"}
    llava = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**raw["vision_config"]),
            text_config=LlamaConfig(**text),
            image_token_index=IMAGE_ID,
        )
    )
    source = write_source(tmp_path / "source", partial_tensors(), raw)
    expected = {
        "model.vision_tower.post_layernorm.weight": llava.model.vision_tower.post_layernorm.weight,
        "model.language_model.layers.1.mlp.up_proj.weight": llava.model.language_model.layers[1].mlp.up_proj.weight,
        "lm_head.weight": llava.lm_head.weight,
    }
    for number, original_format in enumerate((True, False)):
        llava.save_pretrained(tmp_path / f"base{number}", save_original_format=original_format)
        convert_pllava(source, tmp_path / f"out{number}", base=tmp_path / f"base{number}")
        weights = loaded_weights(tmp_path / f"out{number}")
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_merged_checkpoint_has_no_adapter(tmp_path: Path) -> None:
    ours = our_tensors(raw_config())
    source = write_tokenizer(write_source(tmp_path / "source", official_tensors(ours, "plain"), raw_config()))
    report = convert_pllava(source, tmp_path / "out")
    assert_same(loaded_weights(tmp_path / "out"), ours)
    assert not (tmp_path / "out" / "lora").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["lora_adapter"] is config["lora_alpha"] is None
    assert report.kind == "merged"
    assert "its alpha cannot be changed" in report.notes[0]
    for loader in (PllavaForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(CheckpointError, match=r"has no LoRA adapter, so lora_alpha=4 would do nothing"):
            loader.from_pretrained(tmp_path / "out", lora_alpha=4)


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_merged_though_factors_lie_elsewhere(tmp_path: Path, index: bool) -> None:
    tensors = released_tensors()
    source = write_source(tmp_path / "source", tensors, raw_config(), shards=3, index=index)
    seen: list[tuple[int, int]] = []
    report = convert_pllava(
        source, tmp_path / "out", merge=16, max_shard_size=8000, progress=lambda *step: seen.append(step)
    )
    expected = our_tensors(raw_config())
    changed = 0
    for name in expected:
        layer = name.removesuffix(".weight").replace("model.language_model.", "language_model.base_model.model.model.")
        if f"{layer}.lora_A.default.weight" in tensors:
            a, b = (tensors[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            expected[name] = expected[name] + 16 / RANK * b @ a
            changed += 1
    assert changed == 4
    weights = loaded_weights(tmp_path / "out")
    assert weights.keys() == expected.keys()
    assert all(torch.allclose(weights[name], tensor, atol=1e-5) for name, tensor in expected.items())
    assert len(report.weight_files) > 3
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.lora_adapter, config.lora_alpha, config.lora_merged_alpha) == (None, None, 16)
    assert not (tmp_path / "out" / "lora").exists()
    assert seen[-1] == (report.weight_bytes, report.weight_bytes)
    assert seen == sorted(seen)
    PllavaForConditionalGeneration.from_pretrained(tmp_path / "out")


def test_merging_rounds_once(tmp_path: Path) -> None:
    """bfloat16 weights are merged in float32 and rounded at the end, by the converter and by the model alike."""
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in released_tensors().items()}
    source = write_source(tmp_path / "source", tensors, raw_config(torch_dtype="bfloat16"))
    convert_pllava(source, tmp_path / "merged", merge=20)
    convert_pllava(source, tmp_path / "kept")
    merged = PllavaForConditionalGeneration.from_pretrained(tmp_path / "merged").state_dict()
    later = PllavaForConditionalGeneration.from_pretrained(tmp_path / "kept").merge_lora(20).state_dict()
    assert merged["lm_head.weight"].dtype == torch.bfloat16
    assert_same(later, merged)


def test_dtype_is_kept_or_cast(tmp_path: Path) -> None:
    tensors = {name: tensor if "lora" in name else tensor.half() for name, tensor in released_tensors().items()}
    source = write_source(tmp_path / "source", tensors, raw_config(torch_dtype="bfloat16"))
    assert convert_pllava(source, tmp_path / "kept").dtype == "bfloat16"
    assert {tensor.dtype for tensor in loaded_weights(tmp_path / "kept").values()} == {torch.float16}
    assert AutoModel.from_pretrained(tmp_path / "kept").dtype == torch.bfloat16
    report = convert_pllava(source, tmp_path / "cast", dtype="float32")
    assert report.dtype == json.loads((tmp_path / "cast" / "config.json").read_text())["dtype"] == "float32"
    factors = load_file(tmp_path / "cast" / "lora" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in (*loaded_weights(tmp_path / "cast").values(), *factors.values())} == {
        torch.float32
    }
    source = write_source(tmp_path / "unsaid", tensors, raw_config(torch_dtype=None))
    assert convert_pllava(source, tmp_path / "usual").dtype == "float16"


def test_the_folder_is_what_save_checkpoint_writes(released: Path, tmp_path: Path) -> None:
    convert_pllava(released, tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    save_checkpoint(model, processor, tmp_path / "again")
    for folder in (".", "lora"):
        assert siblings(tmp_path / "out" / folder) == siblings(tmp_path / "again" / folder)
    assert_same(loaded_weights(tmp_path / "again"), loaded_weights(tmp_path / "out"))
    for name in ("processor_config.json", "chat_template.jinja", "lora/adapter_config.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "again" / name).read_text(), name
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "again")]
    for config in configs:
        # Loading a model notes its type in the towers' configurations, too.
        for tower in ("text_config", "vision_config"):
            config[tower].pop("dtype", None)
    assert configs[0] == configs[1]


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    text = {**raw_config()["text_config"], "tie_word_embeddings": True}
    tensors = released_tensors()
    head = tensors.pop("language_model.base_model.model.lm_head.weight")
    source = write_source(tmp_path / "source", tensors, raw_config(text_config=text))
    convert_pllava(source, tmp_path / "tied")
    model = PllavaForConditionalGeneration.from_pretrained(tmp_path / "tied")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    # A head of its own counts more than what the config says.
    tensors["language_model.base_model.model.lm_head.weight"] = head
    source = write_source(tmp_path / "untied_source", tensors, raw_config(text_config=text))
    convert_pllava(source, tmp_path / "untied")
    model = PllavaForConditionalGeneration.from_pretrained(tmp_path / "untied")
    assert torch.equal(model.lm_head.weight, head)


def test_harmless_buffers_are_dropped(tmp_path: Path) -> None:
    tensors = released_tensors()
    frequencies = "language_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"
    positions = "vision_tower.vision_model.embeddings.position_ids"
    tensors |= {frequencies: torch.ones(3), positions: torch.arange(17)[None]}
    convert_pllava(write_source(tmp_path / "source", tensors, raw_config()), tmp_path / "out")
    assert_same(loaded_weights(tmp_path / "out"), our_tensors(raw_config()))


def test_alpha_is_recorded(released: Path, tmp_path: Path) -> None:
    assert convert_pllava(released, tmp_path / "out", lora_alpha=20).lora_alpha == 20
    model = PllavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert next(iter(model.lora_layers().values())).scaling["default"] == 20 / RANK


def test_the_written_shards_carry_the_format(released: Path, tmp_path: Path) -> None:
    report = convert_pllava(released, tmp_path / "out", max_shard_size=8000)
    for name in report.weight_files:
        with safe_open(tmp_path / "out" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {name for name in report.weight_files if "/" not in name}


def test_the_report_prints(released: Path, tmp_path: Path) -> None:
    report = convert_pllava(released, tmp_path / "out", merge=8)
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "rank 4, merged at alpha 8" in console.export_text()
    assert json.loads(json.dumps(report.to_dict()))["merged_alpha"] == 8


# The original's numbers


@pytest.fixture
def golden_lora(goldens: Path) -> Path:
    return goldens / "pllava" / "lora"


def golden_logits(folder: Path, golden_lora: Path, alpha: float | None) -> torch.Tensor:
    tensors = load_file(golden_lora / "tensors.safetensors")
    ids = tensors["input_ids"][0].tolist()
    place = ids.index(100)
    expanded = torch.tensor([ids[:place] + [100] * 64 + ids[place + 1 :]])
    model = PllavaForConditionalGeneration.from_pretrained(folder)
    if alpha is not None:
        model.set_lora_alpha(alpha)
    with torch.no_grad():
        return model(input_ids=expanded, pixel_values_videos=tensors["pixel_values"][None]).logits


def newer_name(name: str) -> str:
    """Name of a 4.37 tensor in the models of transformers 5."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


@pytest.mark.parametrize("layout", ["full", "partial", "partial with a new base"])
def test_golden_checkpoints_give_the_golden_logits(golden_lora: Path, tmp_path: Path, layout: str) -> None:
    base = None
    if layout != "full":
        tensors = load_file(golden_lora.parent / "model" / "state_dict.safetensors")
        tensors["image_newline"] = torch.ones(48)
        if "new" in layout:
            tensors = {newer_name(name): tensor for name, tensor in tensors.items()}
            assert {"lm_head.weight", "model.language_model.norm.weight", "model.image_newline"} <= tensors.keys()
        base = write_source(tmp_path / "base", tensors, {"model_type": "llava_next"})
    report = convert_pllava(golden_lora / layout.split()[0], tmp_path / "out", base=base)
    assert report.lora_rank == 8
    expected = load_file(golden_lora / "tensors.safetensors")
    for alpha in (0, 16, 32):
        logits = golden_logits(tmp_path / "out", golden_lora, alpha)
        assert (logits - expected[f"logits_alpha{alpha}"]).abs().max() < TOLERANCE


def test_golden_checkpoint_merged_gives_the_golden_logits(golden_lora: Path, tmp_path: Path) -> None:
    convert_pllava(golden_lora / "full", tmp_path / "out", merge=16)
    expected = load_file(golden_lora / "tensors.safetensors")
    logits = golden_logits(tmp_path / "out", golden_lora, None)
    assert (logits - expected["logits_alpha16"]).abs().max() < TOLERANCE
    weights = loaded_weights(tmp_path / "out")
    merged = {name: tensor for name, tensor in expected.items() if name.startswith("merged_alpha16.")}
    assert len(merged) == 4
    for name, tensor in merged.items():
        assert (weights[newer_name(name.removeprefix("merged_alpha16."))] - tensor).abs().max() < 2e-6


def test_golden_misuses_are_errors(golden_lora: Path, tmp_path: Path) -> None:
    """Cases of lora/meta.json, where the original went on with random weights."""
    full, partial = golden_lora / "full", golden_lora / "partial"
    for folder in (full, partial):
        with pytest.raises((CheckpointError, ValueError)):
            PllavaForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="holds only LoRA and projector: pass its base"):
        convert_pllava(partial, tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds a LoRA, so it is a PLLaVA checkpoint"):
        convert_pllava(partial, tmp_path / "out", base=full)


def fake_weights(shapes: dict[str, list[int]], origin: str) -> StoredWeights:
    file = Path(origin)
    return StoredWeights(
        {name: StoredTensor(name, file, tuple(shape), torch.bfloat16) for name, shape in shapes.items()}, file
    )


@pytest.mark.parametrize("size", ["7b", "13b", "34b"])
def test_every_key_of_the_real_checkpoints_has_its_place(goldens: Path, size: str) -> None:
    layout = goldens / "pllava" / "layout"
    raw = json.loads((layout / "released_configs.json").read_text())[f"pllava-{size}"]
    facts = json.loads((layout / "summary.json").read_text())[size]
    with gzip.open(layout / f"pllava-{size}.keys.json.gz") as handle:
        keys = json.load(handle)
    config, notes = build_config(raw, Path("config.json"))
    everything, plain = keys["released_layout_full"], keys["base_llava_next_layout"]
    tuned = {name: shape for name, shape in everything.items() if "lora_" in name or "multi_modal" in name}
    full, base, partial = fake_weights(everything, "full"), fake_weights(plain, "base"), fake_weights(tuned, "partial")
    merged = fake_weights({name: shape for name, shape in plain.items() if name != "image_newline"}, "merged")
    assert (len(full.tensors), len(partial.tensors)) == (facts["n_keys_full"], facts["n_keys_partial"])
    plans = [plan_conversion(config, full), plan_conversion(config, partial, base), plan_conversion(config, merged)]
    assert [plan.kind for plan in plans] == ["released", "partial", "merged"]
    assert [plan.rank for plan in plans] == [128, 128, None]
    for plan in plans:
        assert len(plan.weights) == facts["n_keys_base"]
        assert sum(tensor.nbytes for tensor in plan.weights.values()) == 2 * facts["params_base"]
    factors = [tensor for pair in plans[0].lora.values() for tensor in pair]
    assert len(factors) == facts["n_lora_keys"]
    assert sum(tensor.nbytes for tensor in factors) == 2 * facts["params_lora"]
    assert notes == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("7b", (4096, 11008, 32, 32, 32, 10000.0, 32064, 2)),
        ("13b", (5120, 13824, 40, 40, 40, 10000.0, 32064, 2)),
        ("34b", (7168, 20480, 60, 56, 8, 5000000.0, 64064, 7)),
    ],
)
def test_sparse_configs_mean_the_defaults_of_their_time(
    goldens: Path, tmp_path: Path, size: str, expected: tuple[Any, ...]
) -> None:
    raw = json.loads((goldens / "pllava" / "layout" / "released_configs.json").read_text())[f"pllava-{size}"]
    config, _ = build_config(raw, Path("config.json"))
    text: Any = config.text_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    found = [getattr(text, name) for name in names]
    found += [text.rope_parameters["rope_theta"], text.vocab_size]
    assert (*found, build_generation_config(tmp_path, raw, config).eos_token_id) == expected
    assert (text.rms_norm_eps, text.max_position_embeddings, text.hidden_act) == (1e-5, 4096, "silu")
    # The released 13b and 34b files carry use_cache=false from training.
    assert text.use_cache
    vision: Any = config.vision_config
    assert (vision.hidden_act, vision.layer_norm_eps, vision.image_size) == ("quick_gelu", 1e-5, 336)
    assert (vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size) == (24, 1024, 4096)
    assert config.pooling_shape == [16, 12, 12]
    assert config.dtype == torch.bfloat16
    config.save_pretrained(tmp_path)


# Memory

MEASURE = """
import json, sys
from pathlib import Path
from hf_videollm.convert.pllava.convert import convert_pllava

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

convert_pllava(sys.argv[1], sys.argv[2])  # a small one first, so that everything lazy is imported
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = status("VmRSS")
report = convert_pllava(sys.argv[3], sys.argv[4], max_shard_size=100_000_000, **json.loads(sys.argv[5]))
print(json.dumps({"growth": status("VmHWM") - before, "size": report.weight_bytes, "files": len(report.weight_files)}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory counter of Linux")
@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {"merge": 4}])
def test_memory_holds_a_tensor_and_not_a_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    text = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "vocab_size": 2000,
    }
    raw = raw_config(text_config=text)
    small = write_source(tmp_path / "small", released_tensors(), raw_config())
    big = write_source(tmp_path / "big", released_tensors(raw), raw, shards=2)
    places = [str(small), str(tmp_path / "small_out"), str(big), str(tmp_path / "big_out"), json.dumps(options)]
    run = ready_python.run("-c", MEASURE, *places)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["size"] > 300_000_000
    assert result["files"] >= 4
    # Far below one shard of 100 MB; the largest tensor has 4 MB.
    assert result["growth"] < 60_000_000, result
