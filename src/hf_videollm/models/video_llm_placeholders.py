"""Placeholders of media in prompts: how they are found, and how the vectors of the media replace them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.utils import torch_compilable_check


class MergingMixin:
    """Puts the vectors of media into the embeddings of prompts. `config` names an id `<modality>_token_id` for each."""

    config: Any
    get_input_embeddings: Callable[[], nn.Module]
    # What to do where prompt and media disagree.
    placeholder_hint: ClassVar[str] = "Make the prompt with the processor of this checkpoint."

    def merge_features(
        self, inputs_embeds: torch.Tensor, mask: torch.Tensor, media: Sequence[torch.Tensor], modality: str
    ) -> torch.Tensor:
        """Put the vectors of the media, one `(num_tokens, width)` tensor each, at the placeholders in row order.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are vectors, in all or in one row.
        """
        features = torch.cat(list(media))
        self.check_num_vectors(mask, features, modality)
        self.check_row_ends(mask, media, modality)
        return self.replace_embeddings(inputs_embeds, mask, features)

    def replace_embeddings(
        self, inputs_embeds: torch.Tensor, mask: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """The embeddings, with the vectors of the media instead of those of the placeholders.

        Args:
            inputs_embeds: `(batch, length, width)`.
            mask: placeholders, bool, `(batch, length)`.
            features: `(num_placeholders, width)`, in row order.
        """
        return inputs_embeds.masked_scatter(mask.unsqueeze(-1), features.to(inputs_embeds))

    def check_num_vectors(self, mask: torch.Tensor, features: torch.Tensor, modality: str) -> None:
        """Check that there is one vector for each placeholder; arguments as in `replace_embeddings`.

        Raises:
            ValueError: there are more or fewer placeholders than vectors.
        """
        num_placeholders = mask.sum()
        torch_compilable_check(
            num_placeholders == features.shape[0],
            lambda: (
                f"The prompt holds {int(num_placeholders)} {modality} placeholders (token id "
                f"{getattr(self.config, f'{modality}_token_id')}), but the {modality}s give {features.shape[0]} "
                f"vectors. {self.placeholder_hint}"
            ),
        )

    def check_row_ends(self, mask: torch.Tensor, media: Sequence[torch.Tensor], modality: str) -> None:
        """Check that each row ends where a medium ends; otherwise two prompts would share one.

        Raises:
            ValueError: the placeholders of a row end inside a medium.
        """
        row_ends = mask.sum(-1).cumsum(0)
        media_ends = torch.tensor([0, *accumulate(len(vectors) for vectors in media)], device=row_ends.device)
        torch_compilable_check(
            torch.isin(row_ends, media_ends).all(),
            lambda: (
                f"The rows hold {mask.sum(-1).tolist()} {modality} placeholders, but the {modality}s give "
                f"{[len(vectors) for vectors in media]} vectors, which do not fill them row by row. "
                f"{self.placeholder_hint}"
            ),
        )

    def _embeddable_ids(self, input_ids: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        """Placeholders need no row in the embedding table: their vectors are overwritten, so any valid id will do."""
        for mask in masks.values():
            input_ids = input_ids.masked_fill(mask, 0)
        return input_ids


class PlaceholderMixin(MergingMixin):
    """Finds placeholders by their ids, or by their embeddings."""

    def get_placeholder_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        modality: str,
        present: Collection[str] | None = None,
    ) -> torch.Tensor:
        """Where the prompt holds placeholders of `modality`: bool, `(batch, length)`.

        With embeddings instead of ids, a placeholder is a position that equals the placeholder's embedding.

        Args:
            present: the modalities that this batch has media of; `None` if unknown.
        """
        token_id = getattr(self.config, f"{modality}_token_id")
        if input_ids is not None:
            return input_ids == token_id
        assert inputs_embeds is not None
        embedding = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(-1)

    def refuse_forgotten_media(self, input_ids: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None) -> None:
        """Refuse prompts with placeholders for which the batch has no media.

        Without this check, a model would answer, or be trained, as if there were nothing in the videos.

        Args:
            input_ids: `(batch, length)`.
            masks: modality -> placeholders of the media that the batch has, bool, `(batch, length)`.

        Raises:
            ValueError: the prompts hold placeholders without media.
        """
        masks = masks or {}
        missing = [modality for modality in self.config.modalities if modality not in masks]
        if not missing:
            return
        ids = [getattr(self.config, f"{modality}_token_id") for modality in missing]
        unfilled = torch.isin(input_ids, torch.tensor(ids, device=input_ids.device))
        for mask in masks.values():
            unfilled = unfilled & ~mask
        torch_compilable_check(
            ~unfilled.any(),
            f"The prompts hold {' or '.join(missing)} placeholders, but neither pixels nor sounds came with them. "
            "Pass everything the processor returns (pixel_values, pixel_values_videos, input_features, ...); to train, "
            "use hf_videollm.training.collator.VideoDataCollator, which keeps it.",
        )


__all__ = ["MergingMixin", "PlaceholderMixin"]
