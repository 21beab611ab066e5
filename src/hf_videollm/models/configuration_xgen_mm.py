"""Configuration of XGen-MM, also called BLIP-3 (Xue et al., 2024): an image-LLM that transformers does not have."""

from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_video_llm import copy_parts, has_tied_embeddings
from .video_llm_checkpoint_config import CheckedConfigMixin
from .video_llm_contract import ConfigContract


@strict
class XgenMMConfig(ConfigContract, CheckedConfigMixin, PreTrainedConfig):
    r"""
    XGen-MM consists of SigLIP, a perceiver resampler and Phi-3, and only accepts images. The defaults are those of the
    released v1.5 checkpoints. These have 4.36 billion parameters, including the head of SigLIP, which is not part of
    this model because its output is not used.

    vision_config (`dict` or `PreTrainedConfig`, *optional*):
        Vision tower; SigLIP so400m for 384 pixels by default.
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        Language model; Phi-3-mini by default, with three more tokens (`<image>`, `<image placeholder>`,
        `<|endofchunk|>`).
    image_token_id (`int`):
        Id of the placeholder of one vector of an image.
    num_query_tokens (`int`):
        Number of vectors of an image. Each image is resized to the input size of the tower. The released checkpoints
        can also cut large images into several views (any-res); this is not implemented.
    resampler_num_layers (`int`):
        Number of layers of the resampler.
    resampler_num_heads (`int`):
        Number of attention heads of the resampler.
    resampler_head_dim (`int`):
        Width of one head; all heads together need not be as wide as the tower.
    resampler_mlp_ratio (`int`):
        Width of the MLPs of the resampler, as a multiple of the width of the tower.
    lm_head_bias (`bool`):
        Whether the head has a bias, as in the released checkpoints.
    tie_word_embeddings (`bool`, *optional*):
        Whether head and embedding are the same weight; by default the value in `text_config`.

    Example:

    ```python
    >>> from hf_videollm.models.configuration_xgen_mm import XgenMMConfig
    >>> config = XgenMMConfig()
    >>> config.num_query_tokens, config.vision_config.image_size, config.text_config.hidden_size
    (128, 384, 3072)

    ```"""

    model_type = "xgen_mm"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
                "vision_use_head": False,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig, model_type="phi3", init_kwargs={"vocab_size": 32015, "sliding_window": 2047}
        ),
    }
    # Maps an Auto class to the "file.Class" that it loads from a saved folder with `trust_remote_code=True`.
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_xgen_mm.XgenMMConfig",
        "AutoModel": "modeling_xgen_mm.XgenMMModel",
        "AutoModelForImageTextToText": "modeling_xgen_mm.XgenMMForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_xgen_mm.XgenMMForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_xgen_mm.XgenMMForConditionalGeneration",
        "AutoProcessor": "processing_xgen_mm.XgenMMProcessor",
    }
    # Names, in the model without a head, of the modules that are not quantized.
    modules_to_not_convert: ClassVar[tuple[str, ...]] = ("vision_tower", "multi_modal_projector")

    # A dict or a `PreTrainedConfig`. `__init__` turns a dict into a `PreTrainedConfig`.
    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 32012
    num_query_tokens: int = 128
    resampler_num_layers: int = 6
    resampler_num_heads: int = 16
    resampler_head_dim: int = 96
    resampler_mlp_ratio: int = 4
    lm_head_bias: bool = True
    tie_word_embeddings: bool | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As in transformers. Old files do not have `tie_word_embeddings`; in their models the head was never tied."""
        return super().from_dict({"tie_word_embeddings": False, **config_dict}, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        copy_parts(self)
        saved_auto_map = kwargs.pop("auto_map", None) or {}
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = has_tied_embeddings(self.text_config)
        self.auto_map = {**self.auto_classes, **saved_auto_map}

    def num_image_tokens(self) -> int:
        """Number of vectors of an image."""
        return self.num_query_tokens

    def pairing(self) -> dict[str, Any]:
        """As in `ConfigContract`, and the number of vectors of an image."""
        return {**super().pairing(), "number of query tokens": self.num_query_tokens}

    def validate_architecture(self) -> None:
        """transformers calls this when it creates and when it saves a configuration."""
        for name in ("num_query_tokens", "resampler_num_layers", "resampler_num_heads", "resampler_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.resampler_mlp_ratio < 1:
            raise ValueError(f"resampler_mlp_ratio must be at least 1, not {self.resampler_mlp_ratio}.")


# The configuration is registered in this file, not elsewhere in the package, because this file is also copied into
# checkpoints as remote code, which works without the package.
AutoConfig.register(XgenMMConfig.model_type, XgenMMConfig, exist_ok=True)

__all__ = ["XgenMMConfig"]
