"""Tiny made-up sources of an FTFV checkpoint, in the layouts of Qwen-VL and of LLaMA."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoint import CHARACTERS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast
from videollama2_sources import language_shapes, random_tensors, write_source

PREFIX = "transformer.visual."
# As in Qwen-VL's config.json, where the sizes are 1664, 48, 16, 448, 4096; it says nothing of the number of queries.
VISUAL: dict[str, Any] = {
    "heads": 3,
    "image_size": 56,
    "image_start_id": 151857,
    "layers": 2,
    "mlp_ratio": 4.9231,
    "output_dim": 256,
    "patch_size": 14,
    "width": 24,
    "n_queries": 16,
}
QWEN_VL_CONFIG: dict[str, Any] = {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "visual": VISUAL}
LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_size": 256,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_size": 120,
}


def visual_shapes(visual: dict[str, Any] = VISUAL) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the vision module, from the table of docs/designs/ftfv.md#vision-tower."""
    width, inner = visual["width"], int(visual["width"] * visual["mlp_ratio"])
    wide, queries, patch = visual["output_dim"], visual["n_queries"], visual["patch_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (width, 3, patch, patch),
        "positional_embedding": (256, width),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
    }
    for number in range(visual["layers"]):
        block = f"transformer.resblocks.{number}."
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        for name, rows, columns in (
            ("attn.in_proj", 3 * width, width),
            ("attn.out_proj", width, width),
            ("mlp.c_fc", inner, width),
            ("mlp.c_proj", width, inner),
        ):
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
    shapes |= {
        "attn_pool.query": (queries, wide),
        "attn_pool.pos_embed": (queries, wide),
        "attn_pool.kv_proj.weight": (wide, width),
        "attn_pool.attn.in_proj_weight": (3 * wide, wide),
        "attn_pool.attn.in_proj_bias": (3 * wide,),
        "attn_pool.attn.out_proj.weight": (wide, wide),
        "attn_pool.attn.out_proj.bias": (wide,),
        "proj": (wide, wide),
    }
    for norm in ("attn_pool.ln_q", "attn_pool.ln_kv", "ln_post"):
        shapes |= {f"{norm}.weight": (wide,), f"{norm}.bias": (wide,)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def visual_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of the vision module."""
    return random_tensors(visual_shapes(), seed)


def qwen_vl_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """The vision module in the middle of (some of) Qwen-VL's language model, which nobody wants."""
    language = {"transformer.wte.weight": (30, 8), "transformer.h.0.attn.c_attn.weight": (24, 8)}
    return {
        **random_tensors(language, seed=9),
        **visual_tensors(seed),
        **random_tensors({"transformer.ln_f.weight": (8,), "lm_head.weight": (30, 8)}, seed=9),
    }


def llama_tensors(seed: int = 5) -> dict[str, torch.Tensor]:
    """Random weights of the language model."""
    return random_tensors(language_shapes(LLAMA_CONFIG), seed)


def write_tokenizer(folder: Path) -> None:
    """One token per character, ids below 120, without placeholders and without padding."""
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *CHARACTERS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    tokenizer.save_pretrained(folder)


def write_qwen_vl(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, layout: str = "single", **visual: Any
) -> Path:
    """A Qwen-VL folder; `visual` replaces fields of that section of config.json."""
    raw = copy.deepcopy(QWEN_VL_CONFIG)
    raw["visual"] |= visual
    return write_source(folder, raw, qwen_vl_tensors() if tensors is None else tensors, layout)


def write_llama(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, layout: str = "single", **changes: Any
) -> Path:
    """A LLaMA folder with its tokenizer; `changes` replace fields of config.json."""
    raw = {**LLAMA_CONFIG, **changes}
    write_source(folder, raw, llama_tensors() if tensors is None else tensors, layout)
    # As Vicuna's: made for sampling.
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder)
    return folder
