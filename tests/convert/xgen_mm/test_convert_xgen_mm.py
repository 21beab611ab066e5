"""An official XGen-MM checkpoint becomes a model that computes what its layout says; whatever is wrong is named."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import Change, put, refusal, without
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Phi3Config,
    Phi3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from xgen_mm_sources import (
    ADDED,
    RELEASED_TEXT,
    RELEASED_VISION,
    RESAMPLER_HEADS,
    RESAMPLER_LAYERS,
    TABLE_ROWS,
    TEXT,
    TOKENIZER_LEN,
    VISION,
    official_shapes,
    write_tokenizer,
    write_vision_config,
    write_xgen_mm,
    xgen_mm_tensors,
)

from hf_videollm import XgenMMConfig, XgenMMForConditionalGeneration, save_checkpoint
from hf_videollm.convert.stream import StoredTensor, StoredWeights
from hf_videollm.convert.tensors import model_shapes
from hf_videollm.convert.xgen_mm.convert import convert_xgen_mm
from hf_videollm.convert.xgen_mm.keys import plan_conversion
from hf_videollm.models.modeling_linvt import LinVTForCausalLM
from hf_videollm.models.processing_linvt import LinVTProcessor

TOLERANCE = 2e-5
LANGUAGE, RESAMPLER, TOWER = "vlm.lang_model.", "vlm.vision_tokenizer.", "vlm.vision_encoder."
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_xgen_mm(tmp_path / "official")


def convert(source: Path, **options: Any) -> tuple[Path, Any]:
    """Folder and report of a conversion."""
    folder = source.parent / "out"
    tower = write_vision_config(source.parent / "tower.json")
    return folder, convert_xgen_mm(source, folder, **{"vision_config": tower, **options})


def loaded_weights(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


# The official computation, on official tensors


def part_of(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def official_resampler(tensors: Tensors, patches: torch.Tensor) -> torch.Tensor:
    """Vectors of one image `(5, 32)` from its patches `(4, 16)`, head by head."""
    t = part_of(tensors, RESAMPLER)

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(values, values.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"])

    latents = t["latents"]
    for number in range(RESAMPLER_LAYERS):
        layer = f"layers.{number}."
        own = norm(f"{layer}0.norm_latents", latents)
        seen = torch.cat([norm(f"{layer}0.norm_media", patches), own])
        keys, values = (seen @ t[f"{layer}0.to_kv.weight"].T).chunk(2, -1)
        queries = own @ t[f"{layer}0.to_q.weight"].T
        width = queries.shape[-1] // RESAMPLER_HEADS
        heads = []
        for head in range(RESAMPLER_HEADS):
            channels = slice(head * width, (head + 1) * width)
            scores = queries[:, channels] @ keys[:, channels].T * width**-0.5
            heads.append(scores.softmax(-1) @ values[:, channels])
        latents = latents + torch.cat(heads, -1) @ t[f"{layer}0.to_out.weight"].T
        inner = F.gelu(norm(f"{layer}1.0", latents) @ t[f"{layer}1.1.weight"].T)
        latents = latents + inner @ t[f"{layer}1.3.weight"].T
    return norm("norm", latents) @ t["projection.weight"].T + t["projection.bias"]


def official_language(tensors: Tensors) -> tuple[Phi3ForCausalLM, Tensors]:
    """Phi-3 with the tables of the source, all rows of them, and the rows that were added."""
    t = part_of(tensors, LANGUAGE)
    model = Phi3ForCausalLM(Phi3Config(**{key: value for key, value in TEXT.items() if key != "torch_dtype"})).eval()
    added = {name: t.pop(name) for name in list(t) if "additional" in name}
    added["main bias"] = t.pop("lm_head.bias")
    model.load_state_dict(t)
    return model, added


@torch.no_grad()
def test_the_model_computes_what_the_official_layout_computes(source: Path) -> None:
    folder, _ = convert(source)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert type(model) is XgenMMForConditionalGeneration
    official = xgen_mm_tensors()
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))

    tower = SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()
    tower.load_state_dict(part_of(official, TOWER))
    features = tower(images).last_hidden_state
    found = model.get_image_features(images).pooler_output
    vectors = [official_resampler(official, patches) for patches in features]
    for image, expected in zip(found, vectors, strict=True):
        assert image.shape == (5, 32)
        assert (image - expected).abs().max() < TOLERANCE * expected.abs().max()

    # An image between words, and a token that the original added, which has its rows elsewhere.
    language, added = official_language(official)
    image_token, end_of_chunk = TOKENIZER_LEN, TOKENIZER_LEN + 2
    prompt = torch.tensor([[10, 11, *[image_token] * 5, 12, end_of_chunk, 13]])
    table = torch.cat([language.get_input_embeddings().weight[:TOKENIZER_LEN], *part_of(added, "model.").values()])
    embeds = table[prompt]
    embeds[0, 2:7] = vectors[0]
    states = language.model(inputs_embeds=embeds).last_hidden_state
    main = language.lm_head(states) + added["main bias"]
    more = F.linear(states, added["lm_head.additional_fc.weight"], added["lm_head.additional_fc.bias"])
    expected = torch.cat([main[..., :TOKENIZER_LEN], more], -1)
    logits = model(input_ids=prompt, pixel_values=images[:1]).logits
    assert logits.shape == (1, 10, TOKENIZER_LEN + ADDED)
    assert (logits - expected).abs().max() < TOLERANCE * expected.abs().max()
    other = model(input_ids=prompt, pixel_values=images[1:]).logits
    assert (logits - other).abs().max() > 1e-2 * expected.abs().max(), "the image must count"


# Layouts and names


def test_the_layouts_of_files_give_the_same_weights(source: Path, tmp_path: Path) -> None:
    expected = loaded_weights(convert(source)[0])
    for layout in ("sharded", "bin"):
        folder, report = convert(write_xgen_mm(tmp_path / layout, layout=layout), overwrite=True, max_shard_size=10**5)
        assert len(report.weight_files) > 2
        assert ("pickles" in " ".join(report.notes)) == ("bin" in layout)
        found = loaded_weights(folder)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert report.left_aside == 11
    assert report.parameters == sum(tensor.numel() for tensor in expected.values())


def test_the_names_and_the_size_of_the_released_checkpoint() -> None:
    """Its index says 17,437,028,876 bytes in float32, and a JSON of 718 names that is 70,125 characters long."""
    official = official_shapes(RELEASED_VISION, RELEASED_TEXT, 128)
    assert 4 * sum(map(math.prod, official.values())) == 17_437_028_876
    index = {
        "metadata": {"total_size": 17_437_028_876},
        "weight_map": dict.fromkeys(official, "model-00001-of-00004.safetensors"),
    }
    assert (len(official), len(json.dumps(index, indent=2) + "\n")) == (718, 70_125)

    expected = model_shapes(XgenMMConfig(), XgenMMForConditionalGeneration, Path("config.json"))
    stored = {name: StoredTensor(name, Path("x"), shape, torch.float32) for name, shape in official.items()}
    plan = plan_conversion(expected, StoredWeights(stored, Path("x")), 32064, 3)
    used = [tensor.name for parts in plan.pieces.values() for tensor, _ in parts]
    assert sorted([*used, *(tensor.name for tensor in plan.dropped)]) == sorted(official)
    assert plan.shapes["model.language_model.embed_tokens.weight"] == (32015, 3072)
    assert [rows for _, rows in plan.pieces["lm_head.bias"]] == [32012, None]


def test_the_head_of_a_checkpoint_without_bias_has_none(tmp_path: Path) -> None:
    tensors = {
        name: tensor for name, tensor in xgen_mm_tensors().items() if not name.endswith(("head.bias", "fc.bias"))
    }
    folder, _ = convert(write_xgen_mm(tmp_path / "official", tensors))
    assert AutoModelForImageTextToText.from_pretrained(folder).lm_head.bias is None


def test_types_are_kept_or_cast(source: Path) -> None:
    folder, report = convert(source)
    assert (report.dtype, {tensor.dtype for tensor in loaded_weights(folder).values()}) == ("float32", {torch.float32})
    folder, report = convert(source, dtype="bfloat16", overwrite=True)
    assert {tensor.dtype for tensor in loaded_weights(folder).values()} == {torch.bfloat16}
    assert AutoModelForImageTextToText.from_pretrained(folder).dtype == torch.bfloat16
    assert report.dtype == "bfloat16"


# What else is written


def test_configuration_and_generation(source: Path) -> None:
    folder, report = convert(source)
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert (text["vocab_size"], text["sliding_window"], text["rms_norm_eps"]) == (TOKENIZER_LEN + ADDED, 300, 1e-5)
    assert text["rope_parameters"]["rope_theta"] == 10000.0
    assert (vision["image_size"], vision["vision_use_head"]) == (28, False)
    assert (config["num_query_tokens"], config["resampler_num_heads"], config["lm_head_bias"]) == (5, 16, True)
    assert config["model_type"] == "xgen_mm"
    assert report.token_ids["image"] == config["image_token_id"] == TOKENIZER_LEN
    settings = GenerationConfig.from_pretrained(folder)
    assert not settings.do_sample
    # The end of the text, and of a turn; padding as the tokenizer pads.
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, [3, 7], 2)
    assert {"modeling_xgen_mm.py", "configuration_xgen_mm.py", "processing_xgen_mm.py"} <= {
        path.name for path in folder.iterdir()
    }


@torch.no_grad()
def test_an_image_is_asked_and_answered(source: Path) -> None:
    folder, report = convert(source)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert report.has_processor
    assert (processor.image_processor.size.height, processor.tokenizer.padding_side) == (28, "left")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    inputs = processor(text=prompt, images=[image], return_tensors="pt")
    assert (inputs["input_ids"] == report.token_ids["image"]).sum() == 5
    assert inputs["pixel_values"].shape == (1, 3, 28, 28)
    answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3


@torch.no_grad()
def test_linvt_takes_what_was_converted(source: Path) -> None:
    folder, _ = convert(source)
    module = {"num_layers": 1, "num_attention_heads": 2, "num_selected_tokens": 12, "num_queries": [4, 2, 1]}
    model = LinVTForCausalLM.from_image_llm(folder, linvt_config=module)
    processor = LinVTProcessor.from_image_llm(folder, linvt_config=module)
    assert model.lm_head.bias is not None
    video = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 3), dtype=np.uint8)
    chat = [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "What is it?"}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", num_frames=4
    )
    assert inputs["pixel_values_videos"].shape == (4, 3, 28, 28)
    answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3


def test_without_a_tokenizer_or_with_one_of_another_place(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(other / name)
    folder, report = convert(source)
    assert not report.has_processor
    assert "pass --tokenizer FOLDER" in " ".join(report.notes)
    assert AutoModelForImageTextToText.from_pretrained(folder).config.image_token_id == TOKENIZER_LEN
    _, report = convert(source, tokenizer=other, overwrite=True)
    assert report.has_processor


# Whatever is wrong: one line that names it, and nothing is written


def refused(source: Path, words: str, **options: Any) -> None:
    tower = write_vision_config(source.parent / "tower.json")
    with refusal(source.parent, words):
        convert_xgen_mm(source, source.parent / "out", **{"vision_config": tower, **options})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{RESAMPLER}latents"), r"vision_tokenizer\.latents is missing in .*model\.safetensors"),
        (without(f"{LANGUAGE}lm_head.additional_fc.bias"), r"lm_head\.additional_fc\.bias is missing"),
        (without(f"{TOWER}post_layernorm.bias"), r"vision_encoder\.post_layernorm\.bias is missing"),
        (put(f"{RESAMPLER}frame_embs", torch.zeros(8, 16)), r"frame_embs in .* has no place in XGen-MM"),
        (put(f"{RESAMPLER}latents", torch.zeros(6, 16)), r"latents in .* has the shape \(6, 16\) instead of \(5, 16\)"),
        (
            put(f"{LANGUAGE}model.embed_tokens.additional_embedding.weight", torch.zeros(4, 32)),
            r"additional_embedding\.weight in .* has the shape \(4, 32\) instead of \(3, 32\)",
        ),
        (
            put(f"{LANGUAGE}model.embed_tokens.weight", torch.zeros(TABLE_ROWS - 1, 32)),
            r"embed_tokens\.weight in .* has",
        ),
        (put(f"{RESAMPLER}norm.bias", torch.zeros(16, dtype=torch.int8)), "is int8: quantized weights cannot"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Change, words: str) -> None:
    tensors = xgen_mm_tensors()
    change(tensors)
    refused(write_xgen_mm(tmp_path / "official", tensors), words)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model_type": "blip_3"}, r"no configuration of XGen-MM v1\.5 \(model_type 'blip_3'.*r-v1.*OpenCLIP"),
        ({"model_type": "xgen_mm"}, "already converted: load"),
        ({"text_config": None}, "has no section 'text_config'"),
        ({"text_config": {"model_type": "llama"}}, "the language model is 'llama'; XGen-MM supports only phi3"),
        ({"text_config": {"initial_tokenizer_len": None}}, "initial_tokenizer_len must be a whole number from 1 to"),
        ({"text_config": {"initial_tokenizer_len": 10**6}}, "initial_tokenizer_len must be a whole number from 1 to"),
        ({"text_config": {"num_attention_heads": "4"}}, "No XGen-MM can be built .*num_attention_heads"),
        ({"vision_tokenizer_config": {"vis_feature_dim": 1280}}, "features of width 1280, but the vision tower has 16"),
        ({"vision_tokenizer_config": {"num_vis_tokens": 0}}, "num_query_tokens must be at least 1, not 0"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    refused(write_xgen_mm(tmp_path / "official", **sections), words)


def test_an_unknown_tower_needs_a_description(source: Path, tmp_path: Path) -> None:
    refused(
        source, "The vision tower 'made/up' of config.json is not google/siglip.*--vision-config", vision_config=None
    )
    clip = tmp_path / "clip.json"
    clip.write_text(json.dumps({"model_type": "clip_vision_model"}))
    refused(
        source,
        r"clip\.json describes a model of type 'clip_vision_model': XGen-MM v1\.5 needs a SigLIP",
        vision_config=clip,
    )


def test_a_tokenizer_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, ["<unk>", "<s>", "<pad>", "<|endoftext|>"])
    refused(source, f"gives <image> the id {TOKENIZER_LEN - 4} instead of {TOKENIZER_LEN}", tokenizer=other)


def test_files_that_are_missing_or_damaged_are_named(source: Path) -> None:
    pixels = source / "preprocessor_config.json"
    pixels.write_text(json.dumps({"resize_mode": "longest"}))
    refused(source, "resize_mode 'longest' is not supported")
    pixels.write_text(json.dumps({"image_mean": 0.5}))
    refused(source, "image_mean must be three numbers, not 0.5")
    (source / "model.safetensors").write_bytes(b"\0" * 64)
    refused(source, r"model\.safetensors is truncated or damaged")
    (source / "model.safetensors").unlink()
    refused(source, "official has no weights")
    refused(source.parent / "nowhere", "nowhere does not exist: pass the folder of the XGen-MM checkpoint")


def test_the_command(cli: Callable[..., tuple[int, str, str]], source: Path, tmp_path: Path) -> None:
    tower = str(write_vision_config(tmp_path / "tower.json"))
    arguments = ("convert", "xgen-mm", str(source), str(tmp_path / "out"), "--vision-config", tower)
    code, out, _ = cli(*arguments, "--json")
    report = json.loads(out)
    assert (code, report["token_ids"]["image"], report["has_processor"]) == (0, TOKENIZER_LEN, True)
    code, out, error = cli(*arguments)
    assert (code, out) == (2, "")
    assert "--overwrite" in error
    code, out, _ = cli(*arguments, "--overwrite")
    assert code == 0
    assert "11 tensors that the model does not need" in out
    code, out, error = cli("convert", "xgen-mm", str(tmp_path / "out"), str(tmp_path / "again"))
    assert code == 2
    assert "already converted" in error


def test_saved_again_with_its_processor(source: Path, tmp_path: Path) -> None:
    folder, _ = convert(source)
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    again = save_checkpoint(model, processor, tmp_path / "again")
    expected = model.state_dict()
    found = AutoModelForImageTextToText.from_pretrained(again).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert AutoProcessor.from_pretrained(again).image_token_id == model.config.image_token_id
    model.config.image_token_id += 1
    with pytest.raises(ValueError, match="belongs to another model: its image_token_id is"):
        save_checkpoint(model, processor, tmp_path / "wrong")
