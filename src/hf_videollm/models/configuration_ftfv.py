"""Configuration of FTFV (Chen et al., 2024: fewer tokens and fewer videos), and its number of tokens per frame."""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_qwen_vl_vision import QwenVLVisionConfig
from .configuration_video_llm import VideoLlmConfig, has_class_token


def tokens_per_frame(wanted: int | None, default: int, num_queries: int) -> int:
    """K, the number of tokens of one frame that the sampler keeps (paper, Eq. 2).

    Args:
        wanted: the number that the call asks for; `None` to use `default`.
        default: the number in the configuration of the checkpoint.
        num_queries: N, the number of tokens of one frame before sampling.

    Raises:
        ValueError: K is not an integer from 1 to N.
    """
    kept = default if wanted is None else wanted
    if not isinstance(kept, int) or isinstance(kept, bool) or not 1 <= kept <= num_queries:
        raise ValueError(
            f"num_tokens_per_frame must be a whole number from 1 to {num_queries} (num_queries, the tokens a frame "
            f"has), not {kept!r}."
        )
    return kept


@strict
class FtfvConfig(VideoLlmConfig):
    r"""
    Configuration of an FTFV model. The defaults are those of the paper, with the vision tower of Qwen-VL.

    num_queries (`int`):
        N, the number of learned queries of the cross-attention, which is the number of tokens of a frame before
        sampling. It must be a square number, because the queries are arranged in a square grid.
    num_tokens_per_frame (`int`):
        K, the number of tokens of each video frame that the sampler keeps, from 1 to N. The weights do not depend on
        K, so K can be changed when a checkpoint is loaded, and in every call.
    adapter_width (`int`):
        C, width of the cross-attention.
    adapter_num_heads (`int`):
        Heads of the cross-attention.
    sampler_order (`str`):
        Order of the kept tokens of a frame. `"score"`: from the highest attention peak to the lowest, as in Eq. 2.
        `"query"`: in the order of their queries.
    attention_score_reduction (`str`):
        How the attention weights of all heads are combined into one: `"mean"` or `"max"`.
    sample_images (`bool`):
        Whether the sampler also drops tokens of images. In the paper, images keep all their tokens.
    vision_feature_layer (`int` or `list[int]`):
        As in `VideoLlmConfig`, but -1 is the output of the tower (`last_hidden_state`), after its last norm if it has
        one.
    vision_feature_select_strategy (`str`, *optional*):
        As in `VideoLlmConfig`. The default is `"full"` for Qwen-VL's tower and SigLIP, which have no class token, and
        `"default"` for all others.

    Example:

    ```python
    >>> from hf_videollm import FtfvConfig
    >>> config = FtfvConfig(num_tokens_per_frame=64)
    >>> config.num_video_tokens(8), config.num_video_tokens(8, num_tokens_per_frame=16), config.num_image_tokens()
    (512, 128, 256)

    ```"""

    model_type = "ftfv"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        **VideoLlmConfig.sub_configs_defaults,
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type=QwenVLVisionConfig.model_type),
    }
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_ftfv.FtfvConfig",
        "AutoModel": "modeling_ftfv.FtfvModel",
        "AutoModelForImageTextToText": "modeling_ftfv.FtfvForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_ftfv.FtfvForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_ftfv.FtfvForConditionalGeneration",
        "AutoProcessor": "processing_ftfv.FtfvProcessor",
        "AutoVideoProcessor": "video_processing_ftfv.FtfvVideoProcessor",
    }

    num_frames: int = 8
    num_queries: int = 256
    num_tokens_per_frame: int = 128
    adapter_width: int = 4096
    adapter_num_heads: int = 32
    sampler_order: Literal["score", "query"] = "score"
    attention_score_reduction: Literal["mean", "max"] = "mean"
    sample_images: bool = False
    vision_feature_layer: int | list[int] = -1
    vision_feature_select_strategy: Literal["default", "full"] | None = None  # type: ignore[assignment]

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.vision_feature_select_strategy is None:
            self.vision_feature_select_strategy = "default" if has_class_token(self.vision_config) else "full"

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """Make the cross-attention as wide as the language model (4,096 in the paper), with heads of width 128.

        The width is rounded down to a multiple of 4. If it is not a multiple of 128, the heads are narrower.
        """
        width = next(number for number in range(text_config.hidden_size, 0, -1) if number % 4 == 0)
        head = next(size for size in (128, 96, 64, 48, 32, 16, 8, 4) if width % size == 0)
        return {"adapter_width": width, "adapter_num_heads": width // head}

    def num_video_tokens(self, num_frames: int, num_tokens_per_frame: int | None = None) -> int:
        """The number of frames times K."""
        if num_frames < 1:
            raise ValueError(f"A video needs at least one frame, got {num_frames}.")
        return num_frames * self.kept_tokens(num_tokens_per_frame)

    def num_image_tokens(self, num_tokens_per_frame: int | None = None) -> int:
        """N, or K if `sample_images` is true."""
        return self.kept_tokens(num_tokens_per_frame) if self.sample_images else self.num_queries

    def kept_tokens(self, num_tokens_per_frame: int | None = None) -> int:
        """K: the number that a call asks for, or else that of this configuration. Errors: see `tokens_per_frame`."""
        return tokens_per_frame(num_tokens_per_frame, self.num_tokens_per_frame, self.num_queries)

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.num_queries < 1 or math.isqrt(self.num_queries) ** 2 != self.num_queries:
            raise ValueError(
                f"num_queries must be a square number, because queries form a square grid, not {self.num_queries}."
            )
        self.kept_tokens()
        if self.adapter_num_heads < 1 or self.adapter_width % self.adapter_num_heads:
            raise ValueError(
                f"adapter_width ({self.adapter_width}) must be a multiple of adapter_num_heads "
                f"({self.adapter_num_heads})."
            )
        if self.adapter_width < 4 or self.adapter_width % 4:
            raise ValueError(
                "adapter_width must be a multiple of 4 (sines and cosines of rows and of columns take a quarter each), "
                f"not {self.adapter_width}."
            )


__all__ = ["FtfvConfig", "tokens_per_frame"]
