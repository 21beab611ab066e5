"""Configurations of LinVT (Gao et al., 2024: Linear Video Tokenizer): the module, and an image-LLM with it."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_video_llm import PublishedConfig, copy_parts, has_class_token, has_tied_embeddings

# The import registers XGen-MM, an image-LLM that transformers does not have. Remote code needs it here, too.
from .configuration_xgen_mm import XgenMMConfig  # noqa: F401


def num_windows(length: int, window: int, stride: int) -> int:
    """Number of windows that cover `length` tokens: ceil((length - window) / stride) + 1, but at least 1.

    The last window need not be full.
    """
    return max(0, -((window - length) // stride)) + 1


@strict
class LinVTModuleConfig(PreTrainedConfig):
    r"""
    Configuration of the LinVT module, whose width is that of the language model. The defaults are those of the
    paper (section 6) if it names them.

    num_layers (`int`):
        L, the number of layers of the scorer (SVR), and also of the token aggregation (TTA).
    num_attention_heads (`int`):
        Number of heads of each attention. Only the last step, which computes the weights of the means, has one head.
    num_selected_tokens (`int`):
        k, the number of tokens with the highest scores that are kept of a video.
    num_queries (`list[int]`):
        For each scale, the number of queries, which is the number of vectors of this scale for the language model.
    pool_windows (`list[int]`):
        For each scale, the number of tokens that are averaged into one, the finest scale first.
    overlapping_windows (`bool`):
        If true, windows start half a window apart (at least one token). Otherwise each starts where the last one ends.
    variant (`str`):
        What is pooled, and what the queries attend to (paper, Figure 3). `"multi_c"`: tokens are pooled, and each scale
        has its own queries. `"multi_b"`: tokens are pooled, and all queries attend to all scales together. `"multi_a"`:
        the queries of the first scale attend to the k tokens, and their outputs are pooled. `"single_a"`: nothing is
        pooled, and all queries attend to the k tokens.
    time_code (`str`):
        `"sinusoidal"` adds the time of each frame to the inputs of the scorer and to the keys of the attention.
        `"none"` follows the paper exactly; then the order of frames has almost no effect.
    layer_norm_eps (`float`):
        Epsilon of all norms.
    initializer_range (`float`):
        Standard deviation of new queries. New linear layers do not use it: in a model, their weights get the
        `initializer_range` of the language model, as transformers does for all layers.
    scorer_chunk_tokens (`int`, *optional*):
        Number of tokens that run through a layer of the scorer at a time, to bound memory; `None` runs all at once.
    selection_noise (`float`):
        Gumbel noise, in standard deviations of the scores, that is added in training before tokens are chosen. With
        noise, training also tries tokens that do not have the highest scores. 0 adds none.

    Example:

    ```python
    >>> from hf_videollm.models.configuration_linvt import LinVTModuleConfig
    >>> LinVTModuleConfig().num_output_tokens
    112

    ```"""

    model_type = "linvt_module"

    num_layers: int = 4
    num_attention_heads: int = 8
    num_selected_tokens: int = 2048
    num_queries: list[int] | tuple[int, ...] = (64, 32, 16)
    pool_windows: list[int] | tuple[int, ...] = (1, 2, 4)
    overlapping_windows: bool = False
    variant: Literal["multi_c", "multi_b", "multi_a", "single_a"] = "multi_c"
    time_code: Literal["sinusoidal", "none"] = "sinusoidal"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    scorer_chunk_tokens: int | None = 16384
    selection_noise: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Lists, as JSON returns them: a saved and loaded configuration then equals this one.
        self.num_queries, self.pool_windows = list(self.num_queries), list(self.pool_windows)

    @property
    def num_output_tokens(self) -> int:
        """n, the number of vectors of one video of any length."""
        return sum(self.num_queries)

    @property
    def query_groups(self) -> list[int]:
        """Numbers of learned queries in each group. Queries of a group attend to each other and to the same tokens."""
        groups = {"multi_c": self.num_queries, "multi_a": self.num_queries[:1]}
        return list(groups.get(self.variant, [self.num_output_tokens]))

    def windows(self) -> list[tuple[int, int]]:
        """Window and stride of each scale, in tokens."""
        return [(window, max(1, window // 2) if self.overlapping_windows else window) for window in self.pool_windows]

    def validate_architecture(self) -> None:
        """transformers calls this when it creates and when it saves a configuration."""
        for name in ("num_layers", "num_attention_heads", "num_selected_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.scorer_chunk_tokens is not None and self.scorer_chunk_tokens < 1:
            raise ValueError(f"scorer_chunk_tokens must be at least 1 or None, not {self.scorer_chunk_tokens}.")
        if not 0 <= self.selection_noise < float("inf"):
            raise ValueError(f"selection_noise must be a number of at least 0, not {self.selection_noise}.")
        for name in ("num_queries", "pool_windows"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must hold one number, at least 1, for each scale, not {getattr(self, name)}.")
        if len(self.num_queries) != len(self.pool_windows):
            raise ValueError(
                f"num_queries {list(self.num_queries)} and pool_windows {list(self.pool_windows)} must be of equal "
                "length, one entry per scale."
            )
        if self.variant == "multi_a":
            pooled = [num_windows(self.num_queries[0], *scale) for scale in self.windows()]
            if pooled != list(self.num_queries):
                raise ValueError(
                    f'variant="multi_a" pools {self.num_queries[0]} outputs with windows {list(self.pool_windows)} to '
                    f"{pooled}, not to num_queries {list(self.num_queries)}: set num_queries={pooled}."
                )


def check_module_options(options: Any) -> None:
    """Refuse unknown names of options.

    Configurations that are loaded are not checked, because other releases may have saved other options.

    Args:
        options: a dict for `LinVTModuleConfig`; values of other types pass.

    Raises:
        ValueError: names the unknown options.
    """
    known = LinVTModuleConfig().to_dict()
    if isinstance(options, dict) and (unknown := sorted(options.keys() - known.keys())):
        own = [name for name in LinVTModuleConfig.__annotations__ if name in known]
        raise ValueError(f"linvt_config has no {', '.join(unknown)}: it takes {', '.join(own)}.")


@strict
class LinVTConfig(PublishedConfig):
    r"""
    Configuration of an image-LLM of transformers with LinVT.

    backbone_config (`dict` or `PreTrainedConfig`, *optional*):
        The whole configuration of the image-LLM, with those of its tower and language model; LLaVA by default.
    linvt_config (`dict` or `LinVTModuleConfig`, *optional*):
        Configuration of the LinVT module, which turns the features of all frames into the tokens of a video.
    image_token_id (`int`, *optional*):
        Id of the placeholder of one vector of an image; by default the one that the image-LLM names.
    video_token_id (`int`, *optional*):
        Id of the placeholder of one vector of a video. By default the one that the image-LLM names, or that of images
        if it names none; `mm_token_type_ids` (2 for videos) then tell the two apart.
    num_frames (`int`):
        Number of frames that the processor samples from a video.
    vision_chunk_size (`int`, *optional*):
        Number of frames that run through the vision tower at a time. `None` takes as many as fit into a budget of
        memory (`video_llm_chunks.CHUNK_BYTES`). It changes memory and speed, but not the result.
    mix_deepstack (`bool`):
        For image-LLMs whose tower also computes features for deeper layers of the language model (Qwen3-VL). If true,
        videos have vectors for these layers, too: weighted means of these features, with the weights by which LinVT
        averages the tokens. If false, only the first layer gets vectors of videos.
    backbone_name (`str`, *optional*):
        Path or Hub id of the image-LLM; needed if LinVT is saved without it.
    backbone_revision (`str`, *optional*):
        Branch, tag or commit of the image-LLM.
    tie_word_embeddings (`bool`, *optional*):
        Whether head and embedding are one tensor; as in the image-LLM by default.

    The two configurations that are passed are copied, so later changes of the originals have no effect.

    Example:

    ```python
    >>> from hf_videollm.models.configuration_linvt import LinVTConfig
    >>> LinVTConfig(backbone_config={"model_type": "internvl"}).num_video_tokens(64)
    112

    ```"""

    model_type = "linvt"
    # The operations of the image-LLM on a frame cannot be counted from its configuration, only by running it.
    has_fixed_cost: ClassVar[bool] = False
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="llava"),
        "linvt_config": SubConfigSpec(config_class=LinVTModuleConfig),
    }
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_linvt.LinVTConfig",
        "AutoModel": "modeling_linvt.LinVTModel",
        "AutoModelForImageTextToText": "modeling_linvt.LinVTForCausalLM",
        "AutoModelForMultimodalLM": "modeling_linvt.LinVTForCausalLM",
        "AutoModelForCausalLM": "modeling_linvt.LinVTForCausalLM",
        "AutoProcessor": "processing_linvt.LinVTProcessor",
        "AutoVideoProcessor": "video_processing_linvt.LinVTVideoProcessor",
    }
    # `LinVTPreTrainedModel.unquantized_modules` adds the parts of the image-LLM besides its language model.
    modules_to_not_convert: ClassVar[tuple[str, ...]] = ("linvt",)

    # A dict or a `PreTrainedConfig`. `__init__` turns a dict into a `PreTrainedConfig`.
    backbone_config: Any = None
    linvt_config: Any = None
    image_token_id: int | None = None
    video_token_id: int | None = None
    num_frames: int = 16
    vision_chunk_size: int | None = None
    mix_deepstack: bool = True
    backbone_name: str | None = None
    backbone_revision: str | None = None
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        copy_parts(self)
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = has_tied_embeddings(self.backbone_config)
        if self.image_token_id is None:
            self.image_token_id = getattr(self.backbone_config, "image_token_id", None)
        if self.video_token_id is None:
            self.video_token_id = getattr(self.backbone_config, "video_token_id", None) or self.image_token_id

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Configuration of the language model inside the image-LLM, from which `generate` makes its cache."""
        return self.backbone_config.get_text_config(decoder=decoder, encoder=encoder)

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """Fields of the configuration of LLaVA, the image-LLM that a build makes of a tower and a language model.

        If the tower has a class token, LLaVA drops it.
        """
        return {"vision_feature_select_strategy": "default" if has_class_token(vision_config) else "full"}

    def tower_config(self) -> Any:
        """`vision_config` of the image-LLM; `None` if it has no field of this name."""
        return getattr(self.backbone_config, "vision_config", None)

    def required_frame_size(self) -> None:
        """`None`, because not the video processor but the image-LLM's image processor decides the size of frames."""

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of placeholders of one video, which does not depend on its number of frames."""
        return self.linvt_config.num_output_tokens

    @property
    def text_config(self) -> PreTrainedConfig:
        """The same as `get_text_config()`. TRL 1.10 reads this attribute."""
        return self.get_text_config()

    def validate_architecture(self) -> None:
        """transformers calls this when it creates and when it saves a configuration."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {self.num_frames}.")
        if self.vision_chunk_size is not None and self.vision_chunk_size < 1:
            raise ValueError(f"vision_chunk_size must be at least 1 or None, not {self.vision_chunk_size}.")
        if self.image_token_id is None or self.video_token_id is None:
            raise ValueError(
                f"{type(self.backbone_config).__name__} names no placeholder of images (image_token_id): pass "
                "image_token_id and video_token_id."
            )


__all__ = ["LinVTConfig", "LinVTModuleConfig", "check_module_options", "num_windows"]
