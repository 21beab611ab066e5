"""The prompt of a row runs once, however many beams or return sequences the row has.

`generate` repeats each row before its first step. This mixin takes the copies out of that step: the model reads each
prompt once, and then repeats the keys and values in the cache, and the logits.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from .transformers_compat import CacheNamesGenerationMixin, cache_of, given_cache

# The argument of `forward` that says how often the rows of its outputs are repeated.
ROW_COPIES = "row_copies"


class SharedPrefillMixin(CacheNamesGenerationMixin):
    """A `GenerationMixin` that runs the prompt of each row once."""

    if TYPE_CHECKING:
        config: Any

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """As in transformers; also notes how many copies of each row there are."""
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **({ROW_COPIES: expand_size} if expand_size > 1 else {})}

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        *,
        is_first_iteration: bool | None = False,
        row_copies: int = 1,
        media_once: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. The first step gets each row once if the cache can repeat rows afterwards.

        Args:
            row_copies: how many copies of each row there are, one behind the other.
            media_once: `mm_encoder_outputs` for one copy of each row.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if row_copies == 1 or not is_first_iteration or not can_share(given_cache(kwargs), kwargs):
            return inputs
        once = {name: _each_row_once(name, value, row_copies) for name, value in inputs.items()}
        if media_once is not None:
            once["mm_encoder_outputs"] = media_once
        return {**once, ROW_COPIES: row_copies}


def can_share(cache: Any, options: dict[str, Any]) -> bool:
    """Whether the rows of a cache can be repeated after the first step.

    Args:
        cache: the cache of the call.
        options: other arguments of the step. Hidden states and attention weights would need to be repeated, too.
    """
    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length() > 0:
        return False
    if any(options.get(name) for name in ("output_hidden_states", "output_attentions")):
        return False
    # Layers of other kinds (recurrent ones) may have more states than keys and values.
    return all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers)


def _each_row_once(name: str, value: Any, copies: int) -> Any:
    """A value without the copies of its rows. The rows of spatial positions are in their second dimension."""
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    return value[:, ::copies] if name == "position_ids" and value.ndim == 3 else value[::copies]


def repeat_rows(outputs: Any, copies: int) -> Any:
    """Repeat the rows of logits and cache in the outputs of a model, each row `copies` times."""
    if copies > 1:
        cache_of(outputs).batch_repeat_interleave(copies)
        outputs.logits = outputs.logits.repeat_interleave(copies, dim=0)
    return outputs


__all__ = ["ROW_COPIES", "SharedPrefillMixin", "repeat_rows"]
