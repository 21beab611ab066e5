"""Makes the inputs of the image-LLM's language model from prompts: embeddings, token types and positions."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import torch_compilable_check

from .linvt_backbones import Backbone, text_positions
from .linvt_generation import has_videos, split_media
from .media_blank import is_spread
from .video_llm_placeholders import MergingMixin, Placeholders


@dataclass
class LinVTVideoFeatures(BaseModelOutputWithPooling):
    """Vectors of videos. `LinVTModel.embed_prompt` also uses this class for vectors of images.

    Args:
        pooler_output: a list with one `(num_tokens, width)` tensor per video.
        deepstack_features: a list with one `(num_tokens, levels, width)` tensor per video. Level i is added to the
            states of the same positions in one of the deeper layers of the language model. `None` in families whose
            tower does not feed deeper layers.
    """

    deepstack_features: list[torch.Tensor] | None = None


class LinVTEmbeddingMixin(MergingMixin):
    """For the model without a head, whose `backbone` is the image-LLM."""

    backbone: Any
    training: bool
    get_video_features: Callable[..., Any]
    refuse_forgotten_media: Callable[..., None]

    @property
    def image_llm(self) -> Backbone:
        """The image-LLM, with the same methods for all families."""
        return Backbone(self.backbone)

    def placeholder_masks(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of the placeholders of images, and of the placeholders of videos: bool, `(batch, length)` each.

        Args:
            input_ids: `(batch, length)`.
            mm_token_type_ids: `(batch, length)`, 2 for videos. If images and videos share one placeholder id and this
                is `None`, all placeholders belong to images.
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
        """Embed prompts, and put the vectors of images and videos at their placeholders.

        Args:
            input_ids: `(batch, length)`.
            mm_token_type_ids: see `placeholder_masks`.
            num_cached: how many tokens, from the first one on, are in the cache. `media` belongs to the later tokens.
            encoded: a dict that this method fills: modality -> output of its encoder.
            media: images as the image-LLM takes them; videos as in `get_video_features`, those of the first row first,
                but with one question per row, `(batch, question_length)`.

        Returns:
            `inputs_embeds`, `(batch, length, width)`, 0 for tokens in the cache. If the tower feeds deeper layers, also
            `deepstack_embeds`, `(batch, length, levels, width)`, 0 for tokens of text.

        Raises:
            ValueError: the placeholders in the prompts do not fit the media.
        """
        videos, images = split_media(media)
        new_ids = input_ids[:, num_cached:]
        types = None if mm_token_type_ids is None else mm_token_type_ids[:, num_cached:]
        image_mask, video_mask = self.placeholder_masks(new_ids, types)
        placeholders = Placeholders.of({"image": image_mask, "video": video_mask})
        per_row = self._videos_per_row(placeholders.counts["video"] or video_mask.sum(-1).tolist())
        self._refuse_missing_media(new_ids, types, images, videos, per_row)
        present = {"image": images.get("pixel_values") is not None, "video": has_videos(videos)}
        masks = {modality: mask for modality, mask in placeholders.masks.items() if present[modality]}
        embeds, videos = self._embed_with_questions(self._embeddable_ids(new_ids, masks), videos)
        features = self._encode_media(images, videos, per_row)
        if features:
            embeds = self.image_llm.embed_indicators(new_ids, embeds)
        for modality, output in features.items():
            counts = placeholders.counts[modality]
            embeds = self.merge_features(embeds, masks[modality], output.pooler_output, modality, counts)
        if encoded is not None:
            encoded.update(features)
        prompt = {"inputs_embeds": embeds}
        if any(output.deepstack_features is not None for output in features.values()):
            prompt["deepstack_embeds"] = self._merge_deepstack(embeds, masks, features)
        if num_cached == 0:
            return prompt
        return {
            name: torch.cat([value.new_zeros(len(value), num_cached, *value.shape[2:]), value], dim=1)
            for name, value in prompt.items()
        }

    def _embed_with_questions(
        self, input_ids: torch.Tensor, videos: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The embeddings of prompts, `(batch, length, width)`; and the inputs of videos.

        If processes hold only shards of the embedding table, they gather it at each call of it, all at once. A batch of
        text has no question, so then prompts and questions are embedded in one call.
        """
        table: Any = self.get_input_embeddings()
        questions = videos.get("question_input_ids")
        if questions is None or not has_videos(videos) or not is_spread(table.weight):
            return table(input_ids), videos
        length = max(input_ids.shape[1], questions.shape[1])
        rows = [pad(ids, (0, length - ids.shape[1])) for ids in (input_ids, questions)]
        embeds, embedded = table(torch.cat(rows)).split([len(input_ids), len(questions)])
        videos = {name: value for name, value in videos.items() if name != "question_input_ids"}
        return (
            embeds[:, : input_ids.shape[1]],
            {**videos, "question_embeddings": embedded[:, : questions.shape[1]]},
        )

    def _encode_media(
        self, images: dict[str, Any], videos: dict[str, Any], per_row: list[int]
    ) -> dict[str, LinVTVideoFeatures]:
        outputs = {}
        if images.get("pixel_values") is not None:
            features = self.image_llm.encode_images(images)
            outputs["image"] = LinVTVideoFeatures(pooler_output=features.tokens, deepstack_features=features.deepstack)
        if has_videos(videos):
            outputs["video"] = self.get_video_features(**self._with_question_each(videos, per_row), return_dict=True)
        return outputs

    def _merge_deepstack(
        self, embeds: torch.Tensor, masks: Mapping[str, torch.Tensor], features: Mapping[str, LinVTVideoFeatures]
    ) -> torch.Tensor:
        """What deeper layers add at each position, `(batch, length, levels, width)`; 0 for tokens of text."""
        levels = None
        for modality, output in features.items():
            if output.deepstack_features is not None:
                vectors = torch.cat(output.deepstack_features).to(embeds)
                if levels is None:
                    levels = embeds.new_zeros(*embeds.shape[:2], *vectors.shape[1:])
                levels = levels.masked_scatter(masks[modality][..., None, None], vectors)
        assert levels is not None
        return levels

    def _embeddable_ids(self, input_ids: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        """As in the base class; in families that add features, all placeholders get the id of the image placeholder."""
        if not self.image_llm.adds_features:
            return super()._embeddable_ids(input_ids, masks)
        for mask in masks.values():
            input_ids = input_ids.masked_fill(mask, self.config.image_token_id)
        return input_ids

    def replace_embeddings(
        self, inputs_embeds: torch.Tensor, mask: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """As in the base class; in families that add features, they are added to the placeholders' embeddings."""
        if self.image_llm.adds_features:
            return inputs_embeds + super().replace_embeddings(torch.zeros_like(inputs_embeds), mask, features)
        return super().replace_embeddings(inputs_embeds, mask, features)

    def check_row_ends(
        self, mask: torch.Tensor, media: Sequence[torch.Tensor], modality: str, counts: list[int] | None = None
    ) -> None:
        """As in the base class, but for videos only: some families return several images as one tensor."""
        if modality == "video":
            super().check_row_ends(mask, media, modality, counts)

    def _refuse_missing_media(
        self,
        input_ids: torch.Tensor,
        types: torch.Tensor | None,
        images: dict[str, Any],
        videos: dict[str, Any],
        per_row: list[int],
    ) -> None:
        """Check that the videos fit their placeholders, and that no media were forgotten.

        Raises:
            ValueError: the message names what differs.
        """
        has_images, num_placed = images.get("pixel_values") is not None, sum(per_row)
        if not has_videos(videos):
            if num_placed:
                raise ValueError(f"The prompts hold placeholders of {num_placed} videos, but no frames came with them.")
            self.refuse_forgotten_media(input_ids, types, has_images)
            return
        lengths = [
            len(videos[name]) for name in ("num_video_frames", "video_selections") if videos.get(name) is not None
        ]
        num_videos = max(lengths, default=0)
        if num_videos != num_placed:
            raise ValueError(
                f"The prompts hold placeholders of {num_placed} videos, but {num_videos} came with them "
                "(num_video_frames or video_selections). A video has "
                f"{self.config.linvt_config.num_output_tokens} placeholders of id {self.config.video_token_id}. If "
                "images have the same id, mm_token_type_ids must be 2 at the placeholders of videos. With a cache, "
                "pass only the new videos."
            )
        if self.training and not has_images:
            torch_compilable_check(
                ~self.placeholder_masks(input_ids, types)[0].any(),
                "The prompts hold image placeholders, but no images came with them (pixel_values).",
            )

    def _with_question_each(self, videos: dict[str, Any], per_row: list[int]) -> dict[str, Any]:
        """The inputs of videos, with one question per video instead of one per row."""
        for name in ("question_input_ids", "question_embeddings", "question_attention_mask"):
            if videos.get(name) is not None:
                if len(videos[name]) != len(per_row):
                    raise ValueError(
                        f"{name} has {len(videos[name])} rows for {len(per_row)} prompts: pass one row for each prompt."
                    )
                repeats = torch.tensor(per_row, device=videos[name].device)
                videos = {**videos, name: videos[name].repeat_interleave(repeats, 0)}
        return videos

    def _videos_per_row(self, counts: list[int]) -> list[int]:
        """How many videos each row holds, computed from its number of placeholders."""
        per_video = self.config.linvt_config.num_output_tokens
        if any(count % per_video for count in counts):
            raise ValueError(
                f"The prompts hold {counts} video placeholders, but a video has {per_video}: make the prompts again "
                "with the processor of this model."
            )
        return [count // per_video for count in counts]

    def must_embed_images(self, input_ids: torch.Tensor | None, pixel_values: Any) -> bool:
        """Whether images need `embed_prompt`, because the image-LLM's embedding table lacks the image placeholder.

        The forward of such an image-LLM would look up the embedding of the placeholder's id and fail.
        """
        if input_ids is None or pixel_values is None:
            return False
        return bool(self.config.image_token_id >= self.get_input_embeddings().num_embeddings)

    def is_image_input(self, name: str) -> bool:
        """Whether an input is one of those that an image processor makes."""
        return self.image_llm.takes_with_images(name)

    def split_images(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs that an image processor makes, and the rest."""
        images = {name: value for name, value in inputs.items() if self.is_image_input(name)}
        return images, {name: value for name, value in inputs.items() if name not in images}

    def token_types(
        self,
        input_ids: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        videos: dict[str, Any] | None = None,
        num_cached: int = 0,
    ) -> dict[str, torch.Tensor]:
        """Token types for the attention masks, under the name of the argument that the image-LLM takes.

        In a batch without videos, types that the caller passed do not change.

        Args:
            input_ids: `(batch, length)`. Without them there are no videos, and the passed types are returned.
            mm_token_type_ids: see `placeholder_masks`.
            token_type_ids: from the image-LLM's own processor, if it makes them.
            videos: inputs of videos, if any.
            num_cached: number of tokens before these, whose keys are in the cache.

        Raises:
            ValueError: PaliGemma is trained on videos without types, so it is unknown where the answer begins.
        """
        passed = {"token_type_ids": token_type_ids, "mm_token_type_ids": mm_token_type_ids}
        rule, is_video = self.image_llm.type_rule, has_videos(videos or {})
        if rule is None or input_ids is None:
            named = {name: value for name, value in passed.items() if value is not None}
            # Every step of generation runs this code, mostly without types. In that case, `signature` is not called,
            # because it is slow.
            accepted = inspect.signature(self.backbone.forward).parameters if named else {}
            return {name: value for name, value in named.items() if name in accepted}
        own_types = passed[rule.argument]
        if not is_video and (own_types is not None or rule.meaning == "prefix" or mm_token_type_ids is None):
            return {} if own_types is None else {rule.argument: own_types}
        if rule.meaning == "prefix" and own_types is None and self.training:
            raise ValueError(
                f"{type(self.backbone).__name__} in training needs token_type_ids (0 for the prompt, 1 for the "
                "answer), or labels: prompt tokens attend in both directions, and must not attend to the answer."
            )
        image_mask, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
        return self.image_llm.token_types(image_mask | video_mask, own_types, num_cached)

    def prompt_positions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None,
        media: dict[str, Any],
    ) -> torch.Tensor:
        """Positions of whole prompts, see `Backbone.prompt_positions`."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        image_mask, _ = self.placeholder_masks(input_ids, mm_token_type_ids)
        return self.image_llm.prompt_positions(input_ids, mask, image_mask, media)

    def missing_positions(
        self, attention_mask: torch.Tensor | None, is_first: bool, num_cached: Any, inputs: dict[str, Any]
    ) -> torch.Tensor | None:
        """The positions for a forward whose caller passed none; `None` if the image-LLM counts them itself.

        Args:
            attention_mask: `(batch, number of all tokens so far)`.
            is_first: no tokens are in the cache.
            num_cached: tokens in the cache, a number or a tensor.
            inputs: `input_ids` or `inputs_embeds` of the new tokens.

        Raises:
            ValueError: the tokens continue a cache, and only the caller can know their positions.
        """
        embeds, is_spatial = inputs.get("inputs_embeds"), self.image_llm.has_spatial_positions
        if is_first:
            if embeds is None or not is_spatial:
                return None
            # The image-LLM would add a shift (rope_deltas) that it stored for the previous prompt.
            mask = attention_mask if attention_mask is not None else torch.ones_like(embeds[..., 0])
            return text_positions(mask, embeds.shape[1])
        if is_spatial:
            raise ValueError(
                f"{type(self.backbone).__name__} cannot know the positions of tokens after a cache, because an image "
                "takes fewer positions than tokens: pass position_ids, or pass the whole conversation to generate."
            )
        tokens, first = next(value for value in inputs.values() if value is not None), self.image_llm.first_position
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            return text_positions(attention_mask, tokens.shape[1], first)
        return (torch.arange(first, first + tokens.shape[1], device=tokens.device) + num_cached).unsqueeze(0)

    def check_cache(self, is_first: bool, has_media: bool) -> None:
        """Refuse new media after cached tokens, in families where the media of a prompt attend to each other.

        Args:
            is_first: no tokens are in the cache.
            has_media: media come with the new tokens.

        Raises:
            ValueError: the message names the class of the image-LLM.
        """
        rule = self.image_llm.type_rule
        if not is_first and has_media and rule is not None and rule.is_one_block:
            raise ValueError(
                f"{type(self.backbone).__name__} lets all images and videos of a prompt attend to each other, so none "
                "can be added after cached tokens: run the whole conversation without past_key_values."
            )


__all__ = ["LinVTEmbeddingMixin", "LinVTVideoFeatures"]
