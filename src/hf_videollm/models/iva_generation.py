"""`generate` of IVA: it never writes placeholders into answers, and can continue a cache with a second question."""

import copy
from typing import Any, ClassVar

import torch
from transformers import Cache, GenerationConfig

from .transformers_compat import why_not_croppable
from .video_llm_generation import MediaGenerationMixin
from .video_llm_generation_options import IVA, Refusal, option_value
from .video_llm_shared_prefill import ROW_COPIES


class IvaGenerationMixin(MediaGenerationMixin):
    """For a model with a head whose base model is an `IvaModel`."""

    refused_options: ClassVar[dict[str, Refusal]] = IVA

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but the answer never holds a placeholder.

        When the answer becomes part of the next prompt, a placeholder in it would count as a part of a video or image.

        Raises:
            ValueError: an option would be ignored or would give wrong tokens. The message says what to use instead.
        """
        vocab_size = self.config.text_config.vocab_size
        placeholders = {token_id for token_id in self.config.placeholder_ids().values() if token_id is not None}
        # The model can write a placeholder only if the head computes a logit for its id. For most placeholders there is
        # none, because their ids are not below `vocab_size`.
        if writable := {token_id for token_id in placeholders if token_id < vocab_size}:
            arguments = {"generation_config": generation_config, **kwargs}
            suppressed = option_value(self, "suppress_tokens", arguments) or []
            kwargs.pop("suppress_tokens", None)
            # transformers refuses options that come both as arguments and in a generation configuration.
            generation_config = copy.deepcopy(generation_config)
            if generation_config is None:
                kwargs["suppress_tokens"] = sorted(writable | set(suppressed))
            else:
                generation_config.suppress_tokens = sorted(writable | set(suppressed))
        return super().generate(inputs, generation_config, *args, **kwargs)

    # `generate` refuses arguments that neither this method nor the forward names, so `video_state` is named here.
    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        video_state: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. Only the first step gets `video_state`, because this step reads the prompt."""
        if video_state is not None:
            # It already holds the frames for the copies of each row.
            kwargs.pop(ROW_COPIES, None)
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds, prompt_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration and video_state is not None:
            inputs["video_state"] = video_state
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """As in the base class; also finds the rows of the media in `video_state` while the whole prompt is known."""
        video_state = model_kwargs.pop("video_state", None)
        if video_state is not None:
            inputs_embeds = model_kwargs.get("inputs_embeds")
            video_state = self.model.make_video_state(video_state, input_ids, inputs_embeds).repeat(expand_size)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **({} if video_state is None else {"video_state": video_state})}

    def crop_to_queries(self, past_key_values: Cache, input_ids: torch.Tensor) -> int:
        """Cut the end of a conversation's cache off, so that it ends before the query tokens.

        The next prompt then consists of the old prompt without its query tokens, the answer, and the next question with
        query tokens.

        Args:
            past_key_values: a `DynamicCache`, which this method changes. Quantized caches cannot be cut, and static
                caches cannot in some releases. Layers with a sliding window no longer hold the earlier positions, so
                pass a plain `DynamicCache()` to a language model with such layers.
            input_ids: `(batch, length)`, the prompts that the cache was made from.

        Returns:
            The new length of the cache: this many tokens of each next prompt are already in the cache.

        Raises:
            ValueError: a prompt has no query tokens, or they begin at different columns; or the cache cannot be cut.
        """
        queries = input_ids == self.config.query_token_id
        first = set(queries.int().argmax(-1).tolist())
        if not queries.any(-1).all() or len(first) > 1:
            raise ValueError(
                "To cut the cache before the query tokens, each prompt of the batch must hold query tokens, and they "
                "must begin at the same column: pad the prompts on the left."
            )
        length: int = first.pop()
        if surplus := int(past_key_values.get_seq_length()) - length:
            if kinds := why_not_croppable(past_key_values):
                raise ValueError(_uncroppable(kinds))
            try:
                past_key_values.crop(-surplus)
            except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
                raise ValueError(_uncroppable(type(past_key_values).__name__)) from error
        return length


def _uncroppable(kinds: str) -> str:
    return (
        f"A cache of {kinds} cannot be cut so that it ends before the query tokens: pass "
        "past_key_values=DynamicCache() with the first prompt."
    )


__all__ = ["IvaGenerationMixin"]
