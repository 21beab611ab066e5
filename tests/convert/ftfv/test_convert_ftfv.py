"""Qwen-VL's vision module and a language model become one FTFV that computes what they compute."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ftfv_sources import (
    LLAMA_CONFIG,
    PREFIX,
    VISUAL,
    llama_tensors,
    qwen_vl_tensors,
    visual_shapes,
    visual_tensors,
    write_llama,
    write_qwen_vl,
)
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from hf_videollm import save_checkpoint
from hf_videollm.convert.ftfv.convert import convert_ftfv
from hf_videollm.convert.ftfv.keys import plan_conversion
from hf_videollm.convert.stream import StoredTensor, StoredWeights
from hf_videollm.convert.tensors import model_shapes
from hf_videollm.costs.presets import find_preset
from hf_videollm.models.modeling_ftfv import FtfvForConditionalGeneration

TOLERANCE = 2e-5
K = 5
Tensors = dict[str, torch.Tensor]


def convert(qwen_vl: Path, llama: Path, **options: Any) -> tuple[Path, Any]:
    """Folder and report of a conversion with K = 5, of 16."""
    folder = qwen_vl.parent / "out"
    report = convert_ftfv(qwen_vl, llama, folder, **{"num_tokens_per_frame": K, "num_frames": 4, **options})
    return folder, report


def loaded_weights(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


# The official computation as docs/designs/ftfv.md writes it, on official tensors.


def norm(tensors: Tensors, name: str, values: torch.Tensor) -> torch.Tensor:
    weight, bias = tensors[f"{PREFIX}{name}.weight"], tensors[f"{PREFIX}{name}.bias"]
    mean, variance = values.mean(-1, keepdim=True), values.var(-1, unbiased=False, keepdim=True)
    return (values - mean) / (variance + 1e-6).sqrt() * weight + bias


def resized(table: torch.Tensor, side: int) -> torch.Tensor:
    """A square table of positions, bicubic."""
    rows = math.isqrt(len(table))
    grid = table.T.reshape(1, -1, rows, rows)
    return F.interpolate(grid, (side, side), mode="bicubic", align_corners=False).reshape(table.shape[1], -1).T


def official_tower(tensors: Tensors, frame: torch.Tensor) -> torch.Tensor:
    """Patch features of one frame `(3, 56, 56)`: `(16, 24)`, head by head."""
    t = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    side, heads, width = 56 // 14, VISUAL["heads"], VISUAL["width"]
    d = width // heads
    squares = [frame[:, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14] for r in range(side) for c in range(side)]
    x = torch.stack(squares).flatten(1) @ t["conv1.weight"].flatten(1).T
    x = norm(tensors, "ln_pre", x + resized(t["positional_embedding"], side))
    for number in range(VISUAL["layers"]):
        block = f"transformer.resblocks.{number}."
        fused = norm(tensors, f"{block}ln_1", x) @ t[f"{block}attn.in_proj.weight"].T + t[f"{block}attn.in_proj.bias"]
        outputs = []
        for head in range(heads):
            own = fused[:, 3 * d * head : 3 * d * (head + 1)]
            q, k, v = own[:, :d], own[:, d : 2 * d], own[:, 2 * d :]
            outputs.append((q @ k.T / d**0.5).softmax(-1) @ v)
        attended = torch.cat(outputs, -1)
        x = x + attended @ t[f"{block}attn.out_proj.weight"].T + t[f"{block}attn.out_proj.bias"]
        inner = norm(tensors, f"{block}ln_2", x) @ t[f"{block}mlp.c_fc.weight"].T + t[f"{block}mlp.c_fc.bias"]
        inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
        x = x + inner @ t[f"{block}mlp.c_proj.weight"].T + t[f"{block}mlp.c_proj.bias"]
    return x


def official_adapter(tensors: Tensors, patches: torch.Tensor, kept: int | None) -> torch.Tensor:
    """Tokens of one frame `(kept, 256)`, sampled by Eq. 2; all of them, in their order, when `kept` is `None`."""
    pool = {name.removeprefix(f"{PREFIX}attn_pool."): tensor for name, tensor in tensors.items()}
    attention = nn.MultiheadAttention(VISUAL["output_dim"], VISUAL["output_dim"] // 128, batch_first=True)
    attention.load_state_dict({name.removeprefix("attn."): pool[name] for name in pool if name.startswith("attn.")})
    value = norm(tensors, "attn_pool.ln_kv", patches @ pool["kv_proj.weight"].T)
    query = norm(tensors, "attn_pool.ln_q", pool["query"]) + pool["pos_embed"]
    key = value + resized(pool["pos_embed"], math.isqrt(len(patches)))
    tokens, weights = attention(query[None], key[None], value[None])
    if kept is not None:
        tokens = tokens[:, weights[0].amax(-1).sort(descending=True).indices[:kept]]
    return (norm(tensors, "ln_post", tokens) @ tensors[f"{PREFIX}proj"])[0]


@torch.no_grad()
def test_the_model_computes_what_the_official_layout_computes(qwen_vl: Path, llama: Path) -> None:
    folder, _ = convert(qwen_vl, llama)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    official = visual_tensors()
    frames = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))

    features = torch.stack([official_tower(official, frame) for frame in frames])
    found = model.model.encode_frames(frames).last_hidden_state
    assert (found - features).abs().max() < TOLERANCE * features.abs().max()

    images = model.get_image_features(frames).pooler_output
    for image, patches in zip(images, features, strict=True):
        expected = official_adapter(official, patches, None)
        assert image.shape == (16, 256)
        assert (image - expected).abs().max() < TOLERANCE * expected.abs().max()

    # Four frames have a code each; three get it interpolated from end to end.
    code = loaded_weights(folder)["model.connector.temporal_embedding"]
    places = [code[0], (code[1] + code[2]) / 2, code[3]]
    tokens = [official_adapter(official, features[i] + places[i], K) for i in range(3)]
    video = model.get_video_features(frames[None]).pooler_output[0]
    assert (video - torch.cat(tokens)).abs().max() < TOLERANCE * video.abs().max()


@torch.no_grad()
def test_the_language_model_is_the_one_that_was_given(qwen_vl: Path, llama: Path) -> None:
    folder, _ = convert(qwen_vl, llama)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    alone = AutoModelForCausalLM.from_pretrained(llama).eval()
    text = torch.tensor([[1, 40, 41]])
    assert torch.allclose(model(input_ids=text).logits, alone(input_ids=text).logits, atol=TOLERANCE)

    frames = torch.randn(1, 4, 3, 56, 56)
    prompt = torch.cat([text, torch.full((1, 4 * K), model.config.video_token_id), torch.tensor([[50]])], 1)
    logits = model(input_ids=prompt, pixel_values_videos=frames).logits
    embeddings = alone.get_input_embeddings()
    video = model.get_video_features(frames).pooler_output[0]
    merged = torch.cat([embeddings(text)[0], video, embeddings(torch.tensor([50]))])[None]
    assert torch.allclose(logits, alone(inputs_embeds=merged).logits, atol=10 * TOLERANCE)


# Layouts


def our_tensors() -> Tensors:
    """The sources under our names, written out here a second time; the temporal code is left out."""
    ours = {}
    d = VISUAL["width"] // VISUAL["heads"]
    for name, tensor in visual_tensors().items():
        name = name.removeprefix(PREFIX)
        if name.startswith("transformer.resblocks."):
            name = name.replace("transformer.resblocks.", "layers.")
            name = name.replace("ln_1", "layer_norm1").replace("ln_2", "layer_norm2").replace("attn", "self_attn")
            name = name.replace("c_fc", "fc1").replace("c_proj", "fc2")
            if "in_proj" in name:
                for number, letter in enumerate("qkv"):
                    starts = [3 * d * head + d * number for head in range(VISUAL["heads"])]
                    rows = torch.cat([tensor[start : start + d] for start in starts])
                    ours[f"model.vision_tower.{name.replace('in_proj', letter + '_proj')}"] = rows
                continue
        elif name.startswith(("conv1", "positional", "ln_pre")):
            name = name.replace("conv1", "patch_embedding").replace("positional_embedding", "position_embedding")
            name = name.replace("ln_pre", "pre_layernorm")
        else:
            ours[f"model.connector.{name.removeprefix('attn_pool.')}"] = tensor
            continue
        ours[f"model.vision_tower.{name}"] = tensor
    for name, tensor in llama_tensors().items():
        ours[name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)] = tensor
    return ours


@pytest.mark.parametrize(
    ("visual_layout", "language_layout"),
    [("single", "sharded bin"), ("sharded", "single"), ("bin", "sharded"), ("sharded bin", "bin")],
)
def test_every_tensor_arrives_from_every_layout(tmp_path: Path, visual_layout: str, language_layout: str) -> None:
    qwen_vl = write_qwen_vl(tmp_path / "qwen_vl", layout=visual_layout)
    llama = write_llama(tmp_path / "llama", layout=language_layout)
    seen: list[tuple[int, int]] = []
    folder, report = convert(
        qwen_vl, llama, max_shard_size=200_000, progress=lambda done, total: seen.append((done, total))
    )
    found = loaded_weights(folder)
    code = found.pop("model.connector.temporal_embedding")
    expected = our_tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert code.shape == (4, 1, 24)
    assert report.parameters == sum(tensor.numel() for tensor in [*expected.values(), code])
    assert report.weight_bytes == 4 * report.parameters == seen[-1][0] == seen[-1][1]
    assert len(report.weight_files) > 1
    assert report.left_aside == 4
    assert not [path for path in folder.iterdir() if path.name.startswith("pickles.")]
    is_pickled = any(note.endswith("pickles, read in a separate process.") for note in report.notes)
    assert is_pickled == ("bin" in visual_layout + language_layout)


def test_pickled_shards_without_vision_keys_need_not_be_there(tmp_path: Path, llama: Path) -> None:
    qwen_vl = write_qwen_vl(tmp_path / "qwen_vl", layout="sharded bin")
    index_file = qwen_vl / "pytorch_model.bin.index.json"
    index = json.loads(index_file.read_text())
    index["weight_map"] |= {"transformer.h.7.attn.c_attn.weight": "pytorch_model-00009-of-00009.bin"}
    index_file.write_text(json.dumps(index))
    _, report = convert(qwen_vl, llama)
    assert report.left_aside == 5


def test_the_names_of_the_released_checkpoint() -> None:
    """At real sizes: the 594 tensors and 1,935,610,624 values of docs/designs/ftfv.md#vision-tower, each used once."""
    config = find_preset("ftfv").config()
    shapes = model_shapes(config, FtfvForConditionalGeneration, Path("config.json"))
    real = {"width": 1664, "layers": 48, "heads": 16, "mlp_ratio": 4.9231, "patch_size": 14, "output_dim": 4096}
    official = visual_shapes({**real, "n_queries": 256})
    assert len(official) == 594
    assert sum(map(math.prod, official.values())) == 1_935_610_624

    def stored(shapes: dict[str, tuple[int, ...]]) -> StoredWeights:
        tensors = {name: StoredTensor(name, Path("x"), shape, torch.bfloat16) for name, shape in shapes.items()}
        return StoredWeights(tensors, Path("x"))

    vicuna = {
        name.replace("model.language_model.", "model."): shape
        for name, shape in shapes.items()
        if name.startswith(("model.language_model.", "lm_head."))
    }
    plan = plan_conversion(shapes, stored(official), stored(vicuna), "model.")
    used = [source.tensor.name for source in plan.sources.values() if source.part in (None, 0)]
    assert sorted(used) == sorted([*official, *vicuna])
    assert shapes.keys() - plan.sources.keys() == {"model.connector.temporal_embedding"}


# What else is written


def test_the_temporal_code_is_random_and_reproducible(qwen_vl: Path, llama: Path) -> None:
    codes = []
    for seed in (3, 3, 4):
        folder, report = convert(qwen_vl, llama, seed=seed, num_frames=200, overwrite=True)
        assert report.seed == seed
        codes.append(loaded_weights(folder)["model.connector.temporal_embedding"])
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert codes[0].shape == (200, 1, 24)
    assert codes[0].std().item() == pytest.approx(0.02, rel=0.05)
    assert codes[0].mean().abs() < 0.002


def test_the_folder_is_what_save_checkpoint_writes(qwen_vl: Path, llama: Path, tmp_path: Path) -> None:
    folder, _ = convert(qwen_vl, llama)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    again = save_checkpoint(model, processor, tmp_path / "again")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in again.iterdir())
    for file in ("processor_config.json", "chat_template.jinja", "tokenizer.json", "generation_config.json"):
        assert (folder / file).read_text() == (again / file).read_text(), file
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, again)]
    for config in configs:
        for tower in ("text_config", "vision_config"):
            config[tower].pop("dtype", None)
    assert configs[0] == configs[1]


def test_configuration_and_generation(qwen_vl: Path, llama: Path) -> None:
    folder, report = convert(qwen_vl, llama)
    config = json.loads((folder / "config.json").read_text())
    vision, text = config["vision_config"], config["text_config"]
    assert (vision["hidden_size"], vision["intermediate_size"], vision["num_attention_heads"]) == (24, 118, 3)
    assert (vision["image_size"], vision["position_grid_size"], vision["num_hidden_layers"]) == (56, 16, 2)
    assert (config["adapter_width"], config["adapter_num_heads"], config["num_queries"]) == (256, 2, 16)
    assert (config["num_frames"], config["num_tokens_per_frame"], config["dtype"]) == (4, K, "float32")
    assert text["rope_parameters"]["rope_theta"] == LLAMA_CONFIG["rope_theta"]
    assert text["use_cache"]
    settings = GenerationConfig.from_pretrained(folder)
    assert not settings.do_sample
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)
    assert report.has_processor
    assert report.token_ids == {"image": config["image_token_id"], "video": config["video_token_id"]}


@torch.no_grad()
def test_a_video_is_asked_and_answered(qwen_vl: Path, llama: Path) -> None:
    folder, report = convert(qwen_vl, llama)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert (processor.video_processor.num_frames, processor.video_processor.size.height) == (4, 56)
    assert (processor.image_processor.size.height, processor.image_processor.do_center_crop) == (56, False)
    assert processor.tokenizer.pad_token == "<unk>"
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert "USER: <video>\nWhat is it? ASSISTANT:" in prompt
    video = torch.randint(0, 256, (4, 3, 60, 70), dtype=torch.uint8)
    inputs = processor(text=prompt, videos=[video], return_tensors="pt")
    assert (inputs["input_ids"] == report.token_ids["video"]).sum() == 4 * K
    answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3


def test_types_are_kept_or_cast(tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in qwen_vl_tensors().items()}
    qwen_vl = write_qwen_vl(tmp_path / "qwen_vl", half)
    llama = write_llama(tmp_path / "llama", {name: tensor.half() for name, tensor in llama_tensors().items()})
    folder, report = convert(qwen_vl, llama)
    weights = loaded_weights(folder)
    assert weights["model.connector.temporal_embedding"].dtype == torch.bfloat16
    assert weights["lm_head.weight"].dtype == torch.float16
    assert "stored as bfloat16 and float16" in " ".join(report.notes)
    folder, report = convert(qwen_vl, llama, dtype="bfloat16", overwrite=True)
    assert {tensor.dtype for tensor in loaded_weights(folder).values()} == {torch.bfloat16}
    assert report.dtype == "bfloat16"
    assert report.notes == ["the tokenizer had no padding token: '<unk>' is used."]


# Language models


def test_a_tied_head_and_computed_buffers(qwen_vl: Path, tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["lm_head.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(32)
    folder, _ = convert(qwen_vl, write_llama(tmp_path / "tied", tensors, tie_word_embeddings=True))
    assert "lm_head.weight" not in loaded_weights(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@torch.no_grad()
def test_a_language_model_of_another_family(qwen_vl: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=256, n_layer=2, n_head=4, n_positions=64, vocab_size=90, bos_token_id=1, eos_token_id=2)
    alone = GPT2LMHeadModel(config).eval()
    alone.save_pretrained(tmp_path / "gpt2")
    folder, report = convert(qwen_vl, tmp_path / "gpt2")
    assert not report.has_processor
    assert report.token_ids == {"image": 90, "video": 91}
    assert "pass --tokenizer FOLDER" in " ".join(report.notes)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    text = torch.tensor([[5, 6, 7]])
    assert torch.allclose(model(input_ids=text).logits, alone(input_ids=text).logits, atol=TOLERANCE)


def test_a_tokenizer_of_another_place(qwen_vl: Path, llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).rename(other / name)
    _, report = convert(qwen_vl, llama, tokenizer=other)
    assert report.has_processor
