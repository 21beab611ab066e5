"""`generate` of all designs: it refuses options that would not work, and repeats media together with their prompts."""

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_video_llm import context_length
from .transformers_compat import given_cache
from .video_llm_candidates import forbid_placeholders
from .video_llm_generation_options import COMMON, Refusal, named_arguments, option_value, refuse_options
from .video_llm_shared_prefill import ROW_COPIES, SharedPrefillMixin

# The argument in which `_assisted_decoding` says how many tokens of the prompt stand in a kept cache.
NUM_CACHED = "num_cached_of_prompt"


class VideoLlmGenerationMixin(SharedPrefillMixin):
    """`generate` that refuses options that a design does not support; docs/generation.md lists every option."""

    refused_options: ClassVar[dict[str, Refusal]] = COMMON

    if TYPE_CHECKING:
        config: Any

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: an option would be ignored or give wrong tokens; the message says what to use instead.
        """
        arguments = named_arguments(args, kwargs)
        refuse_options(self, self.refused_options, arguments)
        self._refuse_long_prompts(arguments)
        self._refuse_blind_assistants(arguments)
        return super().generate(**arguments)

    def _refuse_long_prompts(self, arguments: Mapping[str, Any]) -> None:
        """Refuse prompts with more media than the language model can read, before the media are encoded.

        Raises:
            ValueError: the message names the numbers of tokens.
        """
        input_ids = arguments.get("input_ids", arguments.get("inputs"))
        context = context_length(self.config)
        if context is None or not isinstance(input_ids, torch.Tensor) or input_ids.shape[-1] <= context:
            return
        if all(arguments.get(name) is None for name in ("pixel_values", "pixel_values_videos", "input_features")):
            return
        num_media = int(self._are_media(input_ids).sum(-1).max())
        raise ValueError(
            f"The prompt has {input_ids.shape[-1]:,} tokens, {num_media:,} of them for media, and the language model "
            f"reads at most {context:,}: pass a lower num_frames or fps, or a part of the video (start, end)."
        )

    def _are_media(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where placeholders of media stand, as `input_ids`."""
        ids = [number for number in self.config.placeholder_ids().values() if number is not None]
        return torch.isin(input_ids, torch.tensor(ids, device=input_ids.device))

    def _refuse_blind_assistants(self, arguments: dict[str, Any]) -> None:
        """Refuse an assistant model behind a kept cache, which holds the media for this model only.

        Raises:
            ValueError: the message says what to use instead.
        """
        cache, input_ids = given_cache(arguments), arguments.get("input_ids", arguments.get("inputs"))
        if arguments.get("assistant_model") is None or cache is None or not cache.get_seq_length():
            return
        if isinstance(input_ids, torch.Tensor) and self._are_media(input_ids).any():
            raise ValueError(
                "assistant_model has to see the media itself, and the kept cache holds them for the model alone: use "
                "prompt_lookup_num_tokens, or pass the whole prompt with its media and without a cache."
            )

    def _assisted_decoding(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which would run the whole prompt again behind the keys and values of a kept cache."""
        cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
        # transformers leaves out a mask without padding, and notes its length here.
        config = kwargs.get("generation_config")
        length = getattr(config, "_mask_length", None) if mask is None else mask.shape[1]
        num_cached = 0 if cache is None else int(cache.get_seq_length())
        if num_cached and length == input_ids.shape[1]:
            kwargs[NUM_CACHED] = num_cached
        return super()._assisted_decoding(input_ids, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        *,
        next_sequence_length: int | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. The first step of assisted decoding leaves out what is in the cache already."""
        # It is no named argument, because users of `generate` could then pass it.
        num_cached = kwargs.pop(NUM_CACHED, 0)
        if num_cached and is_first_iteration:
            next_sequence_length = input_ids.shape[1] - num_cached
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            next_sequence_length=next_sequence_length,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but candidates of assisted decoding hold no placeholders."""
        generator = super()._get_candidate_generator(*args, **kwargs)
        return forbid_placeholders(generator, self.config.placeholder_ids().values())

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse continuous batching: it passes only token ids to the model, and no media.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"Continuous batching takes only token ids, so {type(self).__name__} would never see its videos: pass a "
            "padded batch to generate."
        )

    # Other methods that start continuous batching.
    init_continuous_batching = generate_batch
    continuous_batching_context_manager = generate_batch


class MediaGenerationMixin(VideoLlmGenerationMixin):
    """`generate` with media, for models with a head whose base model is a `VideoLlmModel`."""

    if TYPE_CHECKING:
        model: Any

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with media as in `forward`.

        Raises:
            ValueError: an option would be ignored or give wrong tokens; the message says what to use instead.
        """
        arguments = named_arguments(args, kwargs)
        if option_value(self, "prefill_chunk_size", arguments) is not None:
            arguments = self._embed_for_chunks(arguments)
        return super().generate(**arguments)

    @torch.no_grad()
    def _embed_for_chunks(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Replace the media among the arguments by a prompt of embeddings (`prompt_embeds`) that contains them.

        With `prefill_chunk_size`, transformers cuts the prompt into chunks, and would pass all media with each chunk.
        """
        input_ids = arguments.get("input_ids", arguments.get("inputs"))
        if input_ids is None or "prefill_chunk_size" in self.refused_options:
            return arguments
        media, others = self.model.encode_media(arguments)
        if media:
            others["prompt_embeds"], _ = self.model.embed_prompt(input_ids, None, media)
        return others

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers.

        Args:
            prompt_embeds: `(batch, prompt_length, text_width)`, embeddings of the prompt and its media, made by
                `_embed_for_chunks`. Each call uses the part that belongs to its chunk.
        """
        if prompt_embeds is not None:
            kwargs.pop(ROW_COPIES, None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if prompt_embeds is not None:
            start = int(given_cache(kwargs).get_seq_length())
            if start < prompt_embeds.shape[1]:
                length = inputs.pop("input_ids").shape[1]
                inputs["inputs_embeds"] = prompt_embeds[:, start : start + length]
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """Repeat each row for beam search and several return sequences; the media of a row are encoded only once.

        transformers would repeat the videos one by one: a b becomes a a b b. For a row with the videos a and b that is
        wrong, because its copies need a b a b. So this method repeats the encoded media row by row.
        """
        carriers = ("pixel_values", "pixel_values_videos", "input_features", "prompt_embeds")
        sources = [given_cache(model_kwargs), *(model_kwargs.get(name) for name in carriers)]
        sources.append(model_kwargs.get("mm_encoder_outputs") or None)  # transformers passes an empty dict
        if input_ids is not None and all(source is None for source in sources):
            self.model.refuse_forgotten_media(input_ids)
        if expand_size == 1:
            return input_ids, model_kwargs
        media, model_kwargs = self.model.encode_media(model_kwargs)
        inputs_embeds = model_kwargs.get("inputs_embeds")
        # If the prompt consists of embeddings, `generate` also passes ids of length 0, which must not be used.
        prompt_ids = input_ids if inputs_embeds is None else None
        placeholders = {
            modality: self.model.get_placeholder_mask(prompt_ids, inputs_embeds, modality, media).sum(-1)
            for modality in media
        }
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        model_kwargs["media_once"] = media
        model_kwargs["mm_encoder_outputs"] = {
            modality: repeat_media_per_row(
                output, placeholders[modality].tolist(), expand_size, self.model.placeholder_hint
            )
            for modality, output in media.items()
        }
        return input_ids, model_kwargs


def repeat_media_per_row(
    output: BaseModelOutputWithPooling, placeholders_per_row: list[int], times: int, hint: str = ""
) -> BaseModelOutputWithPooling:
    """Repeat each row's group of media: rows [a b] [c] become [a b] [a b] [c] [c] for `times` = 2.

    Args:
        output: `pooler_output` has one `(num_tokens, width)` tensor per medium, in row order. An attribute `frames`,
            if the output has one, is a list with one entry per medium.
        placeholders_per_row: number of placeholders of this modality in each row; they tell which media are in the row.
        times: how often each row is repeated.
        hint: end of the error message, which says how to make a prompt that fits.

    Raises:
        ValueError: the numbers of placeholders do not fit the numbers of vectors of the media.
    """
    media = list(output.pooler_output)
    ends = list(accumulate(placeholders_per_row))
    filled = list(accumulate(len(vectors) for vectors in media))
    num_placeholders, num_vectors = sum(placeholders_per_row), sum(len(vectors) for vectors in media)
    if num_placeholders != num_vectors:
        raise ValueError(
            f"The prompts hold {num_placeholders} placeholders, but the media give {num_vectors} vectors. {hint}"
        )
    groups: list[list[int]] = [[] for _ in ends]
    row = 0
    for index, (vectors, end) in enumerate(zip(media, filled, strict=True)):
        while end > ends[row]:
            row += 1
        if end - len(vectors) < ends[row] - placeholders_per_row[row]:
            raise ValueError(
                f"The prompts hold {placeholders_per_row} placeholders, which the media of "
                f"{[len(vectors) for vectors in media]} vectors cannot fill row by row: one medium would be divided "
                f"between two rows. {hint}"
            )
        groups[row].append(index)
    order = [index for group in groups for index in group * times]
    repeated = BaseModelOutputWithPooling(pooler_output=[media[index] for index in order])
    if (frames := getattr(output, "frames", None)) is None:
        return repeated
    # Only outputs of IVA have frames. They are repeated like the visual tokens, because IVA's adapter attends to them.
    return type(output)(pooler_output=repeated.pooler_output, frames=[frames[index] for index in order])


__all__ = ["MediaGenerationMixin", "VideoLlmGenerationMixin", "repeat_media_per_row"]
