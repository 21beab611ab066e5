"""Reading the tiny official VideoLLaMA2 models of the reference tensors; names of the official code -> ours."""

import json
from pathlib import Path
from typing import Any

import torch

# lm/qwen2_av/beats_tiny_config.json in our words.
BEATS_TINY: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "patch_embedding_dim": 32,
    "conv_pos_kernel": 16,
    "conv_pos_groups": 4,
}
PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.mm_projector.": "model.connector.",
    "model.mm_projector_a.": "model.audio_projector.",
    "model.audio_tower.": "model.audio_tower.",
    "model.": "model.language_model.",
    "lm_head.": "lm_head.",
}
BEATS_NAMES = {
    "encoder.pos_conv.0.weight_g": "encoder.pos_conv.gain",
    "encoder.pos_conv.0.weight_v": "encoder.pos_conv.direction",
    "encoder.pos_conv.0.bias": "encoder.pos_conv.bias",
    "encoder.layers.0.self_attn.relative_attention_bias.weight": "encoder.relative_attention_bias.weight",
}


def qwen2_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configurations of the vision tower and the language model of `lm/qwen2`."""
    vision = json.loads((folder / "vision_config.json").read_text()) | {"model_type": "siglip_vision_model"}
    text = json.loads((folder / "config.json").read_text())
    text = {name: value for name, value in text.items() if not name.startswith("mm_")} | {"model_type": "qwen2"}
    return vision, text


def official_state_dict_to_ours(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename; copies of BEATs' one position table, and the classifier nobody reads, are left out."""
    ours = {}
    for name, tensor in weights.items():
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        rest = name.removeprefix(prefix)
        if prefix == "model.audio_tower.":
            rest = BEATS_NAMES.get(rest, rest)
            if "self_attn.relative_attention_bias" in rest or rest.startswith("predictor."):
                continue
        ours[PREFIXES[prefix] + rest] = tensor
    return ours
