"""Configuration of the vision tower of Qwen-VL (Bai et al., 2023): OpenCLIP's ViT-bigG without a class token."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .video_llm_checkpoint_config import CheckedConfigMixin, check_activation


@strict
class QwenVLVisionConfig(CheckedConfigMixin, PreTrainedConfig):
    r"""
    Configuration of Qwen-VL's vision tower. The defaults are those of the released checkpoint.

    image_size (`int`):
        Side of the square frames in pixels. The tower also accepts other squares whose side is a multiple of
        `patch_size`.
    position_grid_size (`int`):
        Number of rows, and of columns, of the grid of learned positions. This grid is resized to the grid of patches of
        a frame.

    Example:

    ```python
    >>> from transformers import AutoModel
    >>> from hf_videollm import QwenVLVisionConfig
    >>> config = QwenVLVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    ...                             image_size=56, position_grid_size=2)
    >>> model = AutoModel.from_config(config)

    ```"""

    model_type = "qwen_vl_vision"

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    position_grid_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """transformers calls this when it creates and when it saves a configuration."""
        for name in ("hidden_size", "num_attention_heads", "patch_size", "image_size", "position_grid_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_activation("hidden_act", self.hidden_act)
        for divisor, number in (("num_attention_heads", "hidden_size"), ("patch_size", "image_size")):
            if getattr(self, number) % getattr(self, divisor):
                raise ValueError(
                    f"{number} ({getattr(self, number)}) must be a multiple of {divisor} ({getattr(self, divisor)})."
                )


# The configuration is registered in this file, not elsewhere in the package, because this file is also copied into
# checkpoints as remote code, which works without the package.
AutoConfig.register(QwenVLVisionConfig.model_type, QwenVLVisionConfig, exist_ok=True)

__all__ = ["QwenVLVisionConfig"]
