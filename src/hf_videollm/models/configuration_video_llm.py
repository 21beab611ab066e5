"""The base class of all configurations: vision tower, language model, placeholder ids, and the entries that make
`trust_remote_code` and `pipeline` find the code in a saved folder.
"""

import copy
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .transformers_compat import CACHE_NAMES
from .video_llm_checkpoint_config import CheckedConfigMixin
from .video_llm_contract import ConfigContract

PIPELINE_TASK = "video-text-to-text"
PIPELINE_ENTRY = {
    "impl": "pipeline_video_text_to_text.VideoTextToTextPipeline",
    "pt": ["AutoModelForImageTextToText"],
    "type": "multimodal",
}


# Vision towers without a class token: all their tokens are patches.
TOWERS_WITHOUT_CLASS_TOKEN = ("qwen_vl_vision", "siglip_vision_model", "siglip2_vision_model")


def has_class_token(vision_config: Any) -> bool:
    """Whether the tower of this configuration puts a class token before the patches."""
    return vision_config.model_type not in TOWERS_WITHOUT_CLASS_TOKEN


def context_length(config: Any) -> int | None:
    """The most tokens that the language model of a configuration reads; `None` if it does not say."""
    length: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return length


def patch_grid(vision_config: Any) -> tuple[int, int]:
    """Rows and columns of patches of one frame, from `image_size` and `patch_size` (a number or a pair each)."""

    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else (value[0], value[1])

    (height, width), (patch_height, patch_width) = pair(vision_config.image_size), pair(vision_config.patch_size)
    return height // patch_height, width // patch_width


def check_patch_grid(grid: tuple[int, int], num_patches: int) -> tuple[int, int]:
    """Return `grid` unchanged if its product is the number of patches of a frame.

    Raises:
        ValueError: the vision tower returned another number of patches.
    """
    height, width = grid
    if height * width != num_patches:
        raise ValueError(
            f"The vision tower gave {num_patches} patches a frame, but its configuration says {height} x {width}. "
            "Check image_size and patch_size, and vision_feature_select_strategy (class token)."
        )
    return grid


def copy_parts(config: Any) -> None:
    """Replace the inner configurations of a configuration by copies, so that it shares none with other objects."""
    for name in type(config).sub_configs_defaults:
        setattr(config, name, copy.deepcopy(getattr(config, name)))


def has_tied_embeddings(config: Any) -> bool:
    """Whether the head and the embedding of a language model, or of an image-LLM, are the same weight."""
    return bool(getattr(config, "tie_word_embeddings", False))


class PublishedConfig(ConfigContract, CheckedConfigMixin, PreTrainedConfig):
    """Writes entries into config.json that tell transformers where a saved folder has the model's code and pipeline."""

    # Maps an Auto class to the "file.Class" that it loads from a saved folder with `trust_remote_code=True`.
    auto_classes: ClassVar[dict[str, str]] = {}
    # Modules that are not quantized, by their names in the model without a head.
    modules_to_not_convert: ClassVar[tuple[str, ...]] = ()
    # Outputs of the model that Trainer does not collect as predictions.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*CACHE_NAMES, "image_outputs", "video_outputs", "audio_outputs"]

    def __post_init__(self, **kwargs: Any) -> None:
        # If a config has the attribute `custom_pipelines`, `pipeline()` asks the user for `trust_remote_code`. The
        # installed package does not need the attribute, because it registers the task when it is imported. So only
        # configs that were loaded as remote code get it. `to_dict` always writes it, so that saved folders have it.
        saved_pipelines = kwargs.pop("custom_pipelines", None)
        saved_auto_map = kwargs.pop("auto_map", None) or {}
        super().__post_init__(**kwargs)
        self.auto_map = {**self.auto_classes, **saved_auto_map}
        if type(self).__module__.startswith("transformers_modules"):
            # This is a copy, because `pipeline()` changes the entry in place.
            self.custom_pipelines = copy.deepcopy(saved_pipelines or {PIPELINE_TASK: PIPELINE_ENTRY})

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output["custom_pipelines"] = {PIPELINE_TASK: copy.deepcopy(PIPELINE_ENTRY)}
        return output

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of visual tokens (and placeholders) of one video of `num_frames` frames. Each design overrides it."""
        raise NotImplementedError


@strict
class VideoLlmConfig(PublishedConfig):
    r"""
    A vision tower, a connector and a language model.

    vision_config (`dict` or `PreTrainedConfig`, *optional*):
        Any vision tower of transformers; CLIP by default.
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        Any causal language model of transformers; LLaMA by default.
    image_token_id (`int`):
        Id of the placeholder that stands for one vector of an image.
    video_token_id (`int`):
        Id of the placeholder that stands for one vector of a video.
    num_frames (`int`):
        Number of frames per video that the design was trained with. The processor samples this number.
    vision_feature_layer (`int` or `list[int]`):
        Index into the hidden states of the vision tower (0 is the output of the embeddings). The features of several
        layers are concatenated.
    vision_feature_select_strategy (`str`):
        `"default"` drops the class token, `"full"` keeps every token.
    vision_chunk_size (`int`, *optional*):
        Frames that run through the vision tower at a time. `None` takes as many as fit into a budget of memory
        (`video_llm_chunks.CHUNK_BYTES`). It changes memory and speed, but not the result.
    tie_word_embeddings (`bool`, *optional*):
        Whether head and embedding are the same weight; by default the value in `text_config`.

    The configurations that are passed in are copied. So if a model changes its configuration
    (`resize_token_embeddings`), the language model or tower that the configuration came from is not affected.
    """

    model_type = "video_llm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    modules_to_not_convert: ClassVar[tuple[str, ...]] = ("vision_tower", "connector")

    # A dict or a `PreTrainedConfig`. `__init__` turns a dict into a `PreTrainedConfig`.
    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 32000
    video_token_id: int = 32001
    num_frames: int = 16
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    vision_chunk_size: int | None = None
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        copy_parts(self)
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = has_tied_embeddings(self.text_config)

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """Drop the class token if the tower has one."""
        return {"vision_feature_select_strategy": "default" if has_class_token(vision_config) else "full"}

    def validate_architecture(self) -> None:
        """Checked by transformers when a config is made and when it is saved."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {self.num_frames}.")
        if self.vision_chunk_size is not None and self.vision_chunk_size < 1:
            raise ValueError(f"vision_chunk_size must be at least 1 or None, not {self.vision_chunk_size}.")

    def num_image_tokens(self) -> int:
        """Number of visual tokens of one image, which is a video of one frame unless a design overrides this."""
        return self.num_video_tokens(1)


__all__ = [
    "PublishedConfig",
    "VideoLlmConfig",
    "check_patch_grid",
    "context_length",
    "copy_parts",
    "has_class_token",
    "has_tied_embeddings",
    "patch_grid",
]
