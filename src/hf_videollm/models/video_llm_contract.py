"""The contract of a design: those attributes and methods of its classes that the rest of the package relies on.

The rest are pipeline, collator, loading, saving, costs and command line. Each design has a configuration, a model and a
processor; their base classes inherit from the three classes in this file, which define defaults. A design overrides
the defaults that do not fit it, so no code needs to ask with `hasattr` whether an attribute exists.

A model and a processor fit together only if `pairing` of the configuration and `pairing` of the processor agree. The
package compares them and refuses a processor that was made for another model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from .video_llm_sharding import decoder_layers

# Vision towers that accept only frames of the size in their configuration. Other towers interpolate their position
# embeddings to fit other sizes.
FIXED_TOWERS = ("clip_vision_model", "siglip_vision_model")


class ConfigContract:
    """Attributes and methods of the configuration of a design, or of an image-LLM that this package implements."""

    # Kinds of media that a prompt can hold. Each needs a field `<modality>_token_id`.
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    # Whether the connector works for one number of patches only, so that frames must have one fixed size.
    has_fixed_grid: ClassVar[bool] = False
    # Whether `costs` can count the operations from the configuration, without weights and without running the model.
    has_fixed_cost: ClassVar[bool] = True
    # Whether checkpoints of the design keep their LoRA adapter separate, so that its strength `lora_alpha` can still be
    # changed. A design that does so declares `lora_alpha` as a field.
    keeps_lora: ClassVar[bool] = False
    lora_alpha: float | None = None
    # A design that can drop some visual tokens of each frame declares these two as fields: it keeps
    # `num_tokens_per_frame` of the `num_queries` tokens.
    num_tokens_per_frame: int | None = None
    num_queries: int | None = None
    # A design that pools the patches of all frames to one shape, frames x height x width, declares it as a field.
    pooling_shape: list[int] | tuple[int, ...] | None = None
    # A design whose prompts end with query tokens, which read the frames again, declares their id as a field.
    query_token_id: int | None = None

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """Defaults for fields of a new model's configuration that depend on its vision tower and language model.

        Args:
            vision_config: configuration of the vision tower.
            text_config: configuration of the language model.
        """
        return {}

    def num_image_tokens(self) -> int | None:
        """Number of visual tokens of one image, which is also its number of placeholders in the prompt.

        `None` if the number differs from image to image.
        """
        return None

    def num_prompt_tokens(self) -> int:
        """Number of tokens in a prompt with media that are neither text nor placeholders of media (query tokens)."""
        return 0

    def placeholder_ids(self) -> dict[str, int | None]:
        """Maps the kind of a placeholder to its token id. These ids need no row in the embedding table."""
        return {modality: getattr(self, f"{modality}_token_id") for modality in self.modalities}

    def pairing(self) -> dict[str, Any]:
        """Maps names to values that the processor of this model must agree on (`ProcessorContract.pairing`)."""
        return {f"{modality}_token_id": getattr(self, f"{modality}_token_id") for modality in self.modalities}

    def tower_config(self) -> Any:
        """Configuration of the vision tower; `None` if it is unknown which part of the model is the vision tower."""
        return getattr(self, "vision_config", None)

    def required_image_size(self) -> tuple[int, int] | None:
        """The only height and width of images, in pixels, that the model accepts; `None` if it accepts other sizes."""
        tower = self.tower_config()
        size = getattr(tower, "image_size", None)
        if size is None or not (self.has_fixed_grid or tower.model_type in FIXED_TOWERS):
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)

    def required_frame_size(self) -> tuple[int, int] | None:
        """The only height and width of frames that the model accepts; `None` if it accepts other sizes."""
        return self.required_image_size()


class ModelContract:
    """Attributes and methods of the models of a design, with and without a language-model head."""

    # Options of `get_image_features` and `get_video_features` that `forward` and `generate` accept, too.
    media_options: ClassVar[tuple[str, ...]] = ()
    # Names of the submodules that belong neither to a tower nor to the language model. When a new model is made, their
    # random values are drawn in this order. A submodule may be missing if the configuration switches it off.
    new_parts: ClassVar[tuple[str, ...]] = ("connector",)
    # Whether the model's method `encode_features(features, num_frames)` computes visual tokens from the features of the
    # tower. Otherwise, the connector alone computes them.
    encodes_features: ClassVar[bool] = False
    # Whether the visual tokens of a video depend on the question. The model's method `select_videos` then computes what
    # does not depend on it.
    reads_questions: ClassVar[bool] = False
    # Whether a trained LoRA is saved in a folder of its own, so that its strength can still be changed
    # (`pllava_lora.AdjustableLoraMixin`).
    keeps_lora: ClassVar[bool] = False

    def output_weights(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The weights that set the size of the vectors of media.

        When a new model is made, these weights are scaled until the vectors are about as large as the embeddings of
        words. With the default, the vectors keep the size that they have.

        Returns:
            Names of submodules that return vectors of media, each with weights in the order in which they are used. The
            vectors are proportional to the last weight, as long as biases are 0, and grow with the others.
        """
        return {}

    def layers_to_shard(self) -> list[str]:
        """Names of the classes whose modules are the units in which FSDP2 shards the model in training.

        These are the layers of the language model. Each runs exactly once in every step, whatever media the batch of a
        process holds. Towers and connectors run as often as the media ask for, and processes with other media would
        wait for each other; so they belong to the unit of the whole model, whose weights are gathered once.
        """
        model: Any = self
        return decoder_layers(model.get_decoder())

    def lora_name(self) -> str | None:
        """Name of the attached LoRA adapter whose strength can be changed; `None` if there is none."""
        return None


class ProcessorContract:
    """Attributes and methods of the processor of a design."""

    # Options of a processor call that must be passed to the model, too, because they change the number of placeholders.
    MODEL_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # The pipeline passes options of videos on to the processor. These are the options of audio and of prompts that it
    # passes on as well.
    AUDIO_OPTIONS: ClassVar[tuple[str, ...]] = ()
    PROMPT_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # Options that an audio block of a message may have.
    SOUND_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # Outputs of the processor that stay float32 when the others become float16 or bfloat16, which are too coarse for
    # their values.
    EXACT_KEYS: ClassVar[tuple[str, ...]] = ()
    # Maps the kind of a placeholder to the token that is added to the tokenizer when a new model is made.
    PLACEHOLDERS: ClassVar[Mapping[str, str]] = {"image": "<image>", "video": "<video>"}
    # Whether the soundtrack of a video is used, unless a call says otherwise. Only processors that take audio have this
    # attribute. Its default is that of their `__init__`, because transformers' tests forbid a second one in a class.
    use_audio_in_video: bool

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """Arguments for `__init__` of this processor that must agree with the model's configuration.

        Args:
            config: configuration of the model.
        """
        return {}

    @property
    def takes_audio(self) -> bool:
        """Whether this processor has a feature extractor, and therefore accepts audio."""
        return getattr(self, "feature_extractor", None) is not None

    @property
    def reads_videos(self) -> bool:
        """Whether this processor has a video processor, and therefore accepts videos."""
        return getattr(self, "video_processor", None) is not None

    def num_image_tokens(self) -> int | None:
        """Number of placeholders of one image; `None` if it differs from image to image."""
        return None

    def question_inputs(self, chat: Sequence[Mapping[str, Any]], recondition: bool | None = None) -> dict[str, Any]:
        """Inputs of the model that hold the question on the videos of a conversation; none in most designs.

        Args:
            chat: messages whose contents are lists of blocks.
            recondition: the option of this name of `apply_chat_template`.
        """
        return {}

    def pairing(self) -> Mapping[str, Any]:
        """Maps names to values that the model's configuration must agree on (`ConfigContract.pairing`)."""
        return {f"{kind}_token_id": getattr(self, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}


__all__ = ["FIXED_TOWERS", "ConfigContract", "ModelContract", "ProcessorContract"]
