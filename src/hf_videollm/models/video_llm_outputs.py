"""What the forwards of all designs return: the output of the language model, and those of the encoders of its media."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .transformers_compat import CacheNamesOutput


@dataclass
class EncoderOutputs(ModelOutput):
    """What the encoders gave; `None` for modalities without media. The names are those of transformers.

    Args:
        image_hidden_states, video_hidden_states, audio_hidden_states: `(total_tokens, text_width)`, what the language
            model read in the places of the media.
        image_outputs, video_outputs, audio_outputs: output of the encoder of the modality. `pooler_output` is a list
            with one `(num_tokens, text_width)` tensor per medium. `last_hidden_state` holds the features that went
            into the connector. `hidden_states` and `attentions` are those of the tower, where they were asked for.
            LinVT and IVA keep no such features: theirs are `None`, and for LinVT so are the layers of the tower.
    """

    image_hidden_states: torch.FloatTensor | None = None
    video_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """As in transformers; outputs of encoders become tuples as well."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class VideoLlmModelOutputWithPast(CacheNamesOutput, EncoderOutputs, BaseModelOutputWithPast):
    """Output of the base model."""


@dataclass
class VideoLlmCausalLMOutputWithPast(CacheNamesOutput, EncoderOutputs, CausalLMOutputWithPast):
    """Output of the model with a head."""


ENCODER_FIELDS = tuple(field.name for field in fields(EncoderOutputs))
# Names only: `torch.compile` cannot ask a dataclass for its fields.
_COMMON_FIELDS = tuple(field.name for field in fields(BaseModelOutputWithPooling))


def encoder_fields(features: Mapping[str, BaseModelOutputWithPooling]) -> dict[str, Any]:
    """The fields of `EncoderOutputs` for media.

    Only the fields that all encoders of transformers have are passed on. Those that a design adds for its own use (the
    frames that IVA's adapter looks at) are large, or of a kind that libraries cannot gather from several devices.

    Args:
        features: modality -> output of `get_<modality>_features`.
    """
    found: dict[str, Any] = {}
    for modality, output in features.items():
        tokens = torch.cat(list(output.pooler_output))
        common = {name: getattr(output, name, None) for name in _COMMON_FIELDS}
        # The parts share memory with `tokens`, but torch does not count them as views, of which FSDP2 warns.
        common["pooler_output"] = list(
            torch.unsafe_split_with_sizes(tokens, [len(part) for part in output.pooler_output])
        )
        found[f"{modality}_hidden_states"] = tokens
        found[f"{modality}_outputs"] = BaseModelOutputWithPooling(**common)
    return found


__all__ = [
    "ENCODER_FIELDS",
    "EncoderOutputs",
    "VideoLlmCausalLMOutputWithPast",
    "VideoLlmModelOutputWithPast",
    "encoder_fields",
]
