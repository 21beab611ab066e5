"""Finds the query tokens of a batch of prompts, and the frames that the adapter lets each query token attend to.

    prompts                             -> where the query tokens are, bool (batch, length)
    media with their placeholders,      -> features of all frames; for each frame, the row and the column where its
    and the video state                    video or image ends
    both                                -> frames that each query token attends to (`AdapterContext` of `iva_hooks.py`)

The video state holds the frames of media whose visual tokens are in the cache (`IvaVideoState`). A query token attends
to the frames in its row that come before it or that are in the video state.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_iva import IvaConfig
from .configuration_video_llm import patch_grid
from .iva_frames import FrameBank, IvaMediaOutput, IvaVideoState, MediumFrames, media_of_state, place_media
from .iva_hooks import AdapterContext
from .media_blank import must_run
from .transformers_compat import is_empty
from .video_llm_placeholders import PlaceholderMixin, Placeholders, check_tensor


class IvaQueryMixin(PlaceholderMixin):
    """For the base model of IVA: finds its query tokens, and prepares what the hooks on the decoder layers need."""

    config: IvaConfig
    training: bool
    adapter: nn.Module
    query_tokens: nn.Module
    vision_tower: Any
    get_input_embeddings: Callable[[], Any]

    def find_queries(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Where the query tokens are, bool, `(batch, length)`. Prompts are given as ids or as embeddings."""
        if inputs_embeds is not None and self.config.query_token_id >= self.get_input_embeddings().num_embeddings:
            # The query token has no row in the embedding table, so no position can equal its embedding.
            return torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        return self.get_placeholder_mask(input_ids, inputs_embeds, "query")

    def _embeddable_ids(self, input_ids: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        token_id = self.config.query_token_id
        if self.config.num_insertions and token_id >= self.get_input_embeddings().num_embeddings:
            masks = {**masks, "query": input_ids == token_id}
        return super()._embeddable_ids(input_ids, masks)

    def find_placeholders(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, present: Collection[str]
    ) -> Placeholders:
        """As in the base class; also checks the query tokens of prompts with media.

        Raises:
            ValueError: media and query tokens do not fit each other.
        """
        found = super().find_placeholders(input_ids, inputs_embeds, present)
        if found.masks and self.config.num_insertions:
            self._check_queries(self.find_queries(input_ids, inputs_embeds), found.masks)
        return found

    def make_video_state(
        self,
        outputs: Any,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> IvaVideoState:
        """The frames that a further question on a cached prompt needs, and the row that each medium belongs to.

        Args:
            outputs: output of `get_video_features`, or a dict modality -> output of `get_<modality>_features`.
            input_ids: the prompts that hold the placeholders of these media; not needed for a batch of one prompt.
            inputs_embeds: the embeddings of these prompts, instead of `input_ids`.

        Raises:
            ValueError: there are several prompts, and they do not hold the placeholders of the media.
        """
        media = media_of_state(outputs)
        if isinstance(outputs, IvaVideoState):
            return outputs
        device = media[0].global_features.device
        batch_size = len(input_ids) if inputs_embeds is None else len(inputs_embeds)  # type: ignore[arg-type]
        if batch_size == 1:
            return IvaVideoState(media, torch.zeros(len(media), dtype=torch.long, device=device))
        by_modality = {"video": outputs} if isinstance(outputs, IvaMediaOutput) else dict(outputs)
        rows = []
        for modality, output in by_modality.items():
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, modality, by_modality)
            num_tokens = [len(vectors) for vectors in output.pooler_output]
            if int(mask.sum()) != sum(num_tokens):
                raise ValueError(
                    f"The {batch_size} prompts hold {int(mask.sum())} {modality} placeholders, but the {modality}s in "
                    f"video_state have {sum(num_tokens)}: call make_video_state(outputs, input_ids) with the prompts "
                    "that hold these placeholders, and pass its result as video_state."
                )
            rows.append(place_media(mask, num_tokens)[0].to(device))
        return IvaVideoState(media, torch.cat(rows))

    def make_adapter_context(
        self,
        queries: torch.Tensor,
        features: dict[str, BaseModelOutputWithPooling],
        masks: dict[str, torch.Tensor],
        video_state: Any = None,
    ) -> AdapterContext | None:
        """What the hooks need in one call of the language model; `None` if the adapter is not called.

        Args:
            queries: where the query tokens are, bool, `(batch, length)`.
            features: modality -> output of `get_<modality>_features`.
            masks: modality -> where its placeholders are, bool, `(batch, length)`.
            video_state: frames of media whose visual tokens are in the cache.

        Raises:
            ValueError: media and query tokens do not fit each other.
        """
        if not self.config.num_insertions:
            check_tensor(
                ~queries.any(),
                "The prompts hold query tokens, but num_insertions is 0: make them with this model's own processor.",
            )
            return None
        media, rows, columns = self._gather_media(features, masks, video_state, queries)
        if not features:
            # With media, `find_placeholders` has checked the query tokens.
            self._check_queries(queries, masks)
        if not media or (not features and not torch.compiler.is_compiling() and not queries.any()):
            check_tensor(
                ~queries.any(),
                "The prompts hold query tokens, but there is no video or image for them to look at. If it is in the "
                "cache, pass video_state.",
            )
            if not (self.training and torch.is_grad_enabled() and must_run([self.adapter, self.query_tokens])):
                return None
            # In distributed training, other processes may run the adapter and wait for this process to run it, too. So
            # the adapter runs over a blank frame. It has no effect, because the batch has no query tokens.
            media, rows = [self._blank_medium(queries.device)], torch.zeros_like(queries[0, :1], dtype=torch.long)
            columns = rows
        return self._match(queries, FrameBank(media, rows, columns))

    def _gather_media(
        self,
        features: dict[str, BaseModelOutputWithPooling],
        masks: dict[str, torch.Tensor],
        video_state: Any,
        queries: torch.Tensor,
    ) -> tuple[list[MediumFrames], torch.Tensor, torch.Tensor]:
        """The media of `video_state` and those of this call; for each, its row and the column where it ends."""
        media: list[MediumFrames] = []
        rows, columns = [queries.new_zeros(0, dtype=torch.long)], [queries.new_zeros(0, dtype=torch.long)]
        if video_state is not None:
            state = self.make_video_state(video_state, queries)
            media += state.media
            rows.append(state.rows.to(queries.device))
            columns.append(torch.full_like(rows[-1], -1))
        for modality, output in features.items():
            if getattr(output, "frames", None) is None:
                raise ValueError(
                    f"mm_encoder_outputs['{modality}'] lacks the frames that the adapter looks at: pass the output of "
                    f"get_{modality}_features of this model."
                )
            media += output.frames
            row, column = place_media(masks[modality], [len(vectors) for vectors in output.pooler_output])
            rows.append(row)
            columns.append(column)
        return media, torch.cat(rows), torch.cat(columns)

    def _blank_medium(self, device: torch.device) -> MediumFrames:
        """Features of one frame, all 0."""
        width, num_patches = self.config.vision_width, math.prod(patch_grid(self.config.vision_config))
        options = {"dtype": self.vision_tower.dtype, "device": device}
        return MediumFrames(torch.zeros(1, width, **options), [torch.zeros(1, num_patches, width, **options)])

    def _check_queries(self, queries: torch.Tensor, masks: dict[str, torch.Tensor]) -> None:
        """Check that query tokens come in whole blocks, and that each row with media has one."""
        num_queries = self.config.num_query_tokens
        counts = queries.sum(-1)
        check_tensor(
            (counts % num_queries == 0).all(),
            lambda: (
                f"The prompts hold {counts.tolist()} query tokens (token id {self.config.query_token_id}), but query "
                f"tokens come in blocks of {num_queries} (num_query_tokens). {self.placeholder_hint}"
            ),
        )
        for modality, mask in masks.items():

            def message(modality: str = modality, mask: torch.Tensor = mask) -> str:
                rows = (mask.any(-1) & ~queries.any(-1)).nonzero().flatten().tolist()
                return (
                    f"Prompts {rows} hold {modality}s, but no query tokens (token id {self.config.query_token_id}). "
                    f"{self.placeholder_hint}"
                )

            check_tensor((~mask.any(-1) | queries.any(-1)).all(), message)

    def _match(self, queries: torch.Tensor, frames: FrameBank) -> AdapterContext:
        """The columns of the query tokens, and the frames that each of them may attend to."""
        if self.config.query_placement == "last" and torch.compiler.is_compiling():
            # This number does not depend on the prompts, so `torch.compile` does not break the graph here.
            width = self.config.num_query_tokens
            check_tensor(
                (queries.sum(-1) <= width).all(),
                "query_placement is 'last', so a prompt may hold only one block of query tokens.",
            )
        else:
            width = int(queries.sum(-1).max())
        # The columns of the query tokens, in ascending order. In rows with fewer query tokens than others, columns of
        # other tokens fill up the row; `valid` is false for them.
        columns = queries.long().argsort(dim=-1, descending=True, stable=True)[:, :width]
        valid = queries.gather(1, columns)
        rows = torch.arange(len(queries), device=queries.device)
        is_own = frames.rows == rows[:, None, None]
        visible = is_own & (frames.columns < columns.unsqueeze(-1))
        check_tensor(
            (visible.any(-1) | ~valid).all(),
            lambda: (
                f"Prompts {(~visible.any(-1) & valid).any(-1).nonzero().flatten().tolist()} hold query tokens with no "
                "video or image before them. If it is in the cache, pass video_state."
            ),
        )
        return AdapterContext(self.adapter, columns, valid, visible, frames)


def is_decoding_step(inputs_embeds: torch.Tensor, cache: Cache | None) -> bool:
    """Whether a call reads a token of an answer, not a prompt: it has one position, and its cache is not empty."""
    if inputs_embeds.shape[1] != 1 or cache is None:
        return False
    return torch.compiler.is_compiling() or not is_empty(cache, 1)


__all__ = ["IvaQueryMixin", "is_decoding_step"]
