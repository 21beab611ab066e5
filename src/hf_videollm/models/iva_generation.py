"""How IVA generates: placeholders are never written, and a cache is cut back to where the next question begins."""

import copy
from typing import Any, ClassVar

import torch
from transformers import Cache, GenerationConfig

from .transformers_compat import why_not_croppable
from .video_llm_generation import MediaGenerationMixin
from .video_llm_generation_options import IVA, Refusal, option_value


class IvaGenerationMixin(MediaGenerationMixin):
    """For a model with head whose base model is an `IvaModel`."""

    refused_options: ClassVar[dict[str, Refusal]] = IVA

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As in transformers. Placeholders of media and query tokens are never written: they would be taken for media.

        Raises:
            ValueError: an option that would be ignored, or give wrong tokens, with what to use instead.
        """
        vocab_size = self.config.text_config.vocab_size
        placeholders = {getattr(self.config, f"{name}_token_id") for name in (*self.config.modalities, "query")}
        # Most placeholders have no row in the head, and need no care.
        if writable := {token_id for token_id in placeholders if token_id < vocab_size}:
            arguments = {"generation_config": generation_config, **kwargs}
            asked = option_value(self, "suppress_tokens", arguments) or []
            kwargs.pop("suppress_tokens", None)
            # transformers wants such options in one of the two places only.
            generation_config = copy.deepcopy(generation_config)
            if generation_config is None:
                kwargs["suppress_tokens"] = sorted(writable | set(asked))
            else:
                generation_config.suppress_tokens = sorted(writable | set(asked))
        return super().generate(inputs, generation_config, *args, **kwargs)

    # The argument is named, because `generate` takes none but those it finds named here or in the forward.
    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        video_state: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; the adapter has no part in the steps behind the prompt."""
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
        """As in the base; here is the whole prompt, and so what tells the rows of `video_state`."""
        video_state = model_kwargs.pop("video_state", None)
        if video_state is not None:
            inputs_embeds = model_kwargs.get("inputs_embeds")
            video_state = self.model.make_video_state(video_state, input_ids, inputs_embeds).repeat(expand_size)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **({} if video_state is None else {"video_state": video_state})}

    def crop_to_queries(self, past_key_values: Cache, input_ids: torch.Tensor) -> int:
        """Cut the cache of a conversation back to before its query tokens, which stand before the next answer instead.

        Args:
            past_key_values: a `DynamicCache`; it is changed. Quantized caches cannot be cut, nor static ones of some
                releases, and layers with a sliding window have forgotten what is needed: give such a language model a
                plain `DynamicCache()`.
            input_ids: `(batch, length)`, the prompts it was made from.

        Returns:
            Positions that are left: the cache goes with the first so many ids of the next prompts, which are these
            without query tokens, the answer, and the next question with query tokens.

        Raises:
            ValueError: there are no query tokens, or they do not stand at the same place in all rows; or the cache
                cannot be cut.
        """
        queries = input_ids == self.config.query_token_id
        first = set(queries.int().argmax(-1).tolist())
        if not queries.any(-1).all() or len(first) > 1:
            raise ValueError(
                "Each prompt of the batch must hold query tokens, and in the same columns (padding on the left), to "
                "cut their cache at one place."
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
        f"A cache of {kinds} cannot be cut back to before the query tokens: pass past_key_values=DynamicCache() with "
        "the first prompt."
    )


__all__ = ["IvaGenerationMixin"]
