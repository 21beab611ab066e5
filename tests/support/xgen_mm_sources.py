"""A tiny made-up XGen-MM v1.5 checkpoint in the official layout."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoint import CHARACTERS
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast
from videollama2_sources import random_tensors, write_source

# Special tokens as in Phi-3; the tokenizer ends before the tables do.
SPECIAL = ["<unk>", "<s>", "<pad>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TOKENIZER_LEN = len(SPECIAL) + len(CHARACTERS)
TABLE_ROWS, ADDED = TOKENIZER_LEN + 7, 3
# Fixed in the official code: layers, heads and their width.
RESAMPLER_LAYERS, RESAMPLER_HEADS, RESAMPLER_HEAD_DIM = 6, 16, 96
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TEXT: dict[str, Any] = {
    "model_type": "phi3",
    "initial_tokenizer_len": TOKENIZER_LEN,
    "vocab_size": TABLE_ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "sliding_window": 300,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 3,
}
CONFIG: dict[str, Any] = {
    "architectures": ["XGenMMModelForConditionalGeneration"],
    "model_type": "xgenmm",
    "torch_dtype": "float32",
    "text_config": TEXT,
    "vision_encoder_config": {
        "anyres_patch_sampling": True,
        "image_aspect_ratio": "anyres",
        "model_name": "made/up",
        "model_type": "xgenmm_vision_encoder",
    },
    "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer", "num_vis_tokens": 5, "vis_feature_dim": 16},
}
# The released sizes; see the source of the names in `convert_xgen_mm_keys`.
RELEASED_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 384,
    "patch_size": 14,
}
RELEASED_TEXT = {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32}


def official_shapes(vision: dict[str, Any], text: dict[str, Any], num_latents: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official checkpoint with as many query as key heads."""
    width, inner, wide = vision["hidden_size"], RESAMPLER_HEADS * RESAMPLER_HEAD_DIM, text["hidden_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    tower, resampler, language = "vlm.vision_encoder.", "vlm.vision_tokenizer.", "vlm.lang_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (width, 3, vision["patch_size"], vision["patch_size"]),
        f"{tower}embeddings.patch_embedding.bias": (width,),
        f"{tower}embeddings.position_embedding.weight": (patches, width),
        **norm(f"{tower}post_layernorm", width),
        f"{tower}head.probe": (1, 1, width),
        f"{tower}head.attention.in_proj_weight": (3 * width, width),
        f"{tower}head.attention.in_proj_bias": (3 * width,),
        **linear(f"{tower}head.attention.out_proj", width, width),
        **norm(f"{tower}head.layernorm", width),
        **linear(f"{tower}head.mlp.fc1", vision["intermediate_size"], width),
        **linear(f"{tower}head.mlp.fc2", width, vision["intermediate_size"]),
    }
    for number in range(vision["num_hidden_layers"]):
        layer = f"{tower}encoder.layers.{number}."
        shapes |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{name}", width, width)
        shapes |= linear(f"{layer}mlp.fc1", vision["intermediate_size"], width)
        shapes |= linear(f"{layer}mlp.fc2", width, vision["intermediate_size"])
    shapes |= {f"{resampler}latents": (num_latents, width), **norm(f"{resampler}norm", width)}
    shapes |= linear(f"{resampler}projection", wide, width)
    for number in range(RESAMPLER_LAYERS):
        layer = f"{resampler}layers.{number}."
        shapes |= norm(f"{layer}0.norm_media", width) | norm(f"{layer}0.norm_latents", width)
        shapes |= norm(f"{layer}1.0", width)
        shapes |= {
            f"{layer}0.to_q.weight": (inner, width),
            f"{layer}0.to_kv.weight": (2 * inner, width),
            f"{layer}0.to_out.weight": (width, inner),
            f"{layer}1.1.weight": (4 * width, width),
            f"{layer}1.3.weight": (width, 4 * width),
        }
    for number in range(text["num_hidden_layers"]):
        layer = f"{language}model.layers.{number}."
        shapes |= {
            f"{layer}self_attn.qkv_proj.weight": (3 * wide, wide),
            f"{layer}self_attn.o_proj.weight": (wide, wide),
            f"{layer}mlp.gate_up_proj.weight": (2 * text["intermediate_size"], wide),
            f"{layer}mlp.down_proj.weight": (wide, text["intermediate_size"]),
            f"{layer}input_layernorm.weight": (wide,),
            f"{layer}post_attention_layernorm.weight": (wide,),
        }
    return {
        **shapes,
        f"{language}model.embed_tokens.weight": (text["vocab_size"], wide),
        f"{language}model.embed_tokens.additional_embedding.weight": (ADDED, wide),
        f"{language}model.norm.weight": (wide,),
        **linear(f"{language}lm_head", text["vocab_size"], wide),
        **linear(f"{language}lm_head.additional_fc", ADDED, wide),
    }


def xgen_mm_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of the tiny checkpoint."""
    return random_tensors(official_shapes(VISION, TEXT, 5), seed)


def write_tokenizer(folder: Path, special: list[str] = SPECIAL) -> None:
    """One token per character, and Phi-3's special ones; without those that the model adds."""
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<pad>",
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)


def write_xgen_mm(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, layout: str = "single", **sections: Any
) -> Path:
    """An official folder; `sections` replace fields of config.json, or fields of its sections."""
    raw = copy.deepcopy(CONFIG)
    for name, change in sections.items():
        raw[name] = {**raw[name], **change} if isinstance(change, dict) else change
    write_source(folder, raw, xgen_mm_tensors() if tensors is None else tensors, layout)
    write_tokenizer(folder)
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resize_mode": "squash", "size": [28, 28]}
    (folder / "preprocessor_config.json").write_text(json.dumps({**pixels, "image_processor_type": "Blip3"}))
    return folder


def write_vision_config(file: Path) -> Path:
    """The description of the made-up tower."""
    file.write_text(json.dumps(VISION))
    return file
