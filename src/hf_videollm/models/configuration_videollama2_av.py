"""Configuration of VideoLLaMA2-AV: VideoLLaMA2 with a BEATs encoder for audio."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import SubConfigSpec

from .configuration_beats import BeatsConfig
from .configuration_videollama2 import VideoLlama2Config


@strict
class VideoLlama2AVConfig(VideoLlama2Config):
    r"""
    Configuration of a VideoLLaMA2-AV model. It has the fields of `VideoLlama2Config`, and in addition:

    audio_config (`dict` or `BeatsConfig`, *optional*):
        The audio encoder.
    audio_token_id (`int`):
        Id of the placeholder that stands for one vector of audio.
    audio_projector_depth (`int`):
        Number of linear layers between the audio encoder and the language model, with GELU between them (2 in the
        released model).
    """

    model_type = "videollama2_av"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        **VideoLlama2Config.sub_configs_defaults,
        "audio_config": SubConfigSpec(config_class=BeatsConfig),
    }
    modalities: ClassVar[tuple[str, ...]] = ("image", "video", "audio")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_videollama2_av.VideoLlama2AVConfig",
        "AutoModel": "modeling_videollama2_av.VideoLlama2AVModel",
        "AutoModelForImageTextToText": "modeling_videollama2_av.VideoLlama2AVForCausalLM",
        "AutoModelForMultimodalLM": "modeling_videollama2_av.VideoLlama2AVForCausalLM",
        "AutoModelForCausalLM": "modeling_videollama2_av.VideoLlama2AVForCausalLM",
        "AutoProcessor": "processing_videollama2_av.VideoLlama2AVProcessor",
        "AutoVideoProcessor": "video_processing_videollama2.VideoLlama2VideoProcessor",
        "AutoFeatureExtractor": "feature_extraction_beats.BeatsFeatureExtractor",
    }

    modules_to_not_convert: ClassVar[tuple[str, ...]] = (
        *VideoLlama2Config.modules_to_not_convert,
        "audio_tower",
        "audio_projector",
    )

    # A dict or a `BeatsConfig`. `__init__` turns a dict into a `BeatsConfig`.
    audio_config: Any = None
    audio_token_id: int = 32002
    audio_projector_depth: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.audio_config, dict) and self.audio_config.get("model_type", "beats") != "beats":
            raise ValueError(
                f"audio_config is of model_type {self.audio_config['model_type']!r}, but the audio encoder of this "
                "design is BEATs: leave model_type out, or set it to 'beats'."
            )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.audio_token_id in (self.image_token_id, self.video_token_id):
            raise ValueError(
                f"audio_token_id {self.audio_token_id} is also the id of images or videos: give audio an id of its own."
            )
        if self.audio_projector_depth < 1:
            raise ValueError(f"audio_projector_depth must be at least 1, not {self.audio_projector_depth}.")

    def pairing(self) -> dict[str, Any]:
        """As in `ConfigContract`, and the sizes that decide the number of audio tokens."""
        audio = self.audio_config
        return {**super().pairing(), "num_mel_bins": audio.num_mel_bins, "audio_patch_size": audio.patch_size}

    def num_audio_tokens(self, num_frames: int) -> int:
        """Number of audio tokens (and placeholders) for `num_frames` frames of the filter bank (10 ms each)."""
        return self.audio_config.num_audio_tokens(num_frames)


__all__ = ["VideoLlama2AVConfig"]
