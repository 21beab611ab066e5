"""The designs at the sizes of their papers, for counts that need no checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..designs import DESIGNS
from ..known_models import KNOWN_TOWERS
from ..models.configuration_ftfv import FtfvConfig
from ..models.configuration_iva import IvaConfig
from ..models.configuration_pllava import PllavaConfig
from ..models.configuration_video_llm import VideoLlmConfig
from ..models.configuration_videollama2 import VideoLlama2Config
from ..models.configuration_videollama2_av import VideoLlama2AVConfig

CLIP_LARGE = KNOWN_TOWERS["clip-vit-large-patch14-336"]
SIGLIP = KNOWN_TOWERS["siglip-so400m-patch14-384"]
VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
}
QWEN2_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Preset:
    """A design at the size of a paper.

    Attributes:
        description: names of the towers and the language model.
        config_class: class of the configuration.
        fields: fields of the configuration.
        lora_rank: rank of an unmerged LoRA on all linear layers, if the paper's count includes one.
        published: kept tokens per frame -> TFLOPs in the paper.
    """

    description: str
    config_class: type[VideoLlmConfig]
    fields: Mapping[str, Any]
    lora_rank: int = 0
    published: Mapping[int, float] = field(default_factory=dict)

    def config(self) -> VideoLlmConfig:
        """Make a new configuration."""
        # The dicts are copied, because a configuration changes the dicts that it is made from.
        return self.config_class(**{name: _copy(value) for name, value in self.fields.items()})


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


# Rows of the paper's tables: other numbers LQ of query tokens (the model has 16), other numbers NI of calls of the
# adapter (the model has 8), and the language model without IVA.
IVA_VARIANTS: dict[str, dict[str, int]] = {
    "iva": {},
    "iva-lq8": {"num_query_tokens": 8},
    "iva-lq32": {"num_query_tokens": 32},
    "iva-ni4": {"num_insertions": 4},
    "iva-ni16": {"num_insertions": 16},
    "iva-without": {"num_insertions": 0},
}


def _iva_preset(name: str) -> Preset:
    options = IVA_VARIANTS[name]
    shown = ", ".join(f"{option}={value}" for option, value in options.items()) or "LQ 16, NI 8"
    # Query tokens and placeholders have ids after Vicuna's vocabulary.
    fields = {"vision_config": CLIP_LARGE, "text_config": VICUNA_7B, **options}
    return Preset(f"IVA 7B ({shown}): CLIP-L/14-336, Vicuna 7B", IvaConfig, fields)


PLLAVA_PRESETS = {
    "pllava": Preset(
        "PLLaVA 7B: CLIP-L/14-336, Vicuna 7B (vocabulary of LLaVA-NeXT)",
        PllavaConfig,
        {"vision_config": CLIP_LARGE, "text_config": {**VICUNA_7B, "vocab_size": 32064}},
    ),
}
VIDEOLLAMA2_PRESETS = {
    "videollama2": Preset(
        "VideoLLaMA2 7B-16F: CLIP-L/14-336, STC, Mistral 7B",
        VideoLlama2Config,
        {"vision_config": CLIP_LARGE, "text_config": MISTRAL_7B, "connector_type": "stc_connector"},
    ),
    "videollama2.1": Preset(
        "VideoLLaMA2.1 7B-16F: SigLIP-so400m/14-384, STC v35, Qwen2 7B",
        VideoLlama2Config,
        {"vision_config": SIGLIP, "text_config": QWEN2_7B, "vision_feature_select_strategy": "full"},
    ),
}
VIDEOLLAMA2_AV_PRESETS = {
    "videollama2_av": Preset(
        "VideoLLaMA2.1 7B-AV: SigLIP-so400m/14-384, STC v35, BEATs, Qwen2 7B",
        VideoLlama2AVConfig,
        {"vision_config": SIGLIP, "text_config": QWEN2_7B, "vision_feature_select_strategy": "full"},
    ),
}
FTFV_PRESETS = {
    # Table 5 of the paper. The paper does not say that its language model has a LoRA of rank 128 on all projections. It
    # follows from these numbers: 13.85 GFLOP for each additional token are those of LLaMA-7B with its head and of such
    # a LoRA.
    "ftfv": Preset(
        "FTFV 7B: OpenCLIP ViT-bigG of Qwen-VL (448 px), 256 queries, Vicuna 7B with a LoRA of rank 128",
        FtfvConfig,
        {"vision_config": {"model_type": "qwen_vl_vision"}, "text_config": VICUNA_7B},
        lora_rank=128,
        published={4: 32.14, 16: 33.47, 32: 35.24, 64: 38.79, 128: 45.88, 256: 60.07},
    ),
}
IVA_PRESETS = {name: _iva_preset(name) for name in IVA_VARIANTS}


def all_presets() -> dict[str, Preset]:
    """All presets of the table of designs, by name."""
    loaded = (row.load("presets") for row in DESIGNS.values() if row.presets is not None)
    return {name: preset for presets in loaded for name, preset in presets.items()}


def find_preset(name: str) -> Preset:
    """Find a preset by its name.

    Raises:
        ValueError: there is no such preset; the message lists the names.
    """
    presets = all_presets()
    if name == "linvt":
        raise ValueError(
            "The cost of linvt depends on the image-LLM that it is added to, so it has no preset: hf-videollm info "
            "--design linvt lists its parameters for real image-LLMs."
        )
    if name not in presets:
        raise ValueError(f"design {name!r} is unknown: choose one of {', '.join(presets)}.")
    return presets[name]


__all__ = ["IVA_VARIANTS", "Preset", "all_presets", "find_preset"]
