"""LinVT (Gao et al., 2024) around any image-LLM of transformers.

    frames -> the image-LLM's own tower and projector -> (frames, tokens, width) -> LinVT -> 112 vectors per video
    prompt with these vectors at its video placeholders -> the image-LLM's own language model -> head

Prompts without videos go through the image-LLM as they came: LinVT has no part in them.
"""

import copy
import inspect
import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_linvt import LinVTConfig
from .linvt_backbones import (
    ADDED_FEATURES,
    TYPE_RULES,
    VisualFeatures,
    check_backbone,
    encode_frames,
    encode_images,
    first_position,
    freeze_unused_parts,
    has_spatial_positions,
    prompt_positions,
    special_embeddings,
    text_positions,
    token_types,
)
from .linvt_checkpoint import AdapterRefusalMixin, LinVTCheckpointMixin, hub_options
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


class LinVTModel(HeadlessMixin, LinVTTrainingMixin, LinVTPreTrainedModel):
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

    def placeholder_masks(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the prompts hold placeholders of images, and of videos: bool, `(batch, length)` each.

        Args:
            mm_token_type_ids: `(batch, length)`, 2 for videos; where one id serves both, all are of images without it.
        """
        images, videos = (input_ids == getattr(self.config, f"{kind}_token_id") for kind in ("image", "video"))
        if self.config.image_token_id == self.config.video_token_id:
            typed = torch.zeros_like(videos) if mm_token_type_ids is None else mm_token_type_ids == 2
            images, videos = images & ~typed, videos & typed
        return images, videos

    def embed_prompt(
        self,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor | None = None,
        num_cached: int = 0,
        encoded: dict[str, Any] | None = None,
        **media: Any,
    ) -> dict[str, torch.Tensor]:
        """What the language model is fed of prompts, all images and videos in their places.

        Args:
            input_ids: `(batch, length)`.
            mm_token_type_ids: see `placeholder_masks`.
            num_cached: of these tokens, how many have been run before; media are those of the others.
            encoded: receives modality -> the output of its encoder.
            media: images as the image-LLM takes them; videos as in `get_video_features`, those of all rows in row
                order, but questions `(batch, question_length)`, one per row.

        Returns:
            `inputs_embeds`, `(batch, length, width)`, 0 for tokens that have been run. Where deeper layers are fed as
            well, `deepstack_embeds`, `(batch, length, levels, width)`, 0 for words.

        Raises:
            ValueError: placeholders and media disagree.
        """
        encoded = {} if encoded is None else encoded
        videos, media = split_media(media)
        new_ids = input_ids[:, num_cached:]
        image_mask, video_mask = (mask[:, num_cached:] for mask in self.placeholder_masks(input_ids, mm_token_type_ids))
        has_images = media.get("pixel_values") is not None
        is_added = self.backbone.config.model_type in ADDED_FEATURES
        # Placeholders need not be in the vocabulary.
        replaced = video_mask | image_mask if has_images else video_mask
        placeholder = self.config.image_token_id or 0
        embeds = self.get_input_embeddings()(new_ids.masked_fill(replaced, placeholder if is_added else 0))
        if has_images or has_videos(videos):
            embeds = special_embeddings(self.backbone, new_ids, embeds)
        filled = []
        if has_images:
            images = encode_images(self.backbone, media)
            filled.append(("image", image_mask, images.tokens, images.deepstack))
            encoded["image"] = BaseModelOutputWithPooling(pooler_output=images.tokens)
        per_row = self._videos_per_row(video_mask)
        if has_videos(videos):
            found = self.get_video_features(**self._per_video(videos, per_row), return_dict=True)
            filled.append(("video", video_mask, found.pooler_output, found.deepstack_features))
            encoded["video"] = found
            if self.training and not has_images:
                torch_compilable_check(
                    ~image_mask.any(),
                    "The prompts hold image placeholders, but no images came with them (pixel_values).",
                )
        elif sum(per_row):
            raise ValueError(f"The prompts hold placeholders of {sum(per_row)} videos, but no frames came with them.")
        else:
            types = None if mm_token_type_ids is None else mm_token_type_ids[:, num_cached:]
            self.refuse_forgotten_media(new_ids, types, has_images)
        levels = None
        for modality, mask, vectors, deeper in filled:
            embeds = self._merge(embeds, mask, torch.cat(vectors), modality, is_added)
            if deeper is not None:
                deep = torch.cat(deeper).to(embeds)
                levels = embeds.new_zeros(*mask.shape, *deep.shape[1:]) if levels is None else levels
                levels = levels.masked_scatter(mask[..., None, None], deep)
        prompt = {"inputs_embeds": embeds} if levels is None else {"inputs_embeds": embeds, "deepstack_embeds": levels}
        if num_cached == 0:
            return prompt
        return {
            name: torch.cat([value.new_zeros(len(value), num_cached, *value.shape[2:]), value], dim=1)
            for name, value in prompt.items()
        }

    def _per_video(self, videos: dict[str, Any], per_row: list[int]) -> dict[str, Any]:
        """Questions on the videos instead of those of the rows; and as many videos as the rows have places for."""
        for name in ("question_input_ids", "question_attention_mask"):
            if videos.get(name) is not None:
                if len(videos[name]) != len(per_row):
                    raise ValueError(f"{name} has {len(videos[name])} rows for {len(per_row)} prompts: one each.")
                repeats = torch.tensor(per_row, device=videos[name].device)
                videos = {**videos, name: videos[name].repeat_interleave(repeats, 0)}
        given = [videos.get(name) for name in ("num_video_frames", "video_selections")]
        num_videos = max((len(value) for value in given if value is not None), default=0)
        if num_videos != sum(per_row):
            raise ValueError(
                f"The prompts hold placeholders of {sum(per_row)} videos, but {num_videos} came with them "
                "(num_video_frames or video_selections). A video takes "
                f"{self.config.linvt_config.num_output_tokens} tokens of id {self.config.video_token_id}, of type "
                "2 in mm_token_type_ids where images have the same id. Behind a cache, pass the new videos alone."
            )
        return videos

    def _videos_per_row(self, mask: torch.Tensor) -> list[int]:
        per_video, counts = self.config.linvt_config.num_output_tokens, mask.sum(1).tolist()
        if any(count % per_video for count in counts):
            raise ValueError(
                f"The rows hold {counts} video placeholders, but a video has {per_video}: make the prompt anew."
            )
        return [count // per_video for count in counts]

    def _merge(
        self, embeds: torch.Tensor, mask: torch.Tensor, vectors: torch.Tensor, modality: str, is_added: bool
    ) -> torch.Tensor:
        torch_compilable_check(
            mask.sum() == len(vectors),
            lambda: (
                f"The prompts hold {int(mask.sum())} {modality} placeholders, but the {modality}s give {len(vectors)} "
                "vectors: make the prompt with the processor of this checkpoint."
            ),
        )
        if is_added:
            return embeds + torch.zeros_like(embeds).masked_scatter(mask.unsqueeze(-1), vectors.to(embeds))
        return embeds.masked_scatter(mask.unsqueeze(-1), vectors.to(embeds))

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

    def _has_rowless_images(self, input_ids: torch.Tensor | None, pixel_values: Any) -> bool:
        """Whether there are images whose placeholder has no row in the embedding, where the image-LLM would read it."""
        if input_ids is None or pixel_values is None:
            return False
        return bool(self.config.image_token_id >= self.get_input_embeddings().num_embeddings)

    def token_types(
        self,
        input_ids: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        videos: dict[str, Any] | None = None,
        num_cached: int = 0,
    ) -> dict[str, torch.Tensor]:
        """Token types that the image-LLM wants, under its own name; those that came, where there are no videos.

        Args:
            input_ids: `(batch, length)`; without them there are no videos, and what came is all that is known.
            mm_token_type_ids: see `placeholder_masks`.
            token_type_ids: as the image-LLM's own processor gives them, if it does.
            videos: inputs of videos, if any.
            num_cached: tokens before these, whose keys are in the cache.

        Raises:
            ValueError: PaliGemma in training on videos, and nothing tells the answer from the prompt.
        """
        given = {"token_type_ids": token_type_ids, "mm_token_type_ids": mm_token_type_ids}
        rule, is_video = TYPE_RULES.get(self.backbone.config.model_type), has_videos(videos or {})
        if rule is None or input_ids is None:
            named = {name: value for name, value in given.items() if value is not None}
            # Not looked up for nothing: steps of a generation come here, and most families have no types.
            accepted = inspect.signature(self.backbone.forward).parameters if named else {}
            return {name: value for name, value in named.items() if name in accepted}
        own = given[rule.argument]
        if not is_video and (own is not None or rule.meaning == "prefix" or mm_token_type_ids is None):
            return {} if own is None else {rule.argument: own}
        if rule.meaning == "prefix" and own is None and self.training:
            raise ValueError(
                f"{type(self.backbone).__name__} in training needs token_type_ids (0 for the prompt, 1 for the "
                "answer), or labels: the prompt sees itself in both directions, and the answer must not be seen."
            )
        image_mask, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
        return token_types(self.backbone, image_mask | video_mask, own, num_cached)

    def prompt_positions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None,
        media: dict[str, Any],
    ) -> torch.Tensor:
        """Positions of whole prompts, see `linvt_backbones.prompt_positions`."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        image_mask, _ = self.placeholder_masks(input_ids, mm_token_type_ids)
        return prompt_positions(self.backbone, input_ids, mask, image_mask, media)

    def check_cache(self, num_cached: int, has_media: bool) -> None:
        """Refuse images and videos behind a cache where earlier ones would have to look at them.

        Raises:
            ValueError: with the class.
        """
        rule = TYPE_RULES.get(self.backbone.config.model_type)
        if num_cached and has_media and rule is not None and rule.is_one_block:
            raise ValueError(
                f"{type(self.backbone).__name__} lets all images and videos of a prompt see each other, so none can be "
                "added behind past_key_values: run the whole conversation without a cache of its beginning."
            )

    def is_image_input(self, name: str) -> bool:
        """Whether an input is one of those that an image processor makes."""
        accepted = inspect.signature(self.backbone.get_image_features).parameters
        return name in accepted or name.startswith(("pixel_", "image_"))

    def _continued_positions(
        self, attention_mask: torch.Tensor | None, num_cached: int, inputs: dict[str, Any]
    ) -> torch.Tensor:
        if has_spatial_positions(self.backbone):
            raise ValueError(
                f"{type(self.backbone).__name__} cannot know the positions behind a cache, as images take fewer than "
                "they have tokens: pass position_ids, or the whole conversation to generate."
            )
        tokens, first = next(value for value in inputs.values() if value is not None), first_position(self.backbone)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            return text_positions(attention_mask, tokens.shape[1], first)
        start = num_cached + first
        return torch.arange(start, start + tokens.shape[1], device=tokens.device).unsqueeze(0)


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
