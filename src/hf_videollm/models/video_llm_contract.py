"""The contract of a design: what pipeline, collator, loading, saving, costs and command line may ask of its classes.

Each of the three base classes of a design takes its part from here, with defaults that hold for a design without
peculiarities. A design overrides what is different, and nobody asks whether an attribute is there.

Configurations and processors are compared by `pairing`: both name facts that must be equal, so that a processor of
another model is refused before its prompts are read wrongly.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

# Towers that take frames of their own size alone, where others resize their positions.
FIXED_TOWERS = ("clip_vision_model", "siglip_vision_model")


class ConfigContract:
    """What the configuration of a design, or of an image-LLM of ours, answers."""

    # What a prompt can hold besides text; each needs an `<modality>_token_id`.
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    # The connector knows the grid of patches, so that frames of another size do not fit.
    has_fixed_grid: ClassVar[bool] = False
    # `costs` can count the operations without weights.
    has_fixed_cost: ClassVar[bool] = True
    # Strength of a LoRA adapter that stays adjustable; a design that keeps one makes it a field.
    keeps_lora: ClassVar[bool] = False
    lora_alpha: float | None = None
    # A design that keeps some of its tokens of each frame makes these fields: how many of how many.
    num_tokens_per_frame: int | None = None
    num_queries: int | None = None

    @classmethod
    def fields_for_parts(cls, vision_config: Any, text_config: Any) -> dict[str, Any]:
        """Fields of this configuration that follow from the parts of a new model, where nothing else is said.

        Args:
            vision_config: of the vision tower.
            text_config: of the language model.
        """
        return {}

    def num_image_tokens(self) -> int | None:
        """Visual tokens, and so placeholders, of one image; `None` where the image itself decides."""
        return None

    def num_prompt_tokens(self) -> int:
        """Tokens that a prompt with media has besides its text and the placeholders of media."""
        return 0

    def placeholder_ids(self) -> dict[str, int | None]:
        """Kind of placeholder -> its id; its tokens need no row in the embedding."""
        return {modality: getattr(self, f"{modality}_token_id") for modality in self.modalities}

    def pairing(self) -> dict[str, Any]:
        """Name of a fact -> its value, which the processor of this model must share (`ProcessorContract.pairing`)."""
        return {f"{modality}_token_id": getattr(self, f"{modality}_token_id") for modality in self.modalities}

    def tower_config(self) -> Any:
        """Configuration of the vision tower; `None` where nobody knows which part that is."""
        return getattr(self, "vision_config", None)

    def required_image_size(self) -> tuple[int, int] | None:
        """Height and width that images must have, in pixels; `None` where the model takes others too."""
        tower = self.tower_config()
        size = getattr(tower, "image_size", None)
        if size is None or not (self.has_fixed_grid or tower.model_type in FIXED_TOWERS):
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)

    def required_frame_size(self) -> tuple[int, int] | None:
        """Height and width that the video processor must give to frames; `None` where it may give others too."""
        return self.required_image_size()


class ModelContract:
    """What the model of a design answers, with a head or without."""

    # Options of `get_image_features` and `get_video_features` that a call of the model, or `generate`, also takes.
    media_options: ClassVar[tuple[str, ...]] = ()
    # Modules of the model without a head that neither tower nor language model brings, in the order in which a build
    # draws their values. Those that a configuration switches off may be absent.
    new_parts: ClassVar[tuple[str, ...]] = ("connector",)
    # Between tower and connector there is a step of its own: `encode_features(features, num_frames)`.
    encodes_features: ClassVar[bool] = False
    # A LoRA stays adjustable after training, and is saved beside the weights (`pllava_lora.AdjustableLoraMixin`).
    keeps_lora: ClassVar[bool] = False

    def lora_name(self) -> str | None:
        """Name of the adjustable LoRA that is attached; `None` without one."""
        return None


class ProcessorContract:
    """What the processor of a design answers."""

    # Options of a call that the model must be given as well: they decide the number of placeholders.
    MODEL_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # What a pipeline call may pass to this processor, besides the options of videos: those of sounds, and of questions.
    AUDIO_OPTIONS: ClassVar[tuple[str, ...]] = ()
    PROMPT_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # Options that a sound of its own may have in a message, beside its name.
    SOUND_OPTIONS: ClassVar[tuple[str, ...]] = ()
    # Outputs whose numbers a lower precision would spoil.
    EXACT_KEYS: ClassVar[tuple[str, ...]] = ()
    # Kind of placeholder -> the token that a build gives to a language model which has none.
    PLACEHOLDERS: ClassVar[Mapping[str, str]] = {"image": "<image>", "video": "<video>"}
    # Whether the sound of a video is used where a call says nothing; a design with an audio tower makes it an argument.
    use_audio_in_video: bool = False

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """Arguments of this processor that must fit a model of this configuration; each design has its own.

        Args:
            config: of the model.
        """
        return {}

    @property
    def takes_audio(self) -> bool:
        """Whether this processor has a feature extractor, and so takes sounds."""
        return getattr(self, "feature_extractor", None) is not None

    @property
    def reads_videos(self) -> bool:
        """Whether this processor takes videos."""
        return getattr(self, "video_processor", None) is not None

    def num_image_tokens(self) -> int | None:
        """Placeholders of one image; `None` where the image itself decides."""
        return None

    def pairing(self) -> Mapping[str, Any]:
        """Name of a fact -> its value, for those that the model's configuration names (`ConfigContract.pairing`)."""
        return {f"{kind}_token_id": getattr(self, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}


__all__ = ["FIXED_TOWERS", "ConfigContract", "ModelContract", "ProcessorContract"]
