"""LinVT (Gao et al., 2024) around any image-LLM of transformers.

    frames -> the image-LLM's own tower and projector -> (frames, tokens, width) -> LinVT -> 112 vectors per video
    prompt with these vectors at its video placeholders -> the image-LLM's own language model -> head

Prompts without videos go through the image-LLM as they came: LinVT has no part in them.
"""

import inspect
import os
from typing import Any, ClassVar, Self, Unpack

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, Cache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import cached_file, can_return_tuple, torch_compilable_check

from .configuration_linvt import LinVTConfig, LinVTModuleConfig
from .linvt_aggregator import LinVTAggregator
from .linvt_backbones import (
    check_backbone,
    encode_frames,
    encode_images,
    has_spatial_positions,
    prompt_positions,
    text_positions,
)
from .linvt_module import LinVTModule, LinVTSelection
from .linvt_scorer import LinVTScoreHead
from .media_errors import CheckpointError
from .modeling_video_llm import ForwardOptions, VideoLlmPreTrainedModel

# Inputs of a prompt that nothing but its embeddings depends on. What ends in `_videos` belongs to the frames.
VIDEO_INPUTS = ("num_video_frames", "video_selections", "question_input_ids", "question_attention_mask")

ADAPTER_PREFIX = "model.linvt."


class LinVTPreTrainedModel(VideoLlmPreTrainedModel):
    """What transformers has to know."""

    config_class = LinVTConfig
    config: LinVTConfig
    _no_split_modules: ClassVar[list[str]] = ["LinVTModule"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (LinVTScoreHead, LinVTAggregator)):
            module.reset_parameters()


class LinVTModel(LinVTPreTrainedModel):
    """An image-LLM without its head, and LinVT."""

    # A checkpoint with a head loads into the headless model on purpose; any other surplus tensor is an error.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: LinVTConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        check_backbone(self.backbone)
        self.linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def select_videos(self, num_video_frames: torch.Tensor, **frames: Any) -> list[LinVTSelection]:
        """Encode videos and keep their best tokens, for as many questions as there will be.

        Args:
            num_video_frames: `(videos,)`, frames of each video.
            frames: what the image processor gave for all frames, one video after the other, each name with `_videos`
                behind it: `pixel_values_videos`, `image_grid_thw_videos`, ... (`linvt_backbones.frame_inputs`).

        Returns:
            One selection per video, to be passed as `video_selections` instead of the frames.

        Raises:
            ValueError: no frames, or they do not fit the counts.
        """
        counts = num_video_frames.tolist()
        if frames.get("pixel_values_videos") is None or min(counts, default=0) < 1:
            raise ValueError(
                f"num_video_frames {counts} without frames: pass pixel_values_videos, and at least one frame per video."
            )
        media = {name.removesuffix("_videos"): value for name, value in frames.items()}
        return [self.linvt.select(video.unsqueeze(0)) for video in encode_frames(self.backbone, media, counts)]

    @can_return_tuple
    def get_video_features(
        self,
        num_video_frames: torch.Tensor | None = None,
        video_selections: list[LinVTSelection] | None = None,
        question_input_ids: torch.Tensor | None = None,
        question_attention_mask: torch.Tensor | None = None,
        **frames: Any,
    ) -> BaseModelOutputWithPooling:
        """The vectors of videos, for questions on them.

        Args:
            num_video_frames: `(videos,)`, frames of each video; with `frames`, as in `select_videos`.
            video_selections: from `select_videos`, instead of frames.
            question_input_ids: `(videos, length)`, the user's question on each video; none if `None`.
            question_attention_mask: `(videos, length)`, 1 for tokens of the question; all if `None`.

        Returns:
            `pooler_output` is a list with one `(num_tokens, width)` tensor per video.

        Raises:
            ValueError: frames and selections, or neither; or not one question per video.
        """
        if (num_video_frames is None) == (video_selections is None):
            raise ValueError("Pass either the frames of videos with num_video_frames, or video_selections.")
        if video_selections is None:
            assert num_video_frames is not None
            video_selections = self.select_videos(num_video_frames, **frames)
        questions: Any = [None] * len(video_selections)
        if question_input_ids is not None:
            if len(question_input_ids) != len(video_selections):
                raise ValueError(
                    f"{len(question_input_ids)} questions for {len(video_selections)} videos: pass one each."
                )
            questions = self.get_input_embeddings()(question_input_ids).split(1)
        masks: Any = questions if question_attention_mask is None else question_attention_mask.split(1)
        vectors = [
            self.linvt.aggregate(selection, question, None if question_attention_mask is None else mask)[0]
            for selection, question, mask in zip(video_selections, questions, masks, strict=True)
        ]
        return BaseModelOutputWithPooling(pooler_output=vectors)

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
        attention_mask: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        **media: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and positions of whole prompts, all images and videos in their places.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: `(batch, length)`, 1 for real positions; padding may be left or right.
            mm_token_type_ids: see `placeholder_masks`.
            media: images as the image-LLM takes them; videos as in `get_video_features`, those of all rows in row
                order, but questions `(batch, question_length)`, one per row.

        Returns:
            `(batch, length, width)`, and positions as in `linvt_backbones.prompt_positions`.

        Raises:
            ValueError: placeholders and media disagree.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        videos, media = split_media(media)
        image_mask, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
        # The placeholder of videos need not be in the vocabulary.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(video_mask, 0))
        if media.get("pixel_values") is not None:
            embeds = self._merge(embeds, image_mask, torch.cat(encode_images(self.backbone, media)), "image")
        per_row = self._videos_per_row(video_mask)
        if has_videos(videos):
            for name in ("question_input_ids", "question_attention_mask"):
                if videos.get(name) is not None:
                    if len(videos[name]) != len(per_row):
                        raise ValueError(f"{name} has {len(videos[name])} rows for {len(per_row)} prompts: one each.")
                    videos[name] = videos[name].repeat_interleave(torch.tensor(per_row, device=input_ids.device), 0)
            given = [videos.get(name) for name in ("num_video_frames", "video_selections")]
            num_videos = max((len(value) for value in given if value is not None), default=0)
            if num_videos != sum(per_row):
                raise ValueError(
                    f"The prompts hold placeholders of {sum(per_row)} videos, but {num_videos} came with them "
                    "(num_video_frames or video_selections). A video takes "
                    f"{self.config.linvt_config.num_output_tokens} tokens of id {self.config.video_token_id}, of type "
                    "2 in mm_token_type_ids where images have the same id."
                )
            vectors = self.get_video_features(**videos, return_dict=True).pooler_output
            embeds = self._merge(embeds, video_mask, torch.cat(vectors), "video")
        elif sum(per_row):
            raise ValueError(f"The prompts hold placeholders of {sum(per_row)} videos, but no frames came with them.")
        return embeds, prompt_positions(self.backbone, input_ids, attention_mask, image_mask, media)

    def _videos_per_row(self, mask: torch.Tensor) -> list[int]:
        per_video, counts = self.config.linvt_config.num_output_tokens, mask.sum(1).tolist()
        if any(count % per_video for count in counts):
            raise ValueError(
                f"The rows hold {counts} video placeholders, but a video has {per_video}: make the prompt anew."
            )
        return [count // per_video for count in counts]

    def _merge(self, embeds: torch.Tensor, mask: torch.Tensor, vectors: torch.Tensor, modality: str) -> torch.Tensor:
        torch_compilable_check(
            mask.sum() == len(vectors),
            lambda: (
                f"The prompts hold {int(mask.sum())} {modality} placeholders, but the {modality}s give {len(vectors)} "
                "vectors: make the prompt with the processor of this checkpoint."
            ),
        )
        return embeds.masked_scatter(mask.unsqueeze(-1), vectors.to(embeds))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> BaseModelOutputWithPast:
        """Run the image-LLM over prompts; with videos, over what `embed_prompt` makes of them.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: `(batch, length)`, 1 for real positions; padding may be left or right.
            position_ids: counted by `attention_mask` if `None`.
            kwargs: media as in `embed_prompt`, and further options of the image-LLM.

        Raises:
            ValueError: as `embed_prompt`; or positions that cannot be known.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        videos, others = split_media(kwargs)
        if has_videos(videos):
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("Videos need input_ids, and no inputs_embeds: LinVT finds their places by ids.")
            # What the image-LLM's tower takes has done its part afterwards.
            media = {name: value for name, value in others.items() if name in self._image_inputs}
            others = {name: value for name, value in others.items() if name not in media}
            embeds, positions = self.embed_prompt(input_ids, attention_mask, mm_token_type_ids, **media, **videos)
            inputs = {"inputs_embeds": embeds}
            if position_ids is None:
                position_ids = positions
        else:
            if self.training and input_ids is not None:
                _, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
                torch_compilable_check(
                    ~video_mask.any(), "The prompts hold video placeholders, but no frames came with them."
                )
            if (
                mm_token_type_ids is not None
                and "mm_token_type_ids" in inspect.signature(self.backbone.forward).parameters
            ):
                others["mm_token_type_ids"] = mm_token_type_ids
        if position_ids is None and past_key_values is not None and past_key_values.get_seq_length() > 0:
            position_ids = self._continued_positions(attention_mask, past_key_values, inputs)
        elif position_ids is None and inputs_embeds is not None and has_spatial_positions(self.backbone):
            # Else it would add what it remembers of the prompt before (rope_deltas).
            mask = attention_mask if attention_mask is not None else torch.ones_like(inputs_embeds[..., 0])
            position_ids = text_positions(mask, inputs_embeds.shape[1])
        return self.backbone(
            **inputs,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **others,
        )

    @property
    def _image_inputs(self) -> set[str]:
        return set(inspect.signature(self.backbone.get_image_features).parameters)

    def _continued_positions(
        self, attention_mask: torch.Tensor | None, cache: Cache, inputs: dict[str, Any]
    ) -> torch.Tensor:
        if has_spatial_positions(self.backbone):
            raise ValueError(
                f"{type(self.backbone).__name__} cannot know the positions behind a cache: pass position_ids."
            )
        tokens = next(value for value in inputs.values() if value is not None)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            return text_positions(attention_mask, tokens.shape[1])
        start = cache.get_seq_length()
        return torch.arange(start, start + tokens.shape[1], device=tokens.device).unsqueeze(0)

    def generate(self, *args: Any, **kwargs: Any) -> None:
        """The model without a head cannot write text.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no head and cannot generate: load LinVTForCausalLM instead.")


class LinVTForCausalLM(LinVTPreTrainedModel, GenerationMixin):
    """An image-LLM that watches videos.

    Example:

    ```python
    model = LinVTForCausalLM.from_image_llm("llava-hf/llava-interleave-qwen-0.5b-hf")
    ```"""

    def __init__(self, config: LinVTConfig) -> None:
        super().__init__(config)
        self.model = LinVTModel(config)
        text_config = config.get_text_config()
        # XGen-MM's head is the only one with a bias.
        has_bias = getattr(config.backbone_config, "lm_head_bias", False)
        self.lm_head: nn.Module = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=has_bias)
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()

    @classmethod
    def from_image_llm(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        linvt_config: LinVTModuleConfig | dict[str, Any] | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        num_frames: int = 16,
        **kwargs: Any,
    ) -> Self:
        """Put a new, untrained LinVT before a trained image-LLM, all of whose weights stay as they are.

        Args:
            pretrained_model_name_or_path: checkpoint that `AutoModelForImageTextToText` loads.
            linvt_config: the module; that of the paper if `None`.
            image_token_id: see `LinVTConfig`.
            video_token_id: see `LinVTConfig`.
            num_frames: see `LinVTConfig`.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`.

        Raises:
            ValueError: an image-LLM that LinVT cannot stand before, with the reason.
        """
        image_llm = AutoModelForImageTextToText.from_pretrained(pretrained_model_name_or_path, **kwargs)
        base, head = getattr(image_llm, "model", None), image_llm.get_output_embeddings()
        has_bias = getattr(image_llm.config, "lm_head_bias", False)
        if not isinstance(base, nn.Module) or type(head) is not nn.Linear or (head.bias is not None) != has_bias:
            raise ValueError(
                f"{type(image_llm).__name__} is not a base model with a linear head without bias, as LinVT expects."
            )
        check_backbone(base)
        config = LinVTConfig(
            backbone_config=base.config,
            linvt_config=linvt_config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            num_frames=num_frames,
            backbone_name=str(pretrained_model_name_or_path),
            backbone_revision=kwargs.get("revision"),
            tie_word_embeddings=head.weight is image_llm.get_input_embeddings().weight,
            dtype=image_llm.dtype,
        )
        # The weights exist already: on this device they take no room.
        with torch.device("meta"):
            model = cls(config)
        model.model.backbone, model.lm_head = base, head
        linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        linvt.apply(model._init_weights)
        model.model.linvt = linvt.to(device=head.weight.device, dtype=image_llm.dtype)
        model.generation_config = image_llm.generation_config
        return model.eval()

    @classmethod
    def from_adapter(
        cls, adapter: str | os.PathLike[str], image_llm: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load what `save_pretrained(adapter_only=True)` wrote, before the image-LLM that it was trained with.

        Args:
            adapter: folder or Hub id of the adapter.
            image_llm: path or Hub id of the image-LLM, if it is no longer where the adapter says.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`; those of the Hub also find the adapter.

        Raises:
            CheckpointError: the adapter names no image-LLM, or belongs to another one.
        """
        hub = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
        config = LinVTConfig.from_pretrained(adapter, **hub)
        source = image_llm or config.backbone_name
        if source is None:
            raise CheckpointError(f"{adapter} does not say which image-LLM it belongs to: pass image_llm.")
        if image_llm is None and config.backbone_revision is not None:
            kwargs.setdefault("revision", config.backbone_revision)
        tensors = load_file(str(cached_file(adapter, "model.safetensors", **hub)))
        model = cls.from_image_llm(
            source,
            linvt_config=config.linvt_config,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            num_frames=config.num_frames,
            **kwargs,
        )
        try:
            model.model.linvt.load_state_dict(
                {name.removeprefix(ADAPTER_PREFIX): tensor for name, tensor in tensors.items()}
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{adapter} is no LinVT alone, or not for {source}: load whole models with from_pretrained, and "
                "adapters with the image-LLM that they were saved with."
            ) from error
        return model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, adapter_only: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers.

        Args:
            adapter_only: write LinVT alone, for `from_adapter`, and the name of the image-LLM instead of its weights.

        Raises:
            ValueError: the image-LLM was not loaded from anywhere.
        """
        if adapter_only:
            if self.config.backbone_name is None:
                raise ValueError("An adapter needs its image-LLM: set config.backbone_name to its path or Hub id.")
            states = kwargs.get("state_dict") or self.state_dict()
            kwargs["state_dict"] = {name: value for name, value in states.items() if name.startswith(ADAPTER_PREFIX)}
        super().save_pretrained(save_directory, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def select_videos(self, num_video_frames: torch.Tensor, **frames: Any) -> list[LinVTSelection]:
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
        **kwargs: Unpack[ForwardOptions],
    ) -> CausalLMOutputWithPast:
        """Next-token logits, and the loss when `labels` are given.

        Args:
            labels: `(batch, length)`, -100 where nothing is to be predicted (prompt, placeholders, padding).
            logits_to_keep: compute logits of the last n positions only (0: all), or of the given positions.

        The other arguments are those of the base model.
        """
        items = {name: kwargs[name] for name in ("num_items_in_batch",) if name in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            vocab_size = self.config.get_text_config().vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **items)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with media as in `forward`: they are encoded once, before rows are repeated for beams.

        Raises:
            ValueError: as `LinVTModel.embed_prompt`.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            return super().generate(*args, **kwargs)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        videos, others = split_media(kwargs)
        media = {name: others.pop(name) for name in list(others) if name in self.model._image_inputs}
        types = others.pop("mm_token_type_ids", None)
        embeds, positions = self.model.embed_prompt(input_ids, attention_mask, types, **media, **videos)
        prompt = {"inputs_embeds": embeds, "position_ids": positions, **others}
        return super().generate(None, *args, input_ids=input_ids, attention_mask=attention_mask, **prompt)


def split_media(inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs to videos, and the rest."""
    videos = {name: value for name, value in inputs.items() if name in VIDEO_INPUTS or name.endswith("_videos")}
    return videos, {name: value for name, value in inputs.items() if name not in videos}


def has_videos(videos: dict[str, Any]) -> bool:
    """Whether there are frames, their counts, or selections."""
    return any(value is not None for name, value in videos.items() if not name.startswith("question_"))


__all__ = ["LinVTForCausalLM", "LinVTModel", "LinVTPreTrainedModel"]
