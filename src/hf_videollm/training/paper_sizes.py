"""The models of the papers' trainings at their real sizes, for plans that need no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..costs.presets import SIGLIP, find_preset
from ..models.configuration_linvt import LinVTConfig
from ..models.video_llm_option_names import did_you_mean

__all__ = ["paper_config"]

# Aquila-VL-2B, one of the image-LLMs of LinVT's paper: SigLIP without its last layer, and Qwen2.5 1.5B.
AQUILA = {
    "model_type": "llava_onevision",
    "vision_config": {**SIGLIP, "num_hidden_layers": 26, "vision_use_head": False},
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
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
        fields: dict[str, Any] = {"backbone_config": AQUILA}
        kind: Any = LinVTConfig
        description = "LinVT before Aquila-VL-2B: SigLIP-so400m/14-384, Qwen2.5 1.5B"
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
