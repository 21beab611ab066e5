"""The base classes of all models: frames -> vision tower -> connector -> placeholders of the prompt -> language model.

A design adds a connector. This module is called with the tower's features of all frames of all clips,
`(total_frames, tokens, vision_width)`, and the list of frame counts of the clips. It returns one tensor
`(num_tokens, text_width)` per clip. All other steps are in this file and in the mixins that it names.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import nn
from transformers import AutoModel, Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_video_llm import VideoLlmConfig
from .media_blank import blank_frames, must_run, reach
from .transformers_compat import (
    CACHE_NAME,
    CACHE_NAMES,
    cache_argument,
    cache_of,
    forward_cache,
)
from .video_llm_checkpoint import CheckpointMixin
from .video_llm_contract import ModelContract
from .video_llm_generation import MediaGenerationMixin
from .video_llm_head import HeadlessMixin, LanguageHeadMixin
from .video_llm_lora import lora_config
from .video_llm_outputs import VideoLlmCausalLMOutputWithPast, VideoLlmModelOutputWithPast, encoder_fields
from .video_llm_placeholders import PlaceholderMixin, Placeholders
from .video_llm_push import ModelPushMixin
from .video_llm_quantization import QuantizationMixin
from .video_llm_sharding import keep_present_names
from .video_llm_shared_prefill import ROW_COPIES, repeat_rows
from .video_llm_trust import trust_of
from .video_llm_vision_tower import VisionTowerMixin

# Arguments of a forward that hold media.
MEDIA_INPUTS = ("pixel_values", "pixel_values_videos", "num_video_frames", "input_features", "input_features_mask")


class ForwardOptions(TypedDict, total=False):
    """Further options of a forward. They are passed on to the language model, as in all models of transformers.

    `answer_logits_only` is for training: logits are computed only at the positions that count for the loss, which saves
    the memory of the logits of all visual tokens. The logits are then `(1, positions, vocab_size)`.
    """

    answer_logits_only: bool
    num_items_in_batch: torch.Tensor | None
    output_hidden_states: bool | None
    output_attentions: bool | None


class VideoLlmPreTrainedModel(ModelPushMixin, QuantizationMixin, CheckpointMixin, ModelContract, PreTrainedModel):
    """Capabilities that every design declares to transformers."""

    config: VideoLlmConfig
    base_model_prefix = "model"
    input_modalities: tuple[str, ...] = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = CACHE_NAMES

    def lora_config(self, **options: Any) -> Any:
        """`peft.LoraConfig(**options)` for layers of the language model only; see `video_llm_lora.lora_config`."""
        return lora_config(self, **options)

    def post_init(self) -> None:
        """As in transformers, but `_no_split_modules` names only classes that this model has modules of."""
        super().post_init()
        keep_present_names(self)

    def initialize_weights(self) -> None:
        """Initialise the weights that are not in the checkpoint, those of the towers by the rules of their own classes.

        In a model that is not part of transformers, transformers skips modules without weights of their own. CLIP and
        SigLIP have rules for such modules (attention, MLP), so each tower initialises itself first.
        """
        for child in self.children():
            if isinstance(child, PreTrainedModel):
                child.initialize_weights()
        super().initialize_weights()


class VideoLlmModel(HeadlessMixin, VisionTowerMixin, PlaceholderMixin, VideoLlmPreTrainedModel):
    """Vision tower, connector and language model without a head."""

    connector_class: ClassVar[Callable[..., nn.Module]]
    # Names of the parts that images and videos do not run through; a design with audio adds its audio parts.
    other_parts: ClassVar[tuple[str, ...]] = ("language_model",)

    def __init__(self, config: VideoLlmConfig) -> None:
        # The model changes values in its configuration (attention, dtype, vocab_size), so it works on a copy.
        config = copy.deepcopy(config)
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config, **trust_of(config.vision_config))
        self.connector = type(self).connector_class(config)
        self.language_model = AutoModel.from_config(config.text_config, **trust_of(config.text_config))
        self.cache_argument = cache_argument(self.language_model)
        self.skip_unused_vision_layers()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def freeze_unused_parameters(self) -> None:
        """Freeze the parameters that never get a gradient.

        This is called again at the end of `from_pretrained`, which replaces parameters by new, trainable ones.
        """
        self.skip_unused_vision_layers()

    def get_frame_features(
        self,
        frames: torch.Tensor | Sequence[torch.Tensor],
        num_frames: list[int],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        connector_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode the frames of several clips and run the connector over them.

        Args:
            frames: `(sum(num_frames), 3, height, width)`, the frames of all clips, clip after clip; or the frames of
                each clip.
            num_frames: frame count of each clip.
            output_hidden_states: as in `encode_frames`.
            output_attentions: as in `encode_frames`.
            connector_options: further arguments of the connector.
            kwargs: options of the design (`media_options`) are passed to the connector, too; all others are ignored.
        """
        options = {name: kwargs[name] for name in self.media_options if name in kwargs} | dict(connector_options or {})
        outputs = self.encode_frames(frames, output_hidden_states, output_attentions)
        outputs.pooler_output = self.connector(outputs.last_hidden_state, num_frames, **options)
        return outputs

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of images; an image is a clip of one frame.

        Args:
            pixel_values: `(num_images, 3, height, width)`, images of all rows in row order.

        Returns:
            `pooler_output` is a list with one `(num_tokens, text_width)` tensor per image.
        """
        return self.get_frame_features(pixel_values, [1] * len(pixel_values), **kwargs)

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, num_video_frames: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of videos.

        Args:
            pixel_values_videos: `(num_videos, max_frames, 3, height, width)`, videos of all rows in row order.
            num_video_frames: `(num_videos,)`, valid frames of each video. The frames after them are padding, which
                never runs through the tower. All frames are valid when it is `None`.

        Returns:
            `pooler_output` is a list with one `(num_tokens, text_width)` tensor per video.

        Raises:
            ValueError: the frame counts do not fit the pixel tensor.
        """
        clips = self.split_videos(pixel_values_videos, num_video_frames)
        return self.get_frame_features(clips, [len(clip) for clip in clips], **kwargs)

    def split_videos(
        self, pixel_values_videos: torch.Tensor, num_video_frames: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The valid frames of each video, `(frames, 3, height, width)`, as views. See `get_video_features`."""
        if pixel_values_videos.ndim != 5:
            raise ValueError(
                "pixel_values_videos must be (videos, frames, channels, height, width), not of shape "
                f"{tuple(pixel_values_videos.shape)}."
            )
        if num_video_frames is None:
            return list(pixel_values_videos)
        num_videos, max_frames = pixel_values_videos.shape[:2]
        counts = num_video_frames.tolist()
        if len(counts) != num_videos or not all(1 <= count <= max_frames for count in counts):
            raise ValueError(
                f"num_video_frames {counts} does not fit {num_videos} videos of at most {max_frames} frames."
            )
        return [video[:count] for video, count in zip(pixel_values_videos, counts, strict=True)]

    def modalities_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """The modalities that the inputs of a call hold media of, encoded or not, in the order of `encode_media`."""
        sources = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
        raw = [modality for modality, name in sources.items() if inputs.get(name) is not None]
        found = dict.fromkeys([*(inputs.get("mm_encoder_outputs") or {}), *raw])
        return [modality for modality in found if modality in self.config.modalities]

    def encode_media(
        self, inputs: Mapping[str, Any], **asked: bool | None
    ) -> tuple[dict[str, BaseModelOutputWithPooling], dict[str, Any]]:
        """Encode the media among the inputs of a call.

        Args:
            inputs: arguments of a forward; the mapping is not changed. `mm_encoder_outputs` holds media that are
                already encoded.
            asked: `output_hidden_states` and `output_attentions` of the towers, see `encode_frames`.

        Returns:
            A dict of modalities to outputs of `get_<modality>_features`; and the inputs that are neither media nor
            options for media (`media_options`).

        Raises:
            ValueError: there is audio, but the design has no audio tower.
        """
        others = dict(inputs)
        features = dict(others.pop("mm_encoder_outputs", None) or {})
        options: dict[str, Any] = {**asked, **{name: others.pop(name, None) for name in self.media_options}}
        pixel_values, pixel_values_videos, num_video_frames, input_features, input_features_mask = (
            others.pop(name, None) for name in MEDIA_INPUTS
        )
        if not torch.compiler.is_compiling():
            # Lengths are read by Python. Their copies exist before the towers are started, so a GPU is not waited for.
            num_video_frames, input_features_mask = (
                None if lengths is None else lengths.cpu() for lengths in (num_video_frames, input_features_mask)
            )
        if pixel_values is not None:
            features["image"] = self.get_image_features(pixel_values, return_dict=True, **options)
        if pixel_values_videos is not None:
            features["video"] = self.get_video_features(
                pixel_values_videos, num_video_frames, return_dict=True, **options
            )
        if input_features is not None:
            if "audio" not in self.config.modalities:
                raise ValueError(f"{type(self).__name__} cannot hear: leave out input_features.")
            features["audio"] = self.get_audio_features(input_features, input_features_mask, return_dict=True, **asked)
        return features, others

    def encode_blank_media(self, present: Collection[str], device: torch.device) -> list[torch.Tensor]:
        """Run blank frames through the visual parts of the model, if the media of the batch do not use these parts.

        Args:
            present: modalities that the batch has media of.
            device: device of the inputs.

        Returns:
            One `(num_tokens, text_width)` tensor per blank medium. They are not put into the prompts; `media_blank.py`
            explains their purpose.
        """
        parts = [module for name, module in self.named_children() if name not in self.other_parts]
        if self.covers_visual_parts(present) or not must_run(parts):
            return []
        return self.encode_blank_frames(blank_frames(self.config.vision_config, device))

    def covers_visual_parts(self, present: Collection[str]) -> bool:
        """Whether media of these modalities run through all visual parts of the model."""
        return "video" in present or "image" in present

    def encode_blank_frames(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Vectors of one frame `(1, 3, height, width)`, made by all visual parts of the model."""
        return list(self.get_image_features(frames, return_dict=True).pooler_output)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        num_video_frames: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.LongTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> VideoLlmModelOutputWithPast:
        """Run the language model over a prompt whose placeholders are replaced by visual tokens.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: `(batch, length)`, 1 for real positions; padding may be left or right.
            pixel_values: `(num_images, 3, height, width)`.
            pixel_values_videos: `(num_videos, max_frames, 3, height, width)`.
            num_video_frames: `(num_videos,)`.
            input_features: `(num_sounds, max_frames, mel_bins)`; only for designs with an audio tower.
            input_features_mask: `(num_sounds, max_frames)`.
            mm_token_type_ids: `(batch, length)`; accepted because processors return it, but not used.
            mm_encoder_outputs: media that are already encoded, passed instead of pixels and audio: maps modalities to
                outputs of `get_<modality>_features`.
            cache: another name of `past_key_values`.
            kwargs: options of the language model, and those of the design for its media (`media_options`).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds, and not both.")
        media = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "num_video_frames": num_video_frames,
            "input_features": input_features,
            "input_features_mask": input_features_mask,
            "mm_encoder_outputs": mm_encoder_outputs,
            **{name: kwargs.pop(name, None) for name in self.media_options},  # type: ignore[misc]
        }
        asked: dict[str, Any] = {name: kwargs.get(name) for name in ("output_hidden_states", "output_attentions")}
        # These checks of the prompts make Python wait for the device, so they run before the towers are started.
        placeholders = self.find_placeholders(input_ids, inputs_embeds, self.modalities_of(media))
        features, _ = self.encode_media(media, **asked)
        # Before the embeddings, as other media: with sharded weights, all processes must run the parts in one order.
        tokens: Any = inputs_embeds if input_ids is None else input_ids
        left_out = self.encode_blank_media(features, tokens.device) if self.training and torch.is_grad_enabled() else []
        merged, masks = self.embed_prompt(input_ids, inputs_embeds, features, placeholders)
        merged = reach(merged, left_out)

        outputs = self.run_language_model(
            merged,
            features,
            masks,
            input_ids=input_ids,
            prompt_embeds=inputs_embeds,
            cache=forward_cache(cache, past_key_values),
            attention_mask=attention_mask,
            position_ids=self._position_ids(attention_mask, position_ids, merged.shape[1]),
            use_cache=use_cache,
            **kwargs,
        )
        return VideoLlmModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: cache_of(outputs)},
            **encoder_fields(features),
        )

    def embed_prompt(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        features: dict[str, BaseModelOutputWithPooling],
        placeholders: Placeholders | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Embed prompts, and replace the embeddings of placeholders by the vectors of the media.

        Args:
            input_ids: the prompts, `(batch, length)`.
            inputs_embeds: the prompts as embeddings, instead of `input_ids`.
            features: maps modalities to outputs of `get_<modality>_features`.
            placeholders: from `find_placeholders`, if the caller has found them already.

        Returns:
            The embeddings, `(batch, length, text_width)`; and a dict of modalities to masks of their placeholders,
            bool, `(batch, length)`.
        """
        if placeholders is None:
            placeholders = self.find_placeholders(input_ids, inputs_embeds, features)
        masks, counts = placeholders.masks, placeholders.counts
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.get_input_embeddings()(self._embeddable_ids(input_ids, masks))
        merged: torch.Tensor = inputs_embeds
        for modality, output in features.items():
            merged = self.merge_features(merged, masks[modality], output.pooler_output, modality, counts[modality])
        return merged, masks

    def run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        features: dict[str, BaseModelOutputWithPooling],
        masks: dict[str, torch.Tensor],
        input_ids: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the language model over the finished embeddings. A design overrides this to change how it runs.

        Args:
            inputs_embeds: `(batch, length, text_width)`, visual tokens instead of placeholders.
            features: maps modalities to outputs of `get_<modality>_features`.
            masks: maps modalities to masks of their placeholders, bool, `(batch, length)`.
            input_ids: the prompts as the forward got them, `(batch, length)`.
            prompt_embeds: the embeddings that the forward got instead of ids, before placeholders were replaced.
            cache: keys and values of earlier positions.
            kwargs: further arguments of the language model.
        """
        kwargs[self.cache_argument] = cache
        outputs: BaseModelOutputWithPast = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        return outputs

    def _position_ids(
        self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None, length: int
    ) -> torch.Tensor | None:
        """Positions of the last `length` tokens, if the caller passes none (`generate` passes them).

        Only real tokens are counted, so padding on either side does not shift the positions. This is needed for
        absolute position embeddings and for calls with a cache.
        """
        if position_ids is not None or not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
            return position_ids
        positions = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask.eq(0), 1)
        return positions[:, -length:]


class VideoLlmForConditionalGeneration(LanguageHeadMixin, VideoLlmPreTrainedModel, MediaGenerationMixin):
    """The base model with a language-model head."""

    model_class: ClassVar[type[VideoLlmModel]]
    # Tensor parallelism: each device holds some rows of the head's weight, as transformers does for the embedding, to
    # which the head may be tied.
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VideoLlmConfig) -> None:
        super().__init__(copy.deepcopy(config))
        self.model = type(self).model_class(self.config)
        # Model and base model share one configuration, a copy of the argument.
        self.config = self.model.config
        self.make_head(self.config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See the base model."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_video_features(
        self, pixel_values_videos: torch.Tensor, num_video_frames: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """See the base model."""
        return self.model.get_video_features(pixel_values_videos, num_video_frames, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        num_video_frames: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.LongTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> VideoLlmCausalLMOutputWithPast:
        """Next-token logits, and the loss when `labels` are given.

        Args:
            labels: `(batch, length)`, -100 at positions that do not count for the loss (prompt, placeholders, padding).
            logits_to_keep: compute logits of the last n positions only (0: all), or of the given positions.

        The other arguments are those of the base model.
        """
        options: Any = kwargs
        row_copies = options.pop(ROW_COPIES, 1)
        answer_logits_only = options.pop("answer_logits_only", False)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=forward_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            num_video_frames=num_video_frames,
            input_features=input_features,
            input_features_mask=input_features_mask,
            mm_token_type_ids=mm_token_type_ids,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        options["answer_logits_only"] = answer_logits_only
        return repeat_rows(self.head_outputs(outputs, labels, logits_to_keep, **kwargs), row_copies)


__all__ = [
    "VideoLlmCausalLMOutputWithPast",
    "VideoLlmForConditionalGeneration",
    "VideoLlmModel",
    "VideoLlmModelOutputWithPast",
    "VideoLlmPreTrainedModel",
]
