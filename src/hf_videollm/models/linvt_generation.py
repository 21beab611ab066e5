"""How LinVT generates: media are encoded once, and every step runs the image-LLM as its own class would.

Generation is never handed to the image-LLM's own class: not all of them go on from embeddings.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.masking_utils import create_masks_for_generate

from .configuration_linvt import LinVTConfig
from .linvt_families import TYPE_RULES
from .transformers_compat import MASK_TYPES, given_cache
from .video_llm_generation import VideoLlmGenerationMixin
from .video_llm_generation_options import LINVT, named_arguments, refuse_options

# Inputs of a prompt that nothing but its embeddings depends on. What ends in `_videos` belongs to the frames.
VIDEO_INPUTS = (
    "num_video_frames",
    "video_frame_times",
    "video_selections",
    "question_input_ids",
    "question_attention_mask",
)


def split_media(inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs to videos, and the rest."""
    videos = {name: value for name, value in inputs.items() if name in VIDEO_INPUTS or name.endswith("_videos")}
    return videos, {name: value for name, value in inputs.items() if name not in videos}


def has_videos(videos: dict[str, Any]) -> bool:
    """Whether there are frames, their counts, or selections."""
    return any(value is not None for name, value in videos.items() if not name.startswith("question_"))


class LinVTGenerationMixin(VideoLlmGenerationMixin):
    """To be put before the model with a head."""

    refused_options = LINVT

    if TYPE_CHECKING:
        model: Any
        get_input_embeddings: Any

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with media as in `forward`: they are encoded once, before rows are repeated for beams.

        To go on behind a cache (`past_key_values`), pass the whole conversation, its mask and types, but the media of
        the new tokens alone; only `image_grid_thw` is of all images.

        Raises:
            ValueError: as `LinVTModel.embed_prompt`; a cache that is not of the beginning of this conversation; or
                an option that would be ignored, or give wrong tokens, with what to use instead.
        """
        refuse_options(self, self.refused_options, named_arguments((inputs, *args), kwargs))
        if isinstance(kwargs.get("custom_generate"), str):
            # A loop from a folder calls `generate` again, or encodes the media itself.
            return super().generate(inputs, *args, **kwargs)
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            return super().generate(*args, **kwargs)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        cache = given_cache(kwargs)
        num_cached = 0 if cache is None else cache.get_seq_length()
        if num_cached >= input_ids.shape[1] or attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"{input_ids.shape[1]} tokens with an attention_mask of {attention_mask.shape[1]}, and {num_cached} in "
                "past_key_values: pass the whole conversation, what is in the cache included."
            )
        videos, others = split_media(kwargs)
        media = {name: others.pop(name) for name in list(others) if self.model.is_image_input(name)}
        types, token_type_ids = (others.pop(name, None) for name in ("mm_token_type_ids", "token_type_ids"))
        self.model.check_cache(num_cached, has_videos(videos) or media.get("pixel_values") is not None)
        prompt = self.model.embed_prompt(input_ids, types, num_cached, **media, **videos)
        own_types = self.model.token_types(input_ids, types, token_type_ids, videos)
        rule = TYPE_RULES.get(self.model.backbone.config.model_type)
        # Behind a cache nothing is of the prompt that sees itself in both directions.
        if rule is not None and rule.argument in own_types and (num_cached == 0 or rule.meaning == "media"):
            prompt["prompt_types"] = own_types[rule.argument]
        prompt["position_ids"] = others.pop("position_ids", None)
        if prompt["position_ids"] is None:
            prompt["position_ids"] = self.model.prompt_positions(input_ids, attention_mask, types, media)
        return super().generate(None, *args, input_ids=input_ids, attention_mask=attention_mask, **prompt, **others)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        prompt_types: torch.Tensor | None = None,
        deepstack_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. What belongs to the prompt alone is given once: behind embeddings there is a cache.

        Args:
            prompt_types: `(batch, prompt_length)`, from `LinVTModel.token_types`.
            deepstack_embeds: from `LinVTModel.embed_prompt`.
        """
        rule = TYPE_RULES.get(self.model.backbone.config.model_type)
        types = prompt_types if is_first_iteration and rule is not None else None
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{**kwargs, MASK_TYPES: types},
        )
        inputs.pop(MASK_TYPES, None)
        if types is not None and rule is not None:
            # Not cut to the new tokens: masks look them up by the place among all keys.
            inputs[rule.argument] = types
        if is_first_iteration and deepstack_embeds is not None:
            inputs["deepstack_embeds"] = deepstack_embeds[:, -inputs["inputs_embeds"].shape[1] :]
        return inputs

    def create_masks_for_generate(self, config: LinVTConfig, **kwargs: Any) -> Any:
        """Masks for a static cache, made as the image-LLM with its own head makes them."""
        head = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config.backbone_config), None)
        create = getattr(head, "create_masks_for_generate", create_masks_for_generate)
        rule, types = TYPE_RULES.get(config.backbone_config.model_type), kwargs.pop(MASK_TYPES, None)
        if rule is not None and types is not None:
            # These are of the new tokens, masks are over all: what is in the cache is in no block with them.
            cache = given_cache(kwargs)
            num_cached = 0 if cache is None else cache.get_seq_length()
            types = nn.functional.pad(types, (int(num_cached), 0), value=0 if rule.meaning == "media" else 1)
            kwargs[rule.argument] = types
        return create(config=config.backbone_config, **kwargs)


__all__ = ["VIDEO_INPUTS", "LinVTGenerationMixin", "has_videos", "split_media"]
