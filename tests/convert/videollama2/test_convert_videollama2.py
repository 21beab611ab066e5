"""Official VideoLLaMA2 checkpoints in every layout become folders that load, with the numbers of the original."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
)
from videollama2_sources import (
    RANK,
    golden_source,
    golden_tensors,
    language_shapes,
    lora_tensors,
    mlp_shapes,
    official_tensors,
    random_tensors,
    raw_config,
    vision_tensors,
    write_config,
    write_source,
    write_vision_config,
    write_weights,
)

from hf_videollm import save_checkpoint
from hf_videollm.convert.videollama2.convert import convert_videollama2

TOLERANCE = 2e-5
VISUAL_PREFIX = "model.vision_tower.vision_tower."
MLP = {"mm_projector_type": "mlp2x_gelu"}


@pytest.fixture
def lm(goldens: Path) -> Path:
    return goldens / "videollama2" / "lm"


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    """Description of the made-up vision tower."""
    return write_vision_config(tmp_path / "tower.json")


def loaded_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def our_tensors(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Made-up official tensors under our names, written out here a second time."""
    ours = {}
    for name, tensor in official.items():
        if name.startswith("model.vision_tower."):
            name = name.replace("vision_tower.vision_tower.vision_model.", "vision_tower.")
        elif name.startswith("model.mm_projector."):
            name = name.replace("mm_projector.", "connector.readout.")
        elif name.startswith("model."):
            name = name.replace("model.", "model.language_model.", 1)
        ours[name] = tensor
    return ours


# The original's numbers


def convert_golden(lm: Path, name: str, tmp_path: Path, layout: str = "single") -> Path:
    source = golden_source(lm, name, tmp_path / "source", layout)
    description = lm / name.removesuffix("_av") / "vision_config.json"
    report = convert_videollama2(source, tmp_path / "out", vision_config=description)
    assert report.kind == "complete"
    assert report.has_processor
    return tmp_path / "out"


def golden_case(lm: Path, name: str, case: str) -> tuple[str, list[int]]:
    """Prompt and ids of a case; the text that was asked stands between the prompt's line break and its end."""
    file = lm / ("meta_av.json" if name == "qwen2_av" else "meta_main.json")
    cases = json.loads(file.read_text())
    cases = cases["cases"] if name == "qwen2_av" else cases[name]["cases"]
    ids = load_file(lm / name / "inputs.safetensors")[f"{case}.input_ids"][0].tolist()
    return cases[case]["prompt"], ids


def media_of(lm: Path, name: str, case: str) -> dict[str, torch.Tensor]:
    inputs = load_file(lm / name.removesuffix("_av") / "inputs.safetensors")
    if case == "image":
        return {"pixel_values": inputs["image"]}
    media = {}
    if case in ("video", "video_only_in_av_model", "av"):
        media["pixel_values_videos"] = inputs["frames"][None]
    if case in ("audio_only", "av"):
        media["input_features"] = load_file(lm / name / "inputs.safetensors")["fbank"].float()
    return media


@pytest.mark.parametrize(
    ("name", "case", "layout"),
    [
        ("mistral", "video", "single"),
        ("mistral", "image", "sharded"),
        ("mistral", "text", "single"),
        ("qwen2", "video", "sharded bin"),
        ("qwen2", "text", "single"),
        ("qwen2_av", "video_only_in_av_model", "sharded"),
        ("qwen2_av", "audio_only", "single"),
    ],
)
def test_golden_checkpoints_give_the_golden_answers(
    lm: Path, tmp_path: Path, name: str, case: str, layout: str
) -> None:
    folder = convert_golden(lm, name, tmp_path, layout)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    prompt, ids = golden_case(lm, name, case)
    expected = load_file(lm / name / "outputs.safetensors")
    media = media_of(lm, name, case)

    # The placeholder is written out as often as the processor would, and its ids come from the converted tokenizer.
    counts = {
        "<video>": processor.num_video_tokens(4),
        "<image>": processor.num_image_tokens(),
        "<audio>": processor.num_audio_tokens(101) if name == "qwen2_av" else 0,
    }
    for token, count in counts.items():
        prompt = prompt.replace(token, token * count)
    found = processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
    assert [token for token in found[0].tolist() if token < model.config.image_token_id] == [i for i in ids if i >= 0]

    with torch.no_grad():
        logits = model(input_ids=found, **media).logits
    assert logits.shape == expected[f"{case}.logits"].shape
    assert (logits - expected[f"{case}.logits"]).abs().max() < TOLERANCE
    if f"{case}.generated" in expected:
        answer = model.generate(input_ids=found, **media, max_new_tokens=8)[:, found.shape[1] :]
        assert answer.tolist() == expected[f"{case}.generated"].tolist()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen2_av"])
def test_the_folder_is_what_save_checkpoint_writes(lm: Path, tmp_path: Path, name: str) -> None:
    folder = convert_golden(lm, name, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    again = save_checkpoint(model, processor, tmp_path / "again")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in again.iterdir())
    assert_same(loaded_weights(again), loaded_weights(folder))
    for file in ("processor_config.json", "chat_template.jinja", "tokenizer.json", "generation_config.json"):
        assert (folder / file).read_text() == (again / file).read_text(), file
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, again)]
    for config in configs:
        for tower in ("text_config", "vision_config", "audio_config"):
            config.get(tower, {}).pop("dtype", None)
    assert configs[0] == configs[1]


def test_the_processor_asks_as_the_official_code_does(lm: Path, goldens: Path, tmp_path: Path) -> None:
    folder = convert_golden(lm, "mistral", tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.video_processor.num_frames, processor.video_processor.padding_mode) == (4, "none")
    assert processor.video_processor.size.shortest_edge == 56
    assert processor.image_processor.crop_size.height == 56
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is happening?"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    system = json.loads((goldens / "videollama2" / "prompts" / "prompts_main.json").read_text())
    assert "<<SYS>>" in prompt
    assert prompt.count("[INST]") == 1
    assert prompt.endswith("<video>\nWhat is happening? [/INST]")
    assert prompt.split("[INST] ")[1].split("\n\n<video>")[0] in json.dumps(system, ensure_ascii=False).replace(
        "\\n", "\n"
    )
    # Longer than the tiny tokenizer reads; the limit of the checkpoint is kept.
    assert processor.tokenizer.model_max_length == 2048


def test_generation_is_greedy_and_padded_as_in_the_official_code(lm: Path, tmp_path: Path) -> None:
    settings = GenerationConfig.from_pretrained(convert_golden(lm, "mistral", tmp_path / "a"))
    assert (settings.do_sample, settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (False, 1, 2, 0)
    settings = GenerationConfig.from_pretrained(convert_golden(lm, "qwen2", tmp_path / "b"))
    assert (settings.do_sample, settings.eos_token_id, settings.pad_token_id) == (False, 402, 400)


def test_answers_end_where_the_original_stops(lm: Path, tmp_path: Path) -> None:
    """The official code also stops at the tokenizer's end of text, and would apply a stored penalty to answers."""
    source = golden_source(lm, "qwen2", tmp_path / "source")
    stored = {"eos_token_id": [400], "do_sample": True, "temperature": 0.7, "repetition_penalty": 1.05}
    (source / "generation_config.json").write_text(json.dumps(stored))
    report = convert_videollama2(source, tmp_path / "out", vision_config=lm / "qwen2" / "vision_config.json")
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == [400, 402]
    assert not settings.do_sample
    assert settings.repetition_penalty in (None, 1.0)
    notes = " ".join(report.notes)
    assert "repetition_penalty 1.05" in notes
    assert "answers end at both" in notes


def test_the_audio_visual_processor_hears_as_the_original(lm: Path, tmp_path: Path) -> None:
    folder = convert_golden(lm, "qwen2_av", tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.audio_sampling, processor.missing_audio) == ("clips", "silence")
    assert processor.feature_extractor.pad_with_silence
    inputs = processor(
        text="<video>\nWhat is happening?",
        videos=[torch.zeros(4, 3, 72, 72, dtype=torch.uint8)],
        return_tensors="pt",
    )
    config = AutoConfig.from_pretrained(folder)
    assert (inputs["input_ids"] == config.video_token_id).sum() == 8
    assert (inputs["input_ids"] == config.audio_token_id).sum() == 1496
    assert inputs["input_features"].shape == (1, 2998, 128)
    assert config.audio_config.num_hidden_layers == 2
    assert (config.audio_config.hidden_size, config.audio_config.patch_embedding_dim) == (48, 32)


# Layouts, made up


@pytest.mark.parametrize("layout", ["single", "sharded", "bin", "sharded bin"])
def test_every_tensor_arrives_from_every_layout(tmp_path: Path, tower: Path, layout: str) -> None:
    raw = raw_config(**MLP)
    official = official_tensors(raw)
    source = write_source(tmp_path / "source", raw, official, layout)
    report = convert_videollama2(source, tmp_path / "out", vision_config=tower, max_shard_size=20_000)
    assert_same(loaded_weights(tmp_path / "out"), our_tensors(official))
    assert len(report.weight_files) > 3
    assert any("pickles" in note for note in report.notes) == ("bin" in layout)
    # Neither a pickle nor its copy is left.
    assert not [
        path for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt") or "pickle" in path.name
    ]
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_experts_of_mixtral_are_put_together(tmp_path: Path, tower: Path) -> None:
    raw = raw_config(**MLP, model_type="videollama2_mixtral", num_local_experts=3, num_experts_per_tok=2)
    official = official_tensors(raw)
    source = write_source(tmp_path / "source", raw, official, "sharded")
    report = convert_videollama2(source, tmp_path / "out", vision_config=tower)
    weights = loaded_weights(tmp_path / "out")
    assert report.parameters == sum(tensor.numel() for tensor in official.values())
    for number in range(2):
        theirs = f"model.layers.{number}.block_sparse_moe."
        ours = f"model.language_model.layers.{number}.mlp."
        gate_up = [torch.cat([official[f"{theirs}experts.{e}.{w}.weight"] for w in ("w1", "w3")]) for e in range(3)]
        down = [official[f"{theirs}experts.{e}.w2.weight"] for e in range(3)]
        assert torch.equal(weights[f"{ours}experts.gate_up_proj"], torch.stack(gate_up))
        assert torch.equal(weights[f"{ours}experts.down_proj"], torch.stack(down))
        assert torch.equal(weights[f"{ours}gate.weight"], official[f"{theirs}gate.weight"])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    # The library's own model, loaded from the official names, says the same.
    plain = {name: tensor for name, tensor in official.items() if "vision" not in name and "mm_" not in name}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    fields = {
        name: raw[name] for name in (*names, "num_local_experts", "num_experts_per_tok", "vocab_size", "rms_norm_eps")
    }
    reference = MixtralForCausalLM.from_pretrained(
        None, config=MixtralConfig(**fields, rope_theta=1e6, sliding_window=None), state_dict=plain
    )
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, reference(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("projector", "renames"),
    [
        ("linear", {"model.mm_projector.weight": "0.weight", "model.mm_projector.bias": "0.bias"}),
        (
            "mlp3x_gelu",
            {f"model.mm_projector.{n}.{kind}": f"{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")},
        ),
    ],
)
def test_projectors_without_names(tmp_path: Path, tower: Path, projector: str, renames: dict[str, str]) -> None:
    raw = raw_config(mm_projector_type=None if projector == "linear" else projector)
    shapes = {
        name: (32,) if name.endswith("bias") else (32, 16 if ours[0] == "0" else 32) for name, ours in renames.items()
    }
    official = {name: tensor for name, tensor in official_tensors(raw).items() if "mm_projector" not in name}
    source = write_source(tmp_path / "source", raw, official | random_tensors(shapes, seed=5))
    convert_videollama2(source, tmp_path / "out", vision_config=tower)
    weights = loaded_weights(tmp_path / "out")
    for theirs, ours in renames.items():
        assert torch.equal(weights[f"model.connector.readout.{ours}"], random_tensors(shapes, seed=5)[theirs])
    assert AutoConfig.from_pretrained(tmp_path / "out").connector_type == projector
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_fields_are_read_and_absent_ones_mean_the_defaults_of_the_original(tmp_path: Path, tower: Path) -> None:
    raw = raw_config(
        **MLP, num_frames=None, model_type="videollama2", mm_vision_select_layer=-1, torch_dtype="bfloat16"
    )
    source = write_source(tmp_path / "source", raw, official_tensors(raw))
    report = convert_videollama2(source, tmp_path / "out", vision_config=tower)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.num_frames, config.vision_feature_layer) == (8, -1)
    assert config.vision_feature_select_strategy == "default"
    assert config.text_config.model_type == "mistral"
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert config.text_config.use_cache
    assert (report.dtype, config.dtype) == ("bfloat16", torch.bfloat16)
    assert {tensor.dtype for tensor in loaded_weights(tmp_path / "out").values()} == {torch.float32}
    report = convert_videollama2(source, tmp_path / "cast", vision_config=tower, dtype="float16")
    assert report.dtype == "float16"
    assert {tensor.dtype for tensor in loaded_weights(tmp_path / "cast").values()} == {torch.float16}


def test_without_a_tokenizer_the_placeholders_follow_the_vocabulary(tmp_path: Path, tower: Path) -> None:
    raw = raw_config(**MLP)
    source = write_source(tmp_path / "source", raw, official_tensors(raw))
    report = convert_videollama2(source, tmp_path / "out", vision_config=tower)
    assert report.token_ids == {"image": 448, "video": 449}
    assert not report.has_processor
    assert "no tokenizer found" in " ".join(report.notes)
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "NOT written" in console.export_text()
    assert json.loads(json.dumps(report.to_dict()))["kind"] == "complete"


# What training leaves beside a base


def partial_tensors(raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    return random_tensors(mlp_shapes(raw), seed=2)


def write_base(folder: Path, raw: dict[str, Any], layout: str = "single") -> Path:
    """The plain language model."""
    plain = {"model_type": raw["model_type"].removeprefix("videollama2_"), "rope_theta": 1e6}
    return write_source(folder, plain, random_tensors(language_shapes(raw)), layout)


@pytest.mark.parametrize("vision_layout", ["file", "folder", "bin", "whole model", "without prefix"])
def test_a_base_checkpoint_is_completed(tmp_path: Path, tower: Path, vision_layout: str) -> None:
    raw = raw_config(**MLP, tune_mm_mlp_adapter=True, _name_or_path="mistralai/Mistral-7B-Instruct-v0.2")
    source = write_config(tmp_path / "source", raw)
    # The official files are cast to float16; the language model keeps its own type.
    torch.save({name: tensor.half() for name, tensor in partial_tensors(raw).items()}, source / "mm_projector.bin")
    base = write_base(tmp_path / "base", raw, "sharded")
    vision = vision_tensors()
    if vision_layout == "whole model":
        vision |= {"text_model.final_layer_norm.weight": torch.ones(2), "logit_scale": torch.ones(1)}
        vision |= {
            "visual_projection.weight": torch.ones(2, 2),
            "vision_model.embeddings.position_ids": torch.arange(17),
        }
    if vision_layout == "without prefix":
        vision = {name.removeprefix("vision_model."): tensor for name, tensor in vision.items()}
    place = write_weights(tmp_path / "clip", vision, "bin" if vision_layout == "bin" else "single")
    if vision_layout == "file":
        place = place / "model.safetensors"
    report = convert_videollama2(source, tmp_path / "out", base=base, vision=place, vision_config=tower)
    expected = our_tensors(official_tensors(raw))
    for name in expected:
        if "connector" in name:
            expected[name] = expected[name].half()
    assert_same(loaded_weights(tmp_path / "out"), expected)
    assert report.kind == "projector"
    assert set(report.origins) == {"language model", "vision tower", "connector"}
    assert report.origins["language model"].startswith(str(base))
    assert any("stored as float16 and float32 and load as float32" in note for note in report.notes)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_the_base_that_the_config_names_is_found_when_it_is_local(tmp_path: Path, tower: Path) -> None:
    raw = raw_config(**MLP, _name_or_path=str(tmp_path / "base"))
    write_base(tmp_path / "base", {**raw, "rope_theta": 1e6})
    (tmp_path / "base" / "config.json").write_text('{"model_type": "mistral", "rope_theta": 10000.0}')
    source = write_config(tmp_path / "source", raw)
    save_file(partial_tensors(raw), source / "mm_projector.safetensors")
    vision = write_weights(tmp_path / "clip", vision_tensors())
    report = convert_videollama2(source, tmp_path / "out", vision=vision, vision_config=tower)
    assert_same(loaded_weights(tmp_path / "out"), our_tensors(official_tensors(raw)))
    assert "because config.json names it" in " ".join(report.notes)
    assert "rope_theta of the language model is 10000.0" in " ".join(report.notes)


@pytest.mark.parametrize("base_is_multimodal", [False, True])
def test_a_lora_is_merged_into_its_base(tmp_path: Path, tower: Path, base_is_multimodal: bool) -> None:
    raw = raw_config(**MLP)
    official = official_tensors(raw)
    source = write_config(tmp_path / "source", raw)
    factors = lora_tensors(raw)
    save_file(factors, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 10, "peft_type": "LORA"}))
    trained = {f"base_model.model.{name}": tensor + 1 for name, tensor in partial_tensors(raw).items()}
    # Layers that were trained as a whole lie beside the projector.
    norm = "model.layers.1.input_layernorm.weight"
    trained[f"base_model.model.{norm}"] = torch.full((32,), 3.0)
    torch.save(trained, source / "non_lora_trainables.bin")
    options: dict[str, Path] = {"vision_config": tower}
    if base_is_multimodal:
        options["base"] = write_source(tmp_path / "base", raw, official)
    else:
        options["base"] = write_base(tmp_path / "base", raw)
        options["vision"] = write_weights(tmp_path / "clip", vision_tensors())
    report = convert_videollama2(source, tmp_path / "out", **options)
    expected = {**official, norm: torch.full((32,), 3.0)}
    expected |= {name: tensor + 1 for name, tensor in partial_tensors(raw).items()}
    for name in expected:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A.weight" in factors:
            product = factors[f"{layer}.lora_B.weight"] @ factors[f"{layer}.lora_A.weight"]
            expected[name] = expected[name] + 2.5 * product
    weights, ours = loaded_weights(tmp_path / "out"), our_tensors(expected)
    assert len(factors) == 2 * 2 * 7
    assert weights.keys() == ours.keys()
    assert all(torch.allclose(weights[name], tensor, atol=1e-5) for name, tensor in ours.items())
    assert (report.kind, report.lora_scale) == ("lora", 2.5)
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "merged with the factor 2.5" in console.export_text()


def test_a_lora_on_experts_is_merged(tmp_path: Path, tower: Path) -> None:
    raw = raw_config(**MLP, model_type="videollama2_mixtral", num_local_experts=2, num_experts_per_tok=1)
    source = write_config(tmp_path / "source", raw)
    layer = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w3"
    a, b = torch.randn(2, 32), torch.randn(48, 2)
    save_file({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": True}))
    official = official_tensors(raw)
    base = write_source(tmp_path / "base", raw, official)
    report = convert_videollama2(source, tmp_path / "out", base=base, vision_config=tower)
    assert report.lora_scale == pytest.approx(4 / 2**0.5)
    fused = loaded_weights(tmp_path / "out")["model.language_model.layers.0.mlp.experts.gate_up_proj"]
    expected = official["model.layers.0.block_sparse_moe.experts.1.w3.weight"] + report.lora_scale * b @ a
    assert torch.allclose(fused[1, 48:], expected, atol=1e-5)
    assert torch.equal(fused[1, :48], official["model.layers.0.block_sparse_moe.experts.1.w1.weight"])


def test_audio_artefacts_of_training_make_a_model_that_hears(lm: Path, tmp_path: Path) -> None:
    """mm_projector_a.bin and audio_tower.bin on the video checkpoint: the same model as the whole checkpoint."""
    convert_golden(lm, "qwen2_av", tmp_path / "whole")
    description = lm / "qwen2" / "vision_config.json"
    base = golden_source(lm, "qwen2", tmp_path / "base")
    extra = load_file(lm / "qwen2_av" / "audio_extra_weights.safetensors")
    source = write_config(tmp_path / "source", json.loads((lm / "qwen2_av" / "config.json").read_text()))
    audio = {name: tensor for name, tensor in extra.items() if name.startswith("model.audio_tower.")}
    torch.save(audio, source / "audio_tower.bin")
    torch.save({name: tensor for name, tensor in extra.items() if name not in audio}, source / "mm_projector_a.bin")
    report = convert_videollama2(source, tmp_path / "out", base=base, vision_config=description)
    assert_same(loaded_weights(tmp_path / "out"), loaded_weights(tmp_path / "whole" / "out"))
    assert report.design == "videollama2_av"
    assert report.has_processor
    # Beside whole weights, as in the released repository, they are not even opened.
    whole = tmp_path / "whole" / "source"
    (whole / "audio_tower.bin").write_bytes(b"whatever")
    report = convert_videollama2(whole, tmp_path / "again", vision_config=description)
    assert "audio_tower.bin was ignored" in " ".join(report.notes)
    # Without the tower, Microsoft's file stands in.
    (source / "audio_tower.bin").unlink()
    state = {name.removeprefix("model.audio_tower."): tensor for name, tensor in audio.items()}
    torch.save({"cfg": {"encoder_layers": 2, "max_distance": 700}, "model": state}, tmp_path / "beats.pt")
    convert_videollama2(
        source, tmp_path / "third", base=base, vision_config=description, audio_tower=tmp_path / "beats.pt"
    )
    assert_same(loaded_weights(tmp_path / "third"), loaded_weights(tmp_path / "out"))
    assert AutoConfig.from_pretrained(tmp_path / "third").audio_config.max_distance == 700


def test_one_table_of_positions_is_enough(lm: Path, tmp_path: Path) -> None:
    tensors = golden_tensors(lm, "qwen2_av")
    tables = sorted(name for name in tensors if "relative_attention_bias" in name)
    assert len(tables) == 2
    for kept in tables:
        folder = tmp_path / kept.split(".")[4]
        raw = json.loads((lm / "qwen2_av" / "config.json").read_text())
        single = {name: tensor for name, tensor in tensors.items() if name not in tables or name == kept}
        source = write_source(folder / "source", raw, single)
        convert_videollama2(source, folder / "out", vision_config=lm / "qwen2" / "vision_config.json")
        table = loaded_weights(folder / "out")["model.audio_tower.encoder.relative_attention_bias.weight"]
        assert torch.equal(table, tensors[tables[0]])


def test_a_tokenizer_of_another_place(lm: Path, tmp_path: Path, tower: Path) -> None:
    raw = raw_config(**MLP)
    source = write_source(tmp_path / "source", raw, official_tensors(raw))
    folder = shutil.copytree(lm / "tokenizers" / "tok_sp", tmp_path / "tokenizer")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # The template of Mistral-7B-Instruct-v0.2 refuses system messages, which the official code gives to it.
    settings["chat_template"] = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
    )
    for template, words in ((settings["chat_template"], "accepts no system message"), (None, "had no chat template")):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
        report = convert_videollama2(source, tmp_path / "out", vision_config=tower, tokenizer=folder, overwrite=True)
        assert words in " ".join(report.notes)
        processor = AutoProcessor.from_pretrained(tmp_path / "out")
        prompt = processor.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True)
        assert prompt.startswith("<s>[INST] <<SYS>>")
        assert prompt.endswith("\n\n\nWhy? [/INST]")
