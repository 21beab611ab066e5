"""LinVT (Gao et al., 2024) around any image-LLM of transformers.

    frames -> the image-LLM's own tower and projector -> (frames, tokens, width) -> LinVT -> 112 vectors per video
    prompt with these vectors at its video placeholders -> the image-LLM's own language model -> head

Prompts without videos go through the image-LLM as they came: LinVT has no part in them.
"""

import copy
import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_linvt import LinVTConfig
from .linvt_backbones import (
    VisualFeatures,
    check_backbone,
    encode_frames,
    freeze_unused_parts,
    has_spatial_positions,
    text_positions,
)
from .linvt_checkpoint import AdapterRefusalMixin, LinVTCheckpointMixin, hub_options
from .linvt_embedding import LinVTEmbeddingMixin
from .linvt_families import TYPE_RULES
from .linvt_generation import LinVTGenerationMixin, has_videos, split_media
from .linvt_layers import LinVTAggregator, LinVTScoreHead
from .linvt_module import LinVTModule, LinVTSelection, join_selections, mix_deepstack
from .linvt_training import LinVTTrainingMixin
from .media_blank import reach
from .modeling_video_llm import ForwardOptions, VideoLlmPreTrainedModel
from .modeling_xgen_mm import XgenMMModel
from .transformers_compat import CACHE_NAME, cache_argument, cache_of, forward_cache, name_cache
from .video_llm_head import HeadlessMixin, LanguageHeadMixin
from .video_llm_outputs import VideoLlmCausalLMOutputWithPast, VideoLlmModelOutputWithPast, encoder_fields
from .video_llm_quantization import modules_beside
from .video_llm_trust import trust_of


@dataclass
class LinVTVideoFeatures(BaseModelOutputWithPooling):
    """Vectors of videos.

    Args:
        pooler_output: a list with one `(num_tokens, width)` tensor per video.
        deepstack_features: a list with one `(num_tokens, levels, width)` tensor per video, what deeper layers of the
            language model are fed in their places; `None` in families without.
    """

    deepstack_features: list[torch.Tensor] | None = None


@dataclass
class LinVTModelOutputWithPast(VideoLlmModelOutputWithPast):
    """Output of the base model for prompts with videos. For other prompts it returns the output of the image-LLM."""


@dataclass
class LinVTCausalLMOutputWithPast(VideoLlmCausalLMOutputWithPast):
    """Output of the model with a head."""


class LinVTPreTrainedModel(AdapterRefusalMixin, VideoLlmPreTrainedModel):
    """What transformers has to know."""

    config_class = LinVTConfig
    config: LinVTConfig
    # Each has parameters of its own beside those of its layers, and is called whole.
    _no_split_modules: ClassVar[list[str]] = ["LinVTScorer", "LinVTAggregator"]

    @classmethod
    def unquantized_modules(cls, source: str | os.PathLike[str] | None, **kwargs: Any) -> list[str]:
        """As in the base: LinVT, and all that the image-LLM has beside its language model."""
        config: Any = kwargs.get("config")
        if not hasattr(config, "backbone_config"):
            config = cls.config_class.from_pretrained(source, **hub_options(kwargs, "revision", "subfolder"))
        with torch.device("meta"):
            model = LinVTModel(copy.deepcopy(config))
        beside = modules_beside(model.backbone, model.backbone.get_decoder(), "backbone.")
        return [*super().unquantized_modules(source, **kwargs), *beside]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (LinVTScoreHead, LinVTAggregator)):
            module.reset_parameters()


class LinVTModel(HeadlessMixin, LinVTEmbeddingMixin, LinVTTrainingMixin, LinVTPreTrainedModel):
    """An image-LLM without its head, and LinVT."""

    def __init__(self, config: LinVTConfig) -> None:
        # A model writes into its configuration (attention, type, vocab_size), also into that of the image-LLM.
        config = copy.deepcopy(config)
        super().__init__(config)
        if config.backbone_config.model_type == XgenMMModel.config_class.model_type:
            # As remote code, configuration and model are loaded apart, each with a configuration class of its own.
            AutoModel.register(type(config.backbone_config), XgenMMModel, exist_ok=True)
        self.backbone = AutoModel.from_config(config.backbone_config, **trust_of(config.backbone_config))
        # XGen-MM copies the one that it is made of.
        config.backbone_config = self.backbone.config
        check_backbone(self.backbone)
        self.cache_argument = cache_argument(self.backbone)
        self.linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        self.freeze_unused_parameters()
        self.post_init()

    def freeze_unused_parameters(self) -> None:
        """Freeze what no loss can reach; `from_pretrained` makes new parameters, and calls this again."""
        freeze_unused_parts(self.backbone)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def select_videos(
        self,
        num_video_frames: torch.Tensor | list[int],
        video_frame_times: torch.Tensor | None = None,
        **frames: Any,
    ) -> list[LinVTSelection]:
        """Encode videos and keep their best tokens, for as many questions as there will be.

        Args:
            num_video_frames: `(videos,)`, frames of each video.
            video_frame_times: `(videos, max_frames)`, seconds; numbers of frames count if `None`. What stands behind
                the frames of a video does not matter.
            frames: what the image processor gave for all frames, one video after the other, each name with `_videos`
                behind it: `pixel_values_videos`, `image_grid_thw_videos`, ... (`linvt_backbones.frame_inputs`).

        Returns:
            One selection per video, to be passed as `video_selections` instead of the frames.

        Raises:
            ValueError: no frames, or they do not fit the counts.
        """
        counts = torch.as_tensor(num_video_frames).flatten().tolist()
        if frames.get("pixel_values_videos") is None or min(counts, default=0) < 1:
            raise ValueError(
                f"num_video_frames {counts} without frames: pass pixel_values_videos, and at least one frame per video."
            )
        if video_frame_times is not None and (
            len(video_frame_times) != len(counts) or video_frame_times.shape[1] < max(counts)
        ):
            raise ValueError(
                f"video_frame_times of shape {tuple(video_frame_times.shape)} does not fit num_video_frames {counts}: "
                "give one time per frame."
            )
        named = {name: value for name, value in frames.items() if name.endswith("_videos") and value is not None}
        media = {name.removesuffix("_videos"): value for name, value in named.items()}
        features = encode_frames(self.backbone, media, counts, self.config.vision_chunk_size)
        selections: dict[int, LinVTSelection] = {}
        # Together, if their frames have equally many tokens.
        for members in _groups_of([video.shape[1] for video in features.tokens]):
            tokens = pad_sequence([features.tokens[number] for number in members], batch_first=True)
            lengths = torch.tensor([counts[number] for number in members], device=tokens.device)
            mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
            times = (
                None if video_frame_times is None else video_frame_times[members, : tokens.shape[1]].to(tokens.device)
            )
            padded = None if len(members) == 1 else mask
            selection = self.linvt(tokens, padded, frame_times=times, select_only=True)
            for row, number in enumerate(members):
                selections[number] = self._own_selection(selection, row, number, features)
        return [selections[number] for number in range(len(counts))]

    def _own_selection(
        self, selection: LinVTSelection, row: int, number: int, features: VisualFeatures
    ) -> LinVTSelection:
        """A row of a batch without its padding, and with the deeper levels of its tokens."""
        num_frames, per_frame = features.tokens[number].shape[:2]
        own = selection.take(torch.tensor([row], device=selection.mask.device))
        kept = min(num_frames * per_frame, own.mask.shape[1])
        parts: dict[str, Any] = {name: getattr(own, name)[:, :kept] for name in ("tokens", "mask", "indices")}
        if own.score_changes is not None:
            parts["score_changes"] = own.score_changes[:, :kept]
        parts["scores"] = own.scores[:, :num_frames]
        if own.frame_codes is not None:
            parts["frame_codes"] = own.frame_codes[:, :num_frames]
        if features.deepstack is not None and self.config.mix_deepstack:
            parts["deepstack"] = features.deepstack[number].flatten(0, 1)[parts["indices"]]
        return replace(own, **parts)

    @can_return_tuple
    def get_video_features(
        self,
        num_video_frames: torch.Tensor | list[int] | None = None,
        video_selections: list[LinVTSelection] | None = None,
        question_input_ids: torch.Tensor | None = None,
        question_attention_mask: torch.Tensor | None = None,
        **frames: Any,
    ) -> LinVTVideoFeatures:
        """The vectors of videos, for questions on them.

        Args:
            num_video_frames: `(videos,)`, frames of each video; with `frames`, as in `select_videos`.
            video_selections: from `select_videos`, instead of frames.
            question_input_ids: `(videos, length)`, the user's question on each video; none if `None`.
            question_attention_mask: `(videos, length)`, 1 for tokens of the question; all if `None`.

        Raises:
            ValueError: frames and selections, or neither; or not one question per video.
        """
        if (num_video_frames is None) == (video_selections is None):
            raise ValueError("Pass either the frames of videos with num_video_frames, or video_selections.")
        if video_selections is None:
            assert num_video_frames is not None
            video_selections = self.select_videos(num_video_frames, **frames)
        questions = None
        if question_input_ids is not None:
            if len(question_input_ids) != len(video_selections):
                raise ValueError(
                    f"{len(question_input_ids)} questions for {len(video_selections)} videos: pass one each."
                )
            questions = self.get_input_embeddings()(question_input_ids)
        vectors: dict[int, torch.Tensor] = {}
        levels: dict[int, torch.Tensor] = {}
        for members in _groups_of([selection.scores.shape[2] for selection in video_selections]):
            selection = join_selections([video_selections[number] for number in members])
            question, mask = (
                None if value is None else value[members] for value in (questions, question_attention_mask)
            )
            if selection.deepstack is None:
                mixed = self.linvt(text_embeddings=question, text_mask=mask, selection=selection)
            else:
                mixed, linear_map = self.linvt(
                    text_embeddings=question, text_mask=mask, selection=selection, return_map=True
                )
                levels.update(zip(members, mix_deepstack(selection, linear_map), strict=True))
            vectors.update(zip(members, mixed, strict=True))
        order = range(len(video_selections))
        return LinVTVideoFeatures(
            pooler_output=[vectors[number] for number in order],
            deepstack_features=[levels[number] for number in order] if levels else None,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        deepstack_embeds: torch.FloatTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> BaseModelOutputWithPast:
        """Run the image-LLM over prompts; with videos, over what `embed_prompt` makes of them.

        Args:
            input_ids: `(batch, length)`; behind a cache, those that are not in it.
            attention_mask: `(batch, length)`, 1 for real positions; padding may be left or right. Behind a cache, of
                all tokens.
            position_ids: counted by `attention_mask` if `None`.
            deepstack_embeds: from `embed_prompt`, with its `inputs_embeds`.
            cache: another name of `past_key_values`.
            kwargs: media as in `embed_prompt`, and further options of the image-LLM.

        Raises:
            ValueError: as `embed_prompt`; positions that cannot be known; or PaliGemma in training without
                `token_type_ids`.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        deepstack: torch.Tensor | None = deepstack_embeds
        encoded: dict[str, Any] = {}
        videos, others = split_media(kwargs)
        cache = forward_cache(cache, past_key_values)
        num_cached = 0 if cache is None else cache.get_seq_length()
        given_types = others.pop("token_type_ids", None)
        others |= self.token_types(input_ids, mm_token_type_ids, given_types, videos, num_cached)
        has_images = others.get("pixel_values") is not None
        self.check_cache(num_cached, has_videos(videos) or has_images)
        if has_videos(videos) or self._has_rowless_images(input_ids, others.get("pixel_values")):
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("Videos need input_ids, and no inputs_embeds: LinVT finds their places by ids.")
            # What the image-LLM's tower takes has done its part afterwards.
            media = {name: value for name, value in others.items() if self.is_image_input(name)}
            others = {name: value for name, value in others.items() if name not in media}
            inputs = self.embed_prompt(input_ids, mm_token_type_ids, encoded=encoded, **media, **videos)
            deepstack = inputs.pop("deepstack_embeds", None)
            if position_ids is None and num_cached == 0:
                position_ids = self.prompt_positions(input_ids, attention_mask, mm_token_type_ids, media)
        elif input_ids is not None and inputs_embeds is None and num_cached == 0:
            # Outside of training, ids may be any: a lone placeholder is a token, but a whole video's are no accident.
            run = 1 if self.training else self.config.num_video_tokens(1)
            self.refuse_forgotten_media(input_ids, mm_token_type_ids, has_images, run)
        if position_ids is None and num_cached > 0:
            position_ids = self._continued_positions(attention_mask, num_cached, inputs)
        elif position_ids is None and inputs_embeds is not None and has_spatial_positions(self.backbone):
            # Else it would add what it remembers of the prompt before (rope_deltas).
            mask = attention_mask if attention_mask is not None else torch.ones_like(inputs_embeds[..., 0])
            position_ids = text_positions(mask, inputs_embeds.shape[1])
        inputs |= {"attention_mask": attention_mask, "position_ids": position_ids, self.cache_argument: cache}
        if deepstack is None:
            outputs = self.backbone(**inputs, use_cache=use_cache, **others)
        else:
            # The image-LLM's own forward makes these of images alone.
            everywhere = torch.ones(deepstack.shape[:2], dtype=torch.bool, device=deepstack.device)
            outputs = self.backbone.language_model(
                **inputs,
                use_cache=use_cache,
                visual_pos_masks=everywhere,
                deepstack_visual_embeds=[level.flatten(0, 1) for level in deepstack.unbind(2)],
                **others,
            )
        if self.training and torch.is_grad_enabled():
            left_out = self.left_out(has_videos(videos), has_images, outputs.last_hidden_state)
            outputs.last_hidden_state = reach(outputs.last_hidden_state, left_out)
        if not encoded:
            return name_cache(outputs)
        return LinVTModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: cache_of(outputs)},
            **encoder_fields(encoded),
        )


class LinVTForCausalLM(LanguageHeadMixin, LinVTCheckpointMixin, LinVTGenerationMixin, LinVTPreTrainedModel):
    """An image-LLM that watches videos.

    Example:

    ```python
    model = LinVTForCausalLM.from_image_llm("llava-hf/llava-interleave-qwen-0.5b-hf")
    ```"""

    output_class = LinVTCausalLMOutputWithPast
    # As in the other designs: a tied head is the embedding, which the image-LLMs shard.
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LinVTConfig) -> None:
        super().__init__(copy.deepcopy(config))
        self.model = LinVTModel(self.config)
        # One configuration for both, which is a copy of the one that was passed in.
        self.config = config = self.model.config
        # XGen-MM's head is the only one with a bias.
        self.make_head(config.get_text_config(), bias=getattr(config.backbone_config, "lm_head_bias", False))
        self.post_init()

    def select_videos(self, num_video_frames: torch.Tensor | list[int], **frames: Any) -> list[LinVTSelection]:
        """See the base model."""
        return self.model.select_videos(num_video_frames, **frames)

    def get_video_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See the base model."""
        return self.model.get_video_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> LinVTCausalLMOutputWithPast:
        """Next-token logits, and the loss when `labels` are given.

        Args:
            labels: `(batch, length)`, -100 where nothing is to be predicted (prompt, placeholders, padding).
            logits_to_keep: compute logits of the last n positions only (0: all), or of the given positions.

        The other arguments are those of the base model.
        """
        options: Any = kwargs
        items = {name: options[name] for name in ("num_items_in_batch", "shift_labels") if name in options}
        rule = TYPE_RULES.get(self.model.backbone.config.model_type)
        if labels is not None and rule is not None and rule.meaning == "prefix" and has_videos(split_media(kwargs)[0]):
            # From its first token on, an answer and what follows see only what is before them.
            options.setdefault("token_type_ids", (labels != -100).long().cummax(1).values)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=forward_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            use_cache=use_cache,
            **kwargs,
        )
        # The image-LLM decides what follows its head: LLaVA leaves out what its language model would do by itself.
        family = self.model.backbone.config.model_type
        return self.head_outputs(outputs, labels, logits_to_keep, family, **items)


def _groups_of(keys: list[int]) -> list[list[int]]:
    """Numbers of items with equal keys."""
    groups: dict[int, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


__all__ = [
    "LinVTCausalLMOutputWithPast",
    "LinVTForCausalLM",
    "LinVTModel",
    "LinVTModelOutputWithPast",
    "LinVTPreTrainedModel",
    "LinVTVideoFeatures",
]
