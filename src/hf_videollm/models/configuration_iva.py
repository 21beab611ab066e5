"""Configuration of IVA (Interactive Visual Adapter, 2024), its rule for tokens and its insertion points."""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_video_llm import VideoLlmConfig, has_class_token


def num_visual_tokens(num_frames: int, with_temporal: bool = True) -> int:
    """Number of visual tokens, and of placeholders, of `num_frames` frames: each has a global and a temporal one.

    Args:
        num_frames: at least 1.
        with_temporal: whether frames have a temporal token; images may have none.

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
        Frames of a video for counts of tokens and operations without a real video: a minute at one a second. The
        processor takes one frame for each second of a video.
    query_token_id (`int`):
        Id of the placeholder of one dynamic query token. It needs no row in the embedding table.
    num_query_tokens (`int`):
        M, dynamic query tokens of one block (the paper's LQ).
    num_insertions (`int`):
        The paper's NI: with L decoder layers the adapter is called before layers `range(0, L, L // NI)`. That is NI
        calls where NI divides L, as in the paper, and otherwise a few more. 0 is the model without IVA: no adapter, no
        query tokens, neither in the model nor in the prompt.
    adapter_hidden_size (`int`):
        Width of the adapter.
    num_adapter_layers (`int`):
        Pairs of selector and interactor in the adapter.
    selector_temperature (`float`):
        tau of Eq. 3, by which the selector divides its products before the softmax over frames.
    scale_interactor (`bool`):
        Divide the products of Eq. 4 by the root of the adapter's width; the paper does not.
    adapter_residual (`bool`):
        Add the input of a pair to its output; the paper does not.
    query_placement (`str`):
        `"last"`: one block of query tokens, before the last answer of a conversation. `"every"`: a block before each
        answer.
    frames_per_chunk (`int`, *optional*):
        Frames whose patch features the selector adds up at a time; `None` takes the chunks of the tower. It changes
        memory and speed, not the result.
    max_frames_on_device (`int`):
        If a call has at most so many frames, their patch features are kept on the device of the vision tower. If it
        has more, they are kept in the memory of the CPU, and copied back one chunk at a time.
    causal_num_layers (`int`):
        Layers of the transformer over frames.
    causal_num_heads (`int`):
        Its heads; they must divide the width of the vision features.
    causal_mlp_ratio (`int`):
        Width of its MLPs, in widths of the vision features.
    causal_mlp_residual (`bool`):
        Add the input of its MLPs to their output; Eq. 2 in the paper does not.
    frame_token_order (`str`):
        The two tokens of each frame, global v and temporal t: `"interleaved"` is v1 t1 v2 t2 ..., `"concatenated"` is
        v1 v2 ... t1 t2 ...
    image_temporal_token (`bool`):
        Whether an image, a video of one frame, has its temporal token as well; the first training stage (image-text
        pairs) uses the global one alone.
    vision_feature_select_strategy (`str`, *optional*):
        `"default"`: the tower's first token is the class token, which is the global feature of its frame. `"full"`:
        there is no class token, and the mean of the patches is the global feature. By default `"full"` for SigLIP,
        `"default"` for all others.

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
        """Two of each frame."""
        return num_visual_tokens(num_frames)

    def num_image_tokens(self) -> int:
        """Two, or the global one alone without `image_temporal_token`."""
        return num_visual_tokens(1, self.image_temporal_token)

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """The first two stages train without the adapter, which `model_options` of the third adds."""
        heads = next(count for count in (16, 12, 8, 6, 4, 3, 2, 1) if vision_config.hidden_size % count == 0)
        return {"num_insertions": 0, "causal_num_heads": heads}

    def num_prompt_tokens(self) -> int:
        """A block of query tokens, which are positions of the prompt like those of its text."""
        return self.num_query_tokens if self.num_insertions else 0

    def placeholder_ids(self) -> dict[str, int | None]:
        """See the contract."""
        return {**super().placeholder_ids(), "query": self.query_token_id}

    def pairing(self) -> dict[str, Any]:
        """See the contract."""
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
                f"The width of the vision features ({self.vision_width}) must be even (sine and cosine of the frame's "
                f"number) and a multiple of causal_num_heads ({self.causal_num_heads})."
            )
        if num_registers := getattr(self.vision_config, "num_register_tokens", 0):
            raise ValueError(
                f"{self.vision_config.model_type} has num_register_tokens={num_registers}, which are no patches: use a "
                "vision tower without register tokens, such as CLIP or SigLIP."
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
