"""LinVT (Gao et al., 2024): lets an image-LLM of transformers watch videos, without a change of its weights.

    frames (T,3,H,W) -> the image-LLM's own tower and projector -> tokens (T,N,D)
    tokens           -> score each, keep the k best (section 3.2.1)            `select_videos`
    kept tokens      -> means over windows at three scales (section 3.2.1)
    means, question  -> queries weigh the means (section 3.2.2) -> (112, D)    `get_video_features`
    prompt with these vectors at its video placeholders -> the image-LLM's own language model -> head

For prompts without videos, only the image-LLM runs. Where to find the steps, in the order of the paper:

    linvt_layers.py     the layers of sections 3.2.1 (score, select, pool) and 3.2.2 (attend, aggregate)
    linvt_module.py     connects these layers
    linvt_selection.py  the selected tokens of a video, which later questions use again
    linvt_embedding.py  puts the vectors into the prompts

Two terms: `image_llm` is the image-LLM behind one interface for all families (`linvt_backbones.py`). `deepstack` are
vectors that some towers (Qwen3-VL) also add in deeper layers of the language model; LinVT mixes them like the tokens.
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
from .linvt_checkpoint import AdapterRefusalMixin, LinVTCheckpointMixin, hub_options
from .linvt_embedding import LinVTVideoFeatures
from .linvt_generation import LinVTGenerationMixin, has_videos, split_media
from .linvt_layers import LinVTAggregator, LinVTScoreHead
from .linvt_module import LinVTModule
from .linvt_selection import LinVTSelection, join_selections, mix_deepstack
from .linvt_training import LinVTTrainingMixin
from .media_blank import reach
from .modeling_video_llm import ForwardOptions, VideoLlmPreTrainedModel
from .modeling_xgen_mm import XgenMMModel
from .transformers_compat import CACHE_NAME, cache_argument, cache_of, forward_cache, is_empty, name_cache
from .video_llm_chunks import chosen_chunk_size, tower_chunk_size
from .video_llm_head import HeadlessMixin, LanguageHeadMixin
from .video_llm_outputs import VideoLlmCausalLMOutputWithPast, VideoLlmModelOutputWithPast, encoder_fields
from .video_llm_quantization import modules_beside
from .video_llm_sharding import decoder_layers
from .video_llm_shared_prefill import ROW_COPIES, repeat_rows
from .video_llm_trust import trust_of


@dataclass
class LinVTModelOutputWithPast(VideoLlmModelOutputWithPast):
    """Output of the base model for prompts with videos. For others, the base model returns the image-LLM's output."""


@dataclass
class LinVTCausalLMOutputWithPast(VideoLlmCausalLMOutputWithPast):
    """Output of the model with a head."""


class LinVTPreTrainedModel(AdapterRefusalMixin, VideoLlmPreTrainedModel):
    """Base of the models of LinVT: class attributes that transformers reads, and the initialisation of weights."""

    config_class = LinVTConfig
    config: LinVTConfig
    new_parts: ClassVar[tuple[str, ...]] = ("linvt",)
    reads_questions: ClassVar[bool] = True
    # The forward of both modules uses parameters that are in no layer, so libraries must not split these modules
    # between devices.
    _no_split_modules: ClassVar[list[str]] = ["LinVTScorer", "LinVTAggregator"]

    @classmethod
    def unquantized_modules(cls, source: str | os.PathLike[str] | None, **kwargs: Any) -> list[str]:
        """As in the base class: LinVT, and all parts of the image-LLM except its language model."""
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
        # Models change their configuration (attention, type, vocab_size) and those of their parts, so they get a copy.
        config = copy.deepcopy(config)
        super().__init__(config)
        if config.backbone_config.model_type == XgenMMModel.config_class.model_type:
            # As remote code, the files of configuration and model are loaded separately, and each load makes its own
            # configuration class. So the class of this configuration is registered here.
            AutoModel.register(type(config.backbone_config), XgenMMModel, exist_ok=True)
        self.backbone = AutoModel.from_config(config.backbone_config, **trust_of(config.backbone_config))
        # XGen-MM copies the configuration that it gets, and changes the copy.
        config.backbone_config = self.backbone.config
        self.image_llm.check()
        self.cache_argument = cache_argument(self.backbone)
        self.linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        self.freeze_unused_parameters()
        self.post_init()

    def freeze_unused_parameters(self) -> None:
        """Freeze the parameters that no loss depends on.

        `from_pretrained` calls this method again, because it replaces the parameters.
        """
        self.image_llm.freeze_unused_parts()

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
        """Encode videos and keep their tokens with the highest scores. The result serves any number of questions.

        Args:
            num_video_frames: `(videos,)`, frames of each video.
            video_frame_times: `(videos, max_frames)`, seconds. If `None`, the number of a frame is its time. Entries
                after the last frame of a video are ignored.
            frames: the outputs of `linvt_frames.frame_inputs`, which appends `_videos` to the names that the image
                processor returns: `pixel_values_videos`, `image_grid_thw_videos`, ...

        Returns:
            One selection per video, to be passed as `video_selections` instead of the frames.

        Raises:
            ValueError: no frames were passed, or they do not fit `num_video_frames`.
        """
        counts = torch.as_tensor(num_video_frames).flatten().tolist()
        _check_frames(frames.get("pixel_values_videos"), counts, video_frame_times)
        named = {name: value for name, value in frames.items() if name.endswith("_videos") and value is not None}
        media = {name.removesuffix("_videos"): value for name, value in named.items()}
        size = chosen_chunk_size(self.config) or tower_chunk_size(
            self.config.tower_config(), media["pixel_values"].shape, self.backbone.dtype, sum(counts)
        )
        tokens, levels = self.image_llm.encode_frames(media, counts, size)
        selections: dict[int, LinVTSelection] = {}
        # Videos whose frames have equally many tokens run as one batch.
        for members in _groups_of([video.shape[1] for video in tokens]):
            times = None if video_frame_times is None else video_frame_times[members]
            selection = self._select_batch([tokens[number] for number in members], times)
            for row, number in enumerate(members):
                video = selection.row(row, *tokens[number].shape[:2])
                if levels is not None and self.config.mix_deepstack:
                    video = replace(video, deepstack=levels[number].flatten(0, 1)[video.indices])
                selections[number] = video
        return [selections[number] for number in range(len(counts))]

    def _select_batch(self, videos: list[torch.Tensor], times: torch.Tensor | None) -> LinVTSelection:
        """The best tokens of videos `(frames, N, hidden_size)` with the same N, padded to the longest video."""
        # A single video, which may be long, is not copied.
        tokens = videos[0].unsqueeze(0) if len(videos) == 1 else pad_sequence(videos, batch_first=True)
        max_frames, device = tokens.shape[1], tokens.device
        lengths = torch.tensor([len(video) for video in videos], device=device)
        mask = None if len(videos) == 1 else torch.arange(max_frames, device=device) < lengths.unsqueeze(1)
        times = None if times is None else times[:, :max_frames].to(device)
        return self.linvt(tokens, mask, frame_times=times, select_only=True)

    @can_return_tuple
    def get_video_features(
        self,
        num_video_frames: torch.Tensor | list[int] | None = None,
        video_selections: list[LinVTSelection] | None = None,
        question_input_ids: torch.Tensor | None = None,
        question_attention_mask: torch.Tensor | None = None,
        question_embeddings: torch.Tensor | None = None,
        **frames: Any,
    ) -> LinVTVideoFeatures:
        """The vectors of videos, each for a question about it.

        Args:
            num_video_frames: `(videos,)`, frames of each video; with `frames`, as in `select_videos`.
            video_selections: from `select_videos`, instead of frames.
            question_input_ids: `(videos, length)`, the user's question on each video; `None` for no question.
            question_attention_mask: `(videos, length)`, 1 for tokens of the question; all if `None`.
            question_embeddings: `(videos, length, hidden_size)`, the questions as the language model embeds them,
                instead of `question_input_ids`.

        Raises:
            ValueError: both frames and selections were passed, or neither; or there is not one question per video.
        """
        if (num_video_frames is None) == (video_selections is None):
            raise ValueError("Pass either the frames of videos with num_video_frames, or video_selections.")
        if video_selections is None:
            assert num_video_frames is not None
            video_selections = self.select_videos(num_video_frames, **frames)
        questions = self._embed_questions(question_input_ids, len(video_selections))
        questions = question_embeddings if questions is None else questions
        vectors: dict[int, torch.Tensor] = {}
        levels: dict[int, torch.Tensor] = {}
        for members in _groups_of([selection.scores.shape[2] for selection in video_selections]):
            selection = join_selections([video_selections[number] for number in members])
            question, mask = (
                None if value is None else value[members] for value in (questions, question_attention_mask)
            )
            options = {"text_embeddings": question, "text_mask": mask, "selection": selection}
            if selection.deepstack is None:
                mixed = self.linvt(**options)
            else:
                mixed, linear_map = self.linvt(**options, return_map=True)
                levels.update(zip(members, mix_deepstack(selection, linear_map), strict=True))
            vectors.update(zip(members, mixed, strict=True))
        order = range(len(video_selections))
        return LinVTVideoFeatures(
            pooler_output=[vectors[number] for number in order],
            deepstack_features=[levels[number] for number in order] if levels else None,
        )

    def _embed_questions(self, input_ids: torch.Tensor | None, num_videos: int) -> torch.Tensor | None:
        """Questions as the language model embeds them: `(videos, length, hidden_size)`."""
        if input_ids is None:
            return None
        if len(input_ids) != num_videos:
            raise ValueError(f"{len(input_ids)} questions for {num_videos} videos: pass one for each video.")
        return self.get_input_embeddings()(input_ids)

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
            input_ids: `(batch, length)`; with a cache, only the tokens that are not in it.
            attention_mask: `(batch, length)`, 1 for tokens and 0 for padding, which may be left or right. With a cache,
                it covers all tokens.
            position_ids: if `None`, computed from `attention_mask`.
            deepstack_embeds: from `embed_prompt`, with its `inputs_embeds`.
            cache: another name of `past_key_values`.
            kwargs: media as in `embed_prompt`, and further options of the image-LLM.

        Raises:
            ValueError: as in `embed_prompt`; the positions cannot be known; or PaliGemma is trained without
                `token_type_ids`.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        deepstack: torch.Tensor | None = deepstack_embeds
        encoded: dict[str, Any] = {}
        videos, others = split_media(kwargs)
        cache = forward_cache(cache, past_key_values)
        num_cached = 0 if cache is None else cache.get_seq_length()
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        is_first = is_empty(cache, 0 if tokens is None else tokens.shape[1])
        own_types = others.pop("token_type_ids", None)
        others |= self.token_types(input_ids, mm_token_type_ids, own_types, videos, num_cached)
        pixel_values = others.get("pixel_values")
        self.check_cache(is_first, has_videos(videos) or pixel_values is not None)
        if has_videos(videos) or self.must_embed_images(input_ids, pixel_values):
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("Videos need input_ids, and no inputs_embeds: LinVT finds their placeholders by ids.")
            media, others = self.split_images(others)
            inputs = self.embed_prompt(input_ids, mm_token_type_ids, encoded=encoded, **media, **videos)
            deepstack = inputs.pop("deepstack_embeds", None)
            if position_ids is None and is_first:
                position_ids = self.prompt_positions(input_ids, attention_mask, mm_token_type_ids, media)
        elif input_ids is not None and inputs_embeds is None and is_first:
            # Training refuses even a single placeholder without its media. Otherwise a few placeholders may be text
            # that the user wrote, so they are refused only if as many stand side by side as a video has.
            run = 1 if self.training else self.config.num_video_tokens(1)
            self.refuse_forgotten_media(input_ids, mm_token_type_ids, pixel_values is not None, run)
        if position_ids is None:
            position_ids = self.missing_positions(attention_mask, is_first, num_cached, inputs)
        inputs |= {"attention_mask": attention_mask, "position_ids": position_ids, self.cache_argument: cache}
        outputs = self.image_llm.run(deepstack, **inputs, use_cache=use_cache, **others)
        if self.training and torch.is_grad_enabled():
            left_out = self.left_out(has_videos(videos), pixel_values is not None, outputs.last_hidden_state)
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
    # Tensor parallelism, as in the other designs: transformers shards the embedding of the image-LLM by rows, and the
    # head, which may be tied to it, likewise.
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LinVTConfig) -> None:
        super().__init__(copy.deepcopy(config))
        self.model = LinVTModel(self.config)
        # One configuration for both, which is a copy of the one that was passed in.
        self.config = config = self.model.config
        # XGen-MM's head is the only one with a bias.
        self.make_head(config.get_text_config(), bias=getattr(config.backbone_config, "lm_head_bias", False))
        self.post_init()

    def layers_to_shard(self) -> list[str]:
        """See the base class."""
        return decoder_layers(self.model.backbone.get_decoder())

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
            logits_to_keep: n, to compute logits of the last n positions only (0: all), or a tensor of positions.

        The other arguments are those of the base model.
        """
        options: Any = kwargs
        row_copies = options.pop(ROW_COPIES, 1)
        items = {name: options[name] for name in ("num_items_in_batch", "shift_labels") if name in options}
        items["answer_logits_only"] = options.pop("answer_logits_only", False)
        image_llm = self.model.image_llm
        if labels is not None and image_llm.splits_prompt_from_answer and has_videos(split_media(kwargs)[0]):
            # The types say where the answer begins. Tokens of the answer attend only to earlier tokens.
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
        # The family of the image-LLM decides whether logits are scaled or bounded after the head. LLaVA does neither,
        # even if its language model alone would.
        return repeat_rows(self.head_outputs(outputs, labels, logits_to_keep, image_llm.family, **items), row_copies)


def _check_frames(pixel_values: Any, counts: list[int], times: torch.Tensor | None) -> None:
    """Check that there are frames, and one time for each.

    Raises:
        ValueError: the message names what is missing.
    """
    if pixel_values is None or min(counts, default=0) < 1:
        raise ValueError(
            f"num_video_frames {counts} without frames: pass pixel_values_videos, and at least one frame per video."
        )
    if times is not None and (len(times) != len(counts) or times.shape[1] < max(counts)):
        raise ValueError(
            f"video_frame_times of shape {tuple(times.shape)} does not fit num_video_frames {counts}: give one time "
            "per frame."
        )


def _groups_of(keys: list[int]) -> list[list[int]]:
    """Group the indices of `keys`: each group holds the indices of equal keys."""
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
