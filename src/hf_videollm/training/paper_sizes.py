"""The models of the papers' trainings at their real sizes, for plans that need no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..costs.presets import find_preset
from ..models.configuration_linvt import LinVTConfig
from ..models.video_llm_option_names import did_you_mean

__all__ = ["paper_config"]

# InternVL2-1B, with which the released scripts of LinVT train: InternViT-300M and Qwen2 0.5B.
INTERNVL2_1B = {
    "model_type": "internvl",
    "vision_config": {
        "model_type": "internvl_vision",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "attention_bias": True,
    },
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 151655,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    # The placeholder of images has the first id behind Qwen2's own.
    "image_token_id": 151646,
    "tie_word_embeddings": False,
}
# Presets whose name is not that of the design. IVA's stages add the adapter by an option of the recipe.
PRESETS = {"iva": "iva-without"}


def paper_config(design: str, model_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The configuration with which a paper trains, and a description of it.

    Args:
        design: name of the design.
        model_options: fields of the configuration to change.

    Raises:
        ValueError: there is no such design, or no such field.
    """
    if design == "linvt":
        fields: dict[str, Any] = {"backbone_config": INTERNVL2_1B}
        kind: Any = LinVTConfig
        description = "LinVT before InternVL2-1B: InternViT-300M/14-448, Qwen2 0.5B"
    else:
        preset = find_preset(PRESETS.get(design, design))
        kind, fields, description = preset.config_class, dict(preset.fields), preset.description
    options = dict(model_options or {})
    known = set(kind().to_dict())
    if unknown := sorted(set(options) - known):
        raise ValueError(f"model_options: {kind.__name__} has no field {unknown[0]}: {did_you_mean(unknown[0], known)}")
    fields = {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    config = kind(**{**fields, **options})
    # The checkpoints that conversions write hold bfloat16.
    config.dtype = "bfloat16"
    return config, f"{description} (no --model was given)"
