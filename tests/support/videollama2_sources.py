"""Official VideoLLaMA2 checkpoints in all layouts: tiny ones of the reference tensors, and made-up ones."""

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

# What a made-up checkpoint says of itself; each tower has three layers, the language model two.
RAW_CONFIG: dict[str, Any] = {
    "model_type": "videollama2_mistral",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "mm_hidden_size": 16,
    "mm_projector_type": "stc_connector",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "my/clip-tiny",
    "num_attention_heads": 4,
    "num_frames": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_size": 448,
}
VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 16,
}
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 4


def raw_config(**changes: Any) -> dict[str, Any]:
    """An official config.json; `changes` replace fields, `None` removes one."""
    config = {**copy.deepcopy(RAW_CONFIG), **changes}
    return {name: value for name, value in config.items() if value is not None or name == "sliding_window"}


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, small enough to keep activations sane."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def language_shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a language model: LLaMA, Mistral, Mixtral (with `num_local_experts`) or Qwen2."""
    width, inner, vocabulary = raw["hidden_size"], raw["intermediate_size"], raw["vocab_size"]
    small = width // raw["num_attention_heads"] * raw["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for number in range(raw["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        for name, rows in (("q", width), ("k", small), ("v", small), ("o", width)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, width)
            if raw["model_type"].endswith("qwen2") and name != "o":
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        if "num_local_experts" in raw:
            shapes[f"{layer}block_sparse_moe.gate.weight"] = (raw["num_local_experts"], width)
        for expert in range(raw.get("num_local_experts", 0)):
            stem = f"{layer}block_sparse_moe.experts.{expert}."
            shapes |= {f"{stem}w1.weight": (inner, width), f"{stem}w2.weight": (width, inner)}
            shapes |= {f"{stem}w3.weight": (inner, width)}
        if "num_local_experts" not in raw:
            shapes |= dict.fromkeys((f"{layer}mlp.gate_proj.weight", f"{layer}mlp.up_proj.weight"), (inner, width))
            shapes[f"{layer}mlp.down_proj.weight"] = (width, inner)
        shapes |= dict.fromkeys((f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight"), (width,))
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def vision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the made-up CLIP tower, as `CLIPVisionModel` of transformers 4 names them."""
    width, inner, patch = VISION_CONFIG["hidden_size"], VISION_CONFIG["intermediate_size"], VISION_CONFIG["patch_size"]
    places = (VISION_CONFIG["image_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": (places, width),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for number in range(VISION_CONFIG["num_hidden_layers"]):
        layer = f"encoder.layers.{number}."
        for name in ("q", "k", "v", "out"):
            shapes |= {f"{layer}self_attn.{name}_proj.weight": (width, width)}
            shapes |= {f"{layer}self_attn.{name}_proj.bias": (width,)}
        shapes |= {f"{layer}mlp.fc1.weight": (inner, width), f"{layer}mlp.fc1.bias": (inner,)}
        shapes |= {f"{layer}mlp.fc2.weight": (width, inner), f"{layer}mlp.fc2.bias": (width,)}
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def mlp_shapes(raw: dict[str, Any], name: str = "mm_projector", width: int | None = None) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a projector of two linear layers (mlp2x_gelu)."""
    inner = raw["hidden_size"]
    return {
        f"model.{name}.0.weight": (inner, width or raw["mm_hidden_size"]),
        f"model.{name}.0.bias": (inner,),
        f"model.{name}.2.weight": (inner, inner),
        f"model.{name}.2.bias": (inner,),
    }


def vision_tensors() -> dict[str, torch.Tensor]:
    """Weights of the made-up CLIP tower."""
    return random_tensors(vision_shapes(), seed=1)


def official_tensors(raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A whole made-up checkpoint with the connector mlp2x_gelu."""
    prefix = "model.vision_tower.vision_tower."
    return {
        **random_tensors(language_shapes(raw)),
        **{prefix + name: tensor for name, tensor in vision_tensors().items()},
        **random_tensors(mlp_shapes(raw), seed=2),
    }


def lora_tensors(raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random factors for every linear layer of the language model, under the names of peft."""
    factors = {}
    generator = torch.Generator().manual_seed(7)
    for name, shape in language_shapes(raw).items():
        if name.removesuffix(".weight").endswith(LINEAR_LAYERS) and name.endswith(".weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{layer}.lora_A.weight"] = 0.2 * torch.randn(RANK, shape[1], generator=generator)
            factors[f"{layer}.lora_B.weight"] = 0.2 * torch.randn(shape[0], RANK, generator=generator)
    return factors


def write_config(folder: Path, raw: dict[str, Any]) -> Path:
    """Write config.json; the folder is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], layout: str = "single") -> Path:
    """Write weights as `single`, `sharded`, `bin` or `sharded bin`; neighbours in the list land in different shards."""
    folder.mkdir(parents=True, exist_ok=True)
    is_pickle, count = "bin" in layout, 3 if "sharded" in layout else 1
    stem, suffix = ("pytorch_model", "bin") if is_pickle else ("model", "safetensors")
    names, weight_map = list(tensors), {}
    for number in range(count):
        file = f"{stem}-{number + 1:05}-of-{count:05}.{suffix}" if count > 1 else f"{stem}.{suffix}"
        part = {name: tensors[name] for name in names[number::count]}
        if is_pickle:
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if count > 1:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_source(folder: Path, raw: dict[str, Any], tensors: dict[str, torch.Tensor], layout: str = "single") -> Path:
    """Write configuration and weights."""
    return write_weights(write_config(folder, raw), tensors, layout)


def write_vision_config(file: Path) -> Path:
    """Write the description of the made-up tower, which leaves its type to the tower's name."""
    file.write_text(json.dumps(VISION_CONFIG))
    return file


def golden_tensors(lm: Path, name: str) -> dict[str, torch.Tensor]:
    """Official weights of a reference model: `mistral`, `qwen2` or `qwen2_av`."""
    if name != "qwen2_av":
        return load_file(lm / name / "weights.safetensors")
    return {
        **load_file(lm / "qwen2" / "weights.safetensors"),
        **load_file(lm / name / "audio_extra_weights.safetensors"),
    }


def golden_source(lm: Path, name: str, folder: Path, layout: str = "single") -> Path:
    """An official checkpoint of reference weights, with the reference tokenizer."""
    raw = json.loads((lm / name / "config.json").read_text())
    write_source(folder, raw, golden_tensors(lm, name), layout)
    tokenizer = lm / "tokenizers" / ("tok_sp" if name == "mistral" else "tok_qwen2")
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Number of values."""
    return sum(map(math.prod, shapes.values()))
