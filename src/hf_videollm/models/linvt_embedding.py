"""Prompts of LinVT as the language model reads them: embeddings, token types and positions."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import torch_compilable_check

from .linvt_backbones import (
    encode_images,
    first_position,
    has_spatial_positions,
    prompt_positions,
    special_embeddings,
    text_positions,
    token_types,
)
from .linvt_families import ADDED_FEATURES, TYPE_RULES
from .linvt_generation import has_videos, split_media


class LinVTEmbeddingMixin:
    """To be put before the model without a head."""

    config: Any
    backbone: Any
    training: bool
    get_input_embeddings: Callable[[], nn.Module]
    get_video_features: Callable[..., Any]
    refuse_forgotten_media: Callable[..., None]

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


__all__ = ["LinVTEmbeddingMixin"]
