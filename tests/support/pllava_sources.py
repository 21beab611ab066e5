"""Tiny official PLLaVA checkpoints in all layouts, made up by the tests: no reference tensors needed."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from hf_videollm.convert.pllava.config import build_config
from hf_videollm.convert.pllava.keys import expected_shapes, is_adapted

RANK = 4
IMAGE_ID = 100
WORDS = ("what", "moves", "?", "red", "blue", "USER:", "ASSISTANT:", "yes", "no")
RAW_CONFIG: dict[str, Any] = {
    "architectures": ["PlavaForConditionalGeneration"],
    "model_type": "llava",
    "frame_shape": [4, 4],
    "pooling_shape": [2, 2, 2],
    "num_frames": 2,
    "pooling_method": "avg",
    "use_pooling": True,
    "register": False,
    "image_token_index": IMAGE_ID,
    "torch_dtype": "float32",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "use_cc": False,
    "stride": 1,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "image_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 4,
        "projection_dim": 8,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "vocab_size": 120,
        "use_cache": False,
        "max_length": 4096,
    },
}


def raw_config(**changes: Any) -> dict[str, Any]:
    """An official config.json; `changes` replace top-level fields, `None` removes one."""
    config = {**copy.deepcopy(RAW_CONFIG), **changes}
    return {name: value for name, value in config.items() if value is not None}


def our_tensors(raw: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under our names, small enough to keep activations sane."""
    config, _ = build_config(raw, Path("config.json"))
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in expected_shapes(config).items()}


def lora_tensors(ours: dict[str, torch.Tensor], rank: int = RANK) -> dict[str, torch.Tensor]:
    """Random factors for every adapted layer, under official names."""
    generator = torch.Generator().manual_seed(7)
    factors = {}
    for name, tensor in ours.items():
        if is_adapted(name):
            layer = official_name(name, "released").removesuffix(".base_layer.weight")
            rows, columns = tensor.shape
            factors[f"{layer}.lora_A.default.weight"] = torch.randn(rank, columns, generator=generator)
            factors[f"{layer}.lora_B.default.weight"] = torch.randn(rows, rank, generator=generator)
    return factors


def official_name(name: str, layout: str) -> str:
    """Our tensor name in a layout: released, plain (4.37), tidy (as transformers 5 saves) or memory (in its models)."""
    language = {
        "released": "language_model.base_model.model.model.",
        "plain": "language_model.model.",
        "tidy": "language_model.model.",
        "memory": "model.language_model.",
    }[layout]
    head = {
        "released": "language_model.base_model.model.lm_head.",
        "plain": "language_model.lm_head.",
        "tidy": "language_model.lm_head.",
        "memory": "lm_head.",
    }[layout]
    tower = {"tidy": "vision_tower.", "memory": "model.vision_tower."}.get(layout, "vision_tower.vision_model.")
    connector = "model.multi_modal_projector." if layout == "memory" else "multi_modal_projector."
    if layout == "released" and is_adapted(name):
        name = name.removesuffix(".weight") + ".base_layer.weight"
    for ours, theirs in (
        ("model.language_model.", language),
        ("lm_head.", head),
        ("model.vision_tower.", tower),
        ("model.connector.", connector),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(name)


def official_tensors(ours: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """Weights in a layout, without LoRA."""
    return {official_name(name, layout): tensor for name, tensor in ours.items()}


def released_tensors(raw: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """A whole checkpoint as the authors released it."""
    ours = our_tensors(raw or raw_config())
    return {**official_tensors(ours, "released"), **lora_tensors(ours)}


def partial_tensors(raw: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """LoRA and projector only."""
    return {
        name: tensor
        for name, tensor in released_tensors(raw).items()
        if "lora_" in name or name.startswith("multi_modal_projector.")
    }


def base_tensors(layout: str = "plain", raw: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """A LLaVA-NeXT base: the same language model and tower, another projector, and its newline."""
    ours = our_tensors(raw or raw_config())
    tensors = official_tensors(ours, layout)
    for name in tensors:
        if "multi_modal_projector" in name:
            tensors[name] = tensors[name] + 5.0
    newline = "model.image_newline" if layout == "memory" else "image_newline"
    return {**tensors, newline: torch.ones(24)}


def write_source(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any] | None = None,
    shards: int = 1,
    index: bool = True,
) -> Path:
    """Write a checkpoint folder; with several shards, neighbours in the list land in different ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_tokenizer(
    folder: Path, image_id: int | None = IMAGE_ID, size: int | None = None, chatml: bool = False
) -> Path:
    """A word-level tokenizer whose `<image>` has the id `image_id`; `size` is the number of all its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<unk>", "<s>", "</s>", *WORDS]
    if chatml:
        words += ["<|im_start|>", "<|im_end|>"]
    end = image_id if image_id is not None else size or len(words)
    words += [f"word{number}" for number in range(len(words), end)]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    if image_id is not None:
        tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
        assert tokenizer.convert_tokens_to_ids("<image>") == image_id
    while size is not None and len(tokenizer) < size:
        tokenizer.add_tokens([f"extra{len(tokenizer)}"])
    tokenizer.save_pretrained(folder)
    return folder
