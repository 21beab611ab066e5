"""VideoLLaMA2-AV: VideoLLaMA2 with audio (paper, section 2, audio-language branch).

    audio -> fbank (frames, 128) -> BEATs -> (n, Da) -> MLP -> (n, D), instead of the `<audio>` placeholders

The visual part is that of VideoLLaMA2. The processor decides which audio a prompt holds, and whether the audio of a
video comes before or after its visual tokens. The model only replaces placeholders by vectors. So one batch may mix
prompts that hold videos with or without audio, audio alone, images, or only text.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_videollama2_av import VideoLlama2AVConfig
from .media_blank import must_run
from .modeling_beats import BeatsModel
from .modeling_video_llm import VideoLlmForConditionalGeneration
from .modeling_videollama2 import VideoLlama2Model, build_mlp


class VideoLlama2AVModel(VideoLlama2Model):
    """VideoLLaMA2-AV without a head: features for retrieval, serving engines and tests."""

    config_class = VideoLlama2AVConfig
    input_modalities = ("image", "video", "audio", "text")
    new_parts = ("connector", "audio_projector")
    other_parts = ("language_model", "audio_tower", "audio_projector")

    def __init__(self, config: VideoLlama2AVConfig) -> None:
        super().__init__(config)
        config = self.config
        self.audio_tower = BeatsModel(config.audio_config)
        self.audio_projector = build_mlp(
            config.audio_config.hidden_size, config.text_config.hidden_size, config.audio_projector_depth
        )
        self.post_init()

    def output_weights(self) -> dict[str, list[nn.Parameter]]:
        projector: Any = self.audio_projector
        return {**super().output_weights(), "audio_projector": [layer.weight for layer in projector[::2]]}

    def encode_blank_media(self, present: Collection[str], device: torch.device) -> list[torch.Tensor]:
        """As in the base class; the parts for audio get one patch of silence."""
        vectors = super().encode_blank_media(present, device)
        if "audio" not in present and must_run([self.audio_tower, self.audio_projector]):
            audio = self.config.audio_config
            silence = torch.full((1, audio.patch_size, audio.num_mel_bins), audio.fbank_mean, device=device)
            vectors += self.get_audio_features(silence, return_dict=True).pooler_output
        return vectors

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Vectors of audio, 8 for every 160 ms (16 frames).

        Args:
            input_features: `(num_audios, max_frames, 128)`, the audio of all rows in row order.
            input_features_mask: `(num_audios, max_frames)`, 1 for frames of the audio (also silent ones), 0 for the
                padding after it. With `None`, there is no padding.

        Returns:
            `pooler_output` is a list with one `(num_tokens, text_width)` tensor per audio. If the last frames do not
            fill a patch, they are ignored. `last_hidden_state` is `(num_audios, max_tokens, audio_width)`.

        Raises:
            ValueError: the mask does not fit the features, or an audio is shorter than one patch.
        """
        lengths = self._sound_lengths(input_features, input_features_mask)
        num_tokens = [self.config.num_audio_tokens(length) for length in lengths]
        if min(num_tokens, default=1) < 1:
            raise ValueError(
                f"input_features holds sounds of {lengths} frames, but BEATs needs at least "
                f"{self.config.audio_config.patch_size}: pad them with silence (pad_with_silence=True of the feature "
                "extractor), or leave them out."
            )
        # The last frames are masked if they do not fill a patch. Otherwise, where padding fills that patch, the other
        # vectors of the audio would attend to it, and so depend on the length of other audios in the batch.
        patch = self.config.audio_config.patch_size
        kept = torch.tensor([length // patch * patch for length in lengths], device=input_features.device)
        mask = torch.arange(input_features.shape[1], device=input_features.device) < kept[:, None]
        # The values of the padding are set to 0, so that they change neither results nor gradients.
        features = input_features.masked_fill(~mask[..., None], 0.0)
        device = self.audio_tower.device
        # If accelerate keeps the weights of the tower on disk, the device is "meta". Accelerate then moves the weights
        # to the device of the features.
        device = features.device if device.type == "meta" else device
        outputs = self.audio_tower(
            features.to(device, self.audio_tower.dtype),
            attention_mask=mask.to(device),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        projected = self.audio_projector(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=[vectors[:count] for vectors, count in zip(projected, num_tokens, strict=True)],
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _sound_lengths(self, input_features: torch.Tensor, mask: torch.Tensor | None) -> list[int]:
        if input_features.ndim != 3:
            raise ValueError(
                f"input_features must be (sounds, frames, mel bins), not of shape {tuple(input_features.shape)}."
            )
        if mask is None:
            return [input_features.shape[1]] * len(input_features)
        if mask.shape != input_features.shape[:2]:
            raise ValueError(
                f"input_features_mask of shape {tuple(mask.shape)} does not fit input_features of shape "
                f"{tuple(input_features.shape)}."
            )
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError("input_features_mask must be 1 up to the end of each sound and 0 after it.")
        return mask.sum(-1).tolist()


class VideoLlama2AVForCausalLM(VideoLlmForConditionalGeneration):
    """VideoLLaMA2-AV that answers questions on videos with or without audio, on audio and on images."""

    config_class = VideoLlama2AVConfig
    model_class = VideoLlama2AVModel
    input_modalities = ("image", "video", "audio", "text")

    def get_audio_features(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """See the base model."""
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)


__all__ = ["VideoLlama2AVForCausalLM", "VideoLlama2AVModel"]
