"""The outputs of the forward methods of all designs: those of the language model and those of the media encoders."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .transformers_compat import CacheNamesOutput


@dataclass
class EncoderOutputs(ModelOutput):
    """Outputs of the media encoders; `None` for a modality without media. transformers uses the same names of fields.

    Args:
        image_hidden_states, video_hidden_states, audio_hidden_states: `(total_tokens, text_width)`, the vectors that
            the language model received instead of the embeddings of the placeholders.
        image_outputs, video_outputs, audio_outputs: output of the encoder of the modality. `pooler_output` is a list
            with one `(num_tokens, text_width)` tensor per medium. `last_hidden_state` is the input of the connector.
            `hidden_states` and `attentions` are those of the tower if the caller requested them. LinVT and IVA do not
            keep the input of the connector, so `last_hidden_state` is `None`. For LinVT, `hidden_states` and
            `attentions` are `None`, too.
    """

    image_hidden_states: torch.FloatTensor | None = None
    video_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """As in transformers; the outputs of the encoders in it are converted to tuples as well."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class VideoLlmModelOutputWithPast(CacheNamesOutput, EncoderOutputs, BaseModelOutputWithPast):
    """Output of the base model."""


@dataclass
class VideoLlmCausalLMOutputWithPast(CacheNamesOutput, EncoderOutputs, CausalLMOutputWithPast):
    """Output of the model with a head."""


ENCODER_FIELDS = tuple(field.name for field in fields(EncoderOutputs))
# The names are stored here, because `torch.compile` cannot trace `dataclasses.fields`.
_COMMON_FIELDS = tuple(field.name for field in fields(BaseModelOutputWithPooling))


def encoder_fields(features: Mapping[str, BaseModelOutputWithPooling]) -> dict[str, Any]:
    """Make the fields of `EncoderOutputs` from the outputs of the encoders.

    Only the fields that all encoders of transformers have are copied. Fields that a design adds for itself (the frames
    for IVA's adapter) are omitted: they are large, and libraries cannot gather their types from several devices.

    Args:
        features: maps a modality to the output of `get_<modality>_features`.
    """
    output_fields: dict[str, Any] = {}
    for modality, output in features.items():
        tokens = torch.cat(list(output.pooler_output))
        common = {name: getattr(output, name, None) for name in _COMMON_FIELDS}
        # The parts share memory with `tokens`. `torch.split` would make them views, and FSDP2 warns about views.
        common["pooler_output"] = list(
            torch.unsafe_split_with_sizes(tokens, [len(part) for part in output.pooler_output])
        )
        output_fields[f"{modality}_hidden_states"] = tokens
        output_fields[f"{modality}_outputs"] = BaseModelOutputWithPooling(**common)
    return output_fields


__all__ = [
    "ENCODER_FIELDS",
    "EncoderOutputs",
    "VideoLlmCausalLMOutputWithPast",
    "VideoLlmModelOutputWithPast",
    "encoder_fields",
]
