"""A CLIP or SigLIP and a language model become one IVA that holds their weights and can be trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ftfv_sources import llama_tensors, write_llama
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipConfig,
    SiglipModel,
)

from hf_videollm import CheckpointError
from hf_videollm.convert.iva.convert import convert_iva
from hf_videollm.data.records import make_record
from hf_videollm.training.collator import VideoDataCollator

WIDTH, SIDE = 32, 16
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 4,
}
WORDS = {**TOWER, "vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
SMALL: dict[str, Any] = {"num_insertions": 2, "num_query_tokens": 3, "adapter_hidden_size": 24}
MAKE: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=TOWER, text_config=WORDS)),
    "clip_vision": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=TOWER, text_config=WORDS)),
}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_vision(tmp_path / "clip", "clip")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama")


def write_vision(folder: Path, kind: str) -> Path:
    MAKE[kind]().save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("kind", MAKE)
def test_weights_are_those_of_the_sources(kind: str, llama: Path, tmp_path: Path, clips: list[str]) -> None:
    vision = write_vision(tmp_path / kind, kind)
    report = convert_iva(vision, llama, tmp_path / "out", **SMALL)
    model, processor = load(tmp_path / "out")
    source = MAKE[kind]().from_pretrained(vision).state_dict()
    tower = model.model.vision_tower.state_dict()
    short = {name.removeprefix("vision_model."): tensor for name, tensor in source.items()}
    assert all(torch.equal(tensor, short[name.removeprefix("vision_model.")]) for name, tensor in tower.items())
    for name, tensor in llama_tensors().items():
        own = name.replace("model.", "model.language_model.", 1)
        assert torch.equal(model.state_dict()[own], tensor), name
    total = {id(weight): weight.numel() for weight in model.parameters()}
    assert report.parameters == sum(total.values())
    assert model.generation_config.do_sample is False
    ids = {name: getattr(model.config, f"{name}_token_id") for name in ("image", "video", "query")}
    assert ids == report.token_ids
    assert len(set(ids.values())) == 3
    text = [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What moves?"}]
    chat = [{"role": "user", "content": text}]
    batch = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", num_frames=4
    )
    assert batch["pixel_values_videos"].shape == (1, 4, 3, SIDE, SIDE)
    mean = 0.5 if kind == "siglip" else 0.48145466
    assert processor.video_processor.image_mean[0] == processor.image_processor.image_mean[0] == mean
    assert model.generate(**batch, max_new_tokens=3).shape[1] == batch["input_ids"].shape[1] + 3
    record = make_record("1", clips[0], [("Colour?", "red")])
    model.train()(**VideoDataCollator(processor)([record.to_dict()])).loss.backward()
    assert model.model.adapter.output.weight.grad.abs().max() > 0


def test_new_parts_follow_the_seed_and_nothing_else_does(clip: Path, llama: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name, options in {"a": {}, "b": {}, "c": {"seed": 1}, "d": {"dtype": "bfloat16"}}.items():
        report = convert_iva(clip, llama, tmp_path / name, **SMALL, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert report.dtype == "bfloat16"
    a, b, c, d = (load_file(tmp_path / name / "model.safetensors") for name in "abcd")
    assert all(torch.equal(a[name], b[name]) for name in a)
    moved = {name for name in a if not torch.equal(a[name], c[name])}
    new = ("model.connector.", "model.adapter.", "model.query_tokens.")
    assert moved == {name for name in a if name.startswith(new) and a[name].unique().numel() > 1}
    # Query tokens are as large as words, which are rounded.
    queries = "model.query_tokens.weight"
    assert all(torch.equal(a[name].to(torch.bfloat16), d[name]) for name in a.keys() - {queries})
    torch.testing.assert_close(a[queries], d[queries].float(), rtol=0.01, atol=0)
    assert not a["model.adapter.output.weight"].any()
    # Query tokens are as large as words.
    sizes = [
        a[f"model.{name}.weight"].square().mean().sqrt() for name in ("query_tokens", "language_model.embed_tokens")
    ]
    torch.testing.assert_close(*sizes)


def test_at_first_text_is_answered_as_by_the_language_model(clip: Path, llama: Path, tmp_path: Path) -> None:
    convert_iva(clip, llama, tmp_path / "out", **SMALL)
    ids = torch.randint(3, 100, (2, 9))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(llama)(ids).logits
        torch.testing.assert_close(load(tmp_path / "out")[0](ids).logits, expected)


def test_without_adapter_and_with_a_tied_head(clip: Path, llama: Path, tmp_path: Path) -> None:
    config = {**json.loads((llama / "config.json").read_text()), "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(llama)
    report = convert_iva(clip, llama, tmp_path / "out", **{**SMALL, "num_insertions": 0})
    model, processor = load(tmp_path / "out")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not hasattr(model.model, "adapter")
    assert processor.num_query_tokens == 0
    # The placeholder is there for the stage that adds the adapter.
    assert processor.tokenizer.convert_tokens_to_ids("<iva_query>") == report.token_ids["query"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_insertions": 3}, "No IVA can be built .*num_insertions is 3, but the language model has 2 layers"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"max_shard_size": 0}, "max_shard_size"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, clip: Path, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert_iva(clip, llama, tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_sources_that_do_not_fit(clip: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(words: str, *sources: Path) -> None:
        with pytest.raises(CheckpointError, match=words) as caught:
            convert_iva(*sources, out, **SMALL)
        assert "\n" not in str(caught.value)
        assert not out.exists()

    refused("describes a model of type 'llama': pass the folder of a CLIP or SigLIP", llama, llama)
    refused("describes a model of type 'clip', which is no causal language model", clip, clip)
    change_weights(llama, lambda tensors: tensors.pop("model.norm.weight"))
    refused("llama lacks model.norm.weight", clip, llama)
    change_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))
    refused(r"model.norm.weight in .*llama has the shape \(3\) instead of \(256\)", clip, llama)
    change_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(256), "x": torch.ones(1)}))
    refused("llama holds x, which has no place in LlamaForCausalLM", clip, llama)
    change_weights(llama, lambda tensors: tensors.pop("x"))
    change_weights(clip, lambda tensors: tensors.update({"y": torch.ones(1)}))
    refused("clip holds y, which has no place in CLIPVisionModel", clip, llama)
    (llama / "tokenizer.json").unlink()
    refused("has no tokenizer.*--tokenizer", clip, llama)
    with pytest.raises(CheckpointError, match="is, or contains, the vision tower"):
        convert_iva(clip, llama, clip, overwrite=True)


def test_the_command(cli: Callable[..., tuple[int, str, str]], clip: Path, llama: Path, tmp_path: Path) -> None:
    arguments = ("convert", "iva", str(clip), str(llama), str(tmp_path / "out"), "--adapter-width", "24")
    code, out, error = cli(*arguments, "--num-insertions", "1", "--query-tokens", "2", "--json")
    assert code == 0, error
    assert (json.loads(out)["num_insertions"], json.loads(out)["has_processor"]) == (1, True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_query_tokens"] == 2
    code, out, error = cli(*arguments, "--num-insertions", "1")
    assert (code, out) == (2, "")
    assert "--overwrite" in error
    code, out, _ = cli(*arguments, "--num-insertions", "0", "--overwrite")
    assert code == 0
    assert "random values, seed 0" in out
