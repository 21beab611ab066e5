"""Configuration of PLLaVA (Xu et al., 2024: parameter-free LLaVA extension from images to videos)."""

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_video_llm import VideoLlmConfig
from .video_llm_checkpoint_config import check_activation

# No language model has a context of so many tokens. The paper uses 2,304 per video.
MAX_TOKENS = 2**24


def pllava_pooled_shape(num_frames: int, pooling_shape: tuple[int, ...] | list[int]) -> tuple[int, int, int]:
    """Shape (t, h, w) of the visual tokens of one clip; the product of the three is its number of placeholders.

    A clip of two or more frames is pooled to `pooling_shape`, whatever its frame count (paper, section 3.3: adaptive
    pooling). A single frame, such as an image, is pooled in space only: (1, h, w).
    """
    if num_frames < 1:
        raise ValueError(f"A video needs at least one frame, got {num_frames}.")
    time, height, width = pooling_shape
    return (1 if num_frames == 1 else time, height, width)


@strict
class PllavaConfig(VideoLlmConfig):
    r"""
    Configuration of a PLLaVA model. The defaults are those of the released 7B checkpoint, except for `vision_config`
    and `text_config`.

    pooling_shape (`list[int]`):
        Target (time, height, width) of the adaptive average pooling.
    projector_hidden_act (`str`):
        Activation between the two layers of the projector.
    lora_adapter (`str`, *optional*):
        Sub-folder of the checkpoint that holds a PEFT adapter of the language model; `None` if there is none.
    lora_alpha (`float`, *optional*):
        Alpha with which the adapter is loaded (the official evaluation uses 4).
    lora_training_alpha (`float`, *optional*):
        Alpha that the adapter was trained with (32 in the paper). The model does not compute with it.
    lora_merged_alpha (`float`, *optional*):
        Alpha with which an adapter was merged into the weights. The model does not compute with it.

    Example:

    ```python
    >>> from hf_videollm import PllavaConfig, PllavaForConditionalGeneration
    >>> tower = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "image_size": 32,
    ...          "patch_size": 4, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> llm = {"model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    ...        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 120}
    >>> config = PllavaConfig(vision_config=tower, text_config=llm, image_token_id=100, video_token_id=101,
    ...                       pooling_shape=[4, 4, 4])
    >>> model = PllavaForConditionalGeneration(config)

    ```"""

    model_type = "pllava"
    has_fixed_grid: ClassVar[bool] = True
    keeps_lora: ClassVar[bool] = True
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_pllava.PllavaConfig",
        "AutoModel": "modeling_pllava.PllavaModel",
        "AutoModelForImageTextToText": "modeling_pllava.PllavaForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_pllava.PllavaForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_pllava.PllavaForConditionalGeneration",
        "AutoProcessor": "processing_pllava.PllavaProcessor",
        "AutoVideoProcessor": "video_processing_pllava.PllavaVideoProcessor",
    }

    pooling_shape: list[int] | tuple[int, ...] = (16, 12, 12)
    projector_hidden_act: str = "gelu"
    lora_adapter: str | None = None
    lora_alpha: float | int | None = None
    lora_training_alpha: float | int | None = None
    lora_merged_alpha: float | int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.pooling_shape = list(self.pooling_shape)

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of pooled positions, time x height x width."""
        return math.prod(pllava_pooled_shape(num_frames, self.pooling_shape))

    def validate_architecture(self) -> None:
        super().validate_architecture()
        check_activation("projector_hidden_act", self.projector_hidden_act)
        if len(self.pooling_shape) != 3 or min(self.pooling_shape) < 1:
            raise ValueError(
                f"pooling_shape must be three positive numbers (time, height, width), not {self.pooling_shape}."
            )
        if math.prod(self.pooling_shape) > MAX_TOKENS:
            raise ValueError(
                f"pooling_shape {self.pooling_shape} makes {math.prod(self.pooling_shape):,} tokens of a video, more "
                f"than {MAX_TOKENS:,}."
            )


__all__ = ["PllavaConfig", "pllava_pooled_shape"]
