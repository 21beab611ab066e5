"""`generate` of LinVT: it encodes media once, and then runs the same steps as the image-LLM's own class.

The image-LLM's own `generate` is not used, because in some families it cannot start from embeddings.
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
from .video_llm_shared_prefill import ROW_COPIES

# Names of the inputs of videos, which `embed_prompt` turns into embeddings. Names that end in `_videos` belong to
# them, too.
VIDEO_INPUTS = (
    "num_video_frames",
    "video_frame_times",
    "video_selections",
    "question_input_ids",
    "question_attention_mask",
)


def split_media(inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split inputs into those of videos and the others."""
    videos = {name: value for name, value in inputs.items() if name in VIDEO_INPUTS or name.endswith("_videos")}
    return videos, {name: value for name, value in inputs.items() if name not in videos}


def has_videos(videos: dict[str, Any]) -> bool:
    """Whether the inputs of videos hold frames or selections. A question without these is no video."""
    return any(value is not None for name, value in videos.items() if not name.startswith("question_"))


class LinVTGenerationMixin(VideoLlmGenerationMixin):
    """For the model with a head."""

    refused_options = LINVT

    if TYPE_CHECKING:
        model: Any
        get_input_embeddings: Any

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; takes media as `forward` does. Media are encoded once, before beams repeat the rows.

        To continue from a cache (`past_key_values`), pass the whole conversation with its mask and types, but only the
        media of the new tokens. `image_grid_thw` is the exception: pass the grids of all images.

        Raises:
            ValueError: as in `LinVTModel.embed_prompt`; the cache is not shorter than the conversation; or an option
                would be ignored or give wrong tokens (the message names what to use instead).
        """
        refuse_options(self, self.refused_options, named_arguments((inputs, *args), kwargs))
        if isinstance(kwargs.get("custom_generate"), str):
            # The user's own generation loop runs. It calls this method again, or encodes the media itself.
            return super().generate(inputs, *args, **kwargs)
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            return super().generate(*args, **kwargs)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        num_cached = _cached_length(kwargs)
        if num_cached >= input_ids.shape[1] or attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"There are {input_ids.shape[1]} tokens in input_ids, {attention_mask.shape[1]} in attention_mask and "
                f"{num_cached} in past_key_values: pass the whole conversation and its mask, including the tokens that "
                "are in the cache."
            )
        prompt, others = self._prompt_inputs(input_ids, attention_mask, num_cached, kwargs)
        return super().generate(None, *args, input_ids=input_ids, attention_mask=attention_mask, **prompt, **others)

    def _prompt_inputs(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_cached: int, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Embeddings, types and positions of a prompt, and the arguments of `generate` that do not belong to media."""
        videos, others = split_media(arguments)
        images, others = self.model.split_images(others)
        types, token_type_ids = (others.pop(name, None) for name in ("mm_token_type_ids", "token_type_ids"))
        self.model.check_cache(num_cached == 0, has_videos(videos) or images.get("pixel_values") is not None)
        prompt = self.model.embed_prompt(input_ids, types, num_cached, **images, **videos)
        own_types = self.model.token_types(input_ids, types, token_type_ids, videos)
        rule = self.model.image_llm.type_rule
        # The types of a "prefix" family mark the first prompt. Tokens after a cache are not part of that prompt.
        if rule is not None and rule.argument in own_types and (num_cached == 0 or rule.meaning == "media"):
            prompt["prompt_types"] = own_types[rule.argument]
        prompt["position_ids"] = others.pop("position_ids", None)
        if prompt["position_ids"] is None:
            prompt["position_ids"] = self.model.prompt_positions(input_ids, attention_mask, types, images)
        return prompt, others

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        prompt_types: torch.Tensor | None = None,
        deepstack_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. Only the first step gets the token types and the `deepstack_embeds` of the prompt.

        Args:
            prompt_types: `(batch, prompt_length)`, from `LinVTModel.token_types`.
            deepstack_embeds: from `LinVTModel.embed_prompt`.
        """
        rule = self.model.image_llm.type_rule
        types = prompt_types if is_first_iteration and rule is not None else None
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{**kwargs, MASK_TYPES: types},
        )
        inputs.pop(MASK_TYPES, None)
        copies = inputs.get(ROW_COPIES, 1)
        if types is not None and rule is not None:
            # The types of all tokens are passed, not only those of new tokens: the masks look up the type of each key.
            inputs[rule.argument] = types[::copies]
        if is_first_iteration and deepstack_embeds is not None:
            inputs["deepstack_embeds"] = deepstack_embeds[::copies, -inputs["inputs_embeds"].shape[1] :]
        return inputs

    def create_masks_for_generate(self, config: LinVTConfig, **kwargs: Any) -> Any:
        """Masks for a static cache, made by the function that the image-LLM's own class with a head uses."""
        head = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config.backbone_config), None)
        create = getattr(head, "create_masks_for_generate", create_masks_for_generate)
        rule, types = TYPE_RULES.get(config.backbone_config.model_type), kwargs.pop(MASK_TYPES, None)
        if rule is not None and types is not None:
            # There are types for new tokens only, but the masks need them for all keys. The padding gives each cached
            # token a type that keeps it out of the blocks of new tokens, which attend in both directions.
            cached_type = 0 if rule.meaning == "media" else 1
            kwargs[rule.argument] = nn.functional.pad(types, (_cached_length(kwargs), 0), value=cached_type)
        return create(config=config.backbone_config, **kwargs)


def _cached_length(arguments: dict[str, Any]) -> int:
    """How many tokens the cache of a call holds; 0 without a cache."""
    cache = given_cache(arguments)
    return 0 if cache is None else int(cache.get_seq_length())


__all__ = ["VIDEO_INPUTS", "LinVTGenerationMixin", "has_videos", "split_media"]
