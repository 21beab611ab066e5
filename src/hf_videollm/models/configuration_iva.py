"""Configuration of IVA (Interactive Visual Adapter, 2024), its number of visual tokens and its insertion points."""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_video_llm import VideoLlmConfig, has_class_token


def num_visual_tokens(num_frames: int, with_temporal: bool = True) -> int:
    """Number of visual tokens of a clip, which is also its number of placeholders.

    Each frame has a global token and, with `with_temporal`, also a temporal token.

    Args:
        num_frames: number of frames of the clip, at least 1.
        with_temporal: whether each frame has a temporal token. An image may be without it.

    Raises:
        ValueError: there is no frame.
    """
    if num_frames < 1:
        raise ValueError(f"A video needs at least one frame, got {num_frames}.")
    return num_frames * (2 if with_temporal else 1)


@strict
class IvaConfig(VideoLlmConfig):
    r"""
    Configuration of an IVA model. The defaults are those of the paper.

    num_frames (`int`):
        Number of frames that is assumed when tokens and operations are counted without a real video. The default
        stands for one minute of video. From a real video, the processor takes one frame per second.
    query_token_id (`int`):
        Id of the placeholder of one dynamic query token. It needs no row in the embedding table.
    num_query_tokens (`int`):
        Number of dynamic query tokens in one block. It is called M in this package and LQ in the paper.
    num_insertions (`int`):
        How often the adapter is called, NI in the paper. In a language model of L layers, it is called before the
        layers `range(0, L, L // NI)`. These are NI layers if NI divides L, as in the paper, and otherwise a few more.
        With 0 the model has no adapter and no query tokens, and its prompts have none either.
    adapter_hidden_size (`int`):
        Width of the adapter.
    num_adapter_layers (`int`):
        Pairs of selector and interactor in the adapter.
    selector_temperature (`float`):
        tau in Eq. 3: the selector divides its attention scores by it before the softmax over frames.
    scale_interactor (`bool`):
        Divide the attention scores of Eq. 4 by the square root of the adapter's width. The paper does not.
    adapter_residual (`bool`):
        Add the input of a pair of selector and interactor to its output. The paper does not.
    query_placement (`str`):
        `"last"`: one block of query tokens, before the last answer of a conversation. `"every"`: a block before each
        answer.
    frames_per_chunk (`int`, *optional*):
        Number of frames whose patch features the selector adds up at a time; `None` takes as many as ran through the
        vision tower at a time. It changes memory and speed, but not the result.
    max_frames_on_device (`int`):
        If a call has at most this many frames, their patch features stay on the device of the vision tower. Otherwise
        they are kept in CPU memory, and copied to the device one chunk at a time.
    causal_num_layers (`int`):
        Number of layers of the causal transformer, which runs over the frames of a video.
    causal_num_heads (`int`):
        Number of attention heads of the causal transformer. The width of the vision features must be a multiple of it.
    causal_mlp_ratio (`int`):
        Width of the MLPs of the causal transformer, as a multiple of the width of the vision features.
    causal_mlp_residual (`bool`):
        Add the input of each MLP of the causal transformer to its output. Eq. 2 in the paper does not.
    frame_token_order (`str`):
        The two tokens of each frame, global v and temporal t: `"interleaved"` is v1 t1 v2 t2 ..., `"concatenated"` is
        v1 v2 ... t1 t2 ...
    image_temporal_token (`bool`):
        Whether an image, which is a video of one frame, also has a temporal token. The first training stage (image-text
        pairs) uses only the global token.
    vision_feature_select_strategy (`str`, *optional*):
        `"default"`: the tower's first token is the class token, which is the global feature of its frame. `"full"`:
        there is no class token, and the mean of the patches is the global feature. The default is `"full"` for towers
        without a class token, such as SigLIP, and `"default"` for all others.

    Example:

    ```python
    >>> from hf_videollm.models.configuration_iva import IvaConfig
    >>> config = IvaConfig(text_config={"model_type": "llama", "num_hidden_layers": 32}, num_insertions=4)
    >>> config.num_video_tokens(60), config.num_image_tokens(), config.insertion_layers
    (120, 2, [0, 8, 16, 24])

    ```"""

    model_type = "iva"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_iva.IvaConfig",
        "AutoModel": "modeling_iva.IvaModel",
        "AutoModelForImageTextToText": "modeling_iva.IvaForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_iva.IvaForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_iva.IvaForConditionalGeneration",
        "AutoProcessor": "processing_iva.IvaProcessor",
        "AutoVideoProcessor": "video_processing_iva.IvaVideoProcessor",
    }
    modules_to_not_convert: ClassVar[tuple[str, ...]] = (
        *VideoLlmConfig.modules_to_not_convert,
        "query_tokens",
        "adapter",
    )

    num_frames: int = 60
    query_token_id: int = 32002
    num_query_tokens: int = 16
    num_insertions: int = 8
    adapter_hidden_size: int = 1024
    num_adapter_layers: int = 4
    selector_temperature: float = 0.5
    scale_interactor: bool = False
    adapter_residual: bool = False
    query_placement: Literal["last", "every"] = "last"
    frames_per_chunk: int | None = 64
    max_frames_on_device: int = 512
    causal_num_layers: int = 4
    causal_num_heads: int = 16
    causal_mlp_ratio: int = 4
    causal_mlp_residual: bool = True
    frame_token_order: Literal["interleaved", "concatenated"] = "interleaved"
    image_temporal_token: bool = True
    vision_feature_select_strategy: Literal["default", "full"] | None = None  # type: ignore[assignment]

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.vision_feature_select_strategy is None:
            self.vision_feature_select_strategy = "default" if has_class_token(self.vision_config) else "full"

    @property
    def vision_width(self) -> int:
        """Width of the features of the chosen tower layer(s)."""
        layers = self.vision_feature_layer
        num_layers: int = 1 if isinstance(layers, int) else len(layers)
        return self.vision_config.hidden_size * num_layers

    @property
    def insertion_layers(self) -> list[int]:
        """Decoder layers before which the adapter is called."""
        num_layers = self.text_config.num_hidden_layers
        return list(range(0, num_layers, num_layers // self.num_insertions)) if self.num_insertions else []

    def num_video_tokens(self, num_frames: int) -> int:
        """Two tokens for each frame."""
        return num_visual_tokens(num_frames)

    def num_image_tokens(self) -> int:
        """Two tokens, or only the global token if `image_temporal_token` is false."""
        return num_visual_tokens(1, self.image_temporal_token)

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """A new model has no adapter, because the first two training stages do without it.

        The recipe of the third stage adds it by its `model_options`.
        """
        heads = next(count for count in (16, 12, 8, 6, 4, 3, 2, 1) if vision_config.hidden_size % count == 0)
        return {"num_insertions": 0, "causal_num_heads": heads}

    def num_prompt_tokens(self) -> int:
        """Length of one block of query tokens, each of which takes one position; 0 if the model has no adapter."""
        return self.num_query_tokens if self.num_insertions else 0

    def placeholder_ids(self) -> dict[str, int | None]:
        """As in `ConfigContract`, and the id of the query token."""
        return {**super().placeholder_ids(), "query": self.query_token_id}

    def pairing(self) -> dict[str, Any]:
        """As in `ConfigContract`, and the options that decide where and how many placeholders a prompt has."""
        facts = {
            **super().pairing(),
            "number of query tokens": self.num_prompt_tokens(),
            "image_temporal_token": self.image_temporal_token,
        }
        if not self.num_insertions:
            return facts
        return {**facts, "query_token_id": self.query_token_id, "query_placement": self.query_placement}

    def validate_architecture(self) -> None:
        super().validate_architecture()
        at_least_1 = ("num_query_tokens", "adapter_hidden_size", "num_adapter_layers")
        for name in (*at_least_1, "causal_num_heads", "causal_mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("num_insertions", "causal_num_layers", "max_frames_on_device"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}.")
        if self.frames_per_chunk is not None and self.frames_per_chunk < 1:
            raise ValueError(f"frames_per_chunk must be at least 1 or None, not {self.frames_per_chunk}.")
        if not 0 < self.selector_temperature < math.inf:
            raise ValueError(f"selector_temperature must be a number above 0, not {self.selector_temperature}.")
        self._check_placeholders()
        num_layers = self.text_config.num_hidden_layers
        if self.num_insertions > num_layers:
            raise ValueError(
                f"num_insertions is {self.num_insertions}, but the language model has {num_layers} layers: the adapter "
                f"can be called before at most {num_layers} of them."
            )
        if self.vision_width % self.causal_num_heads or self.vision_width % 2:
            raise ValueError(
                f"The width of the vision features ({self.vision_width}) must be even (one half for sines and one for "
                f"cosines of the frame's number) and a multiple of causal_num_heads ({self.causal_num_heads})."
            )
        if num_registers := getattr(self.vision_config, "num_register_tokens", 0):
            raise ValueError(
                f"{self.vision_config.model_type} has num_register_tokens={num_registers}, but register tokens are not "
                "patches: use a vision tower without register tokens, such as CLIP or SigLIP."
            )
        if self.vision_feature_select_strategy == "default" and not has_class_token(self.vision_config):
            raise ValueError(
                f"{self.vision_config.model_type} has no class token: set vision_feature_select_strategy='full' (the "
                "global feature of a frame is then the mean of its patches)."
            )

    def _check_placeholders(self) -> None:
        names = [f"{name}_token_id" for name in (*self.modalities, *(["query"] if self.num_insertions else []))]
        ids = [getattr(self, name) for name in names]
        if len(set(ids)) < len(ids):
            pairs = ", ".join(f"{name} {token_id}" for name, token_id in zip(names, ids, strict=True))
            raise ValueError(f"Placeholders must have ids of their own, but some are the same: {pairs}.")


__all__ = ["IvaConfig", "num_visual_tokens"]
