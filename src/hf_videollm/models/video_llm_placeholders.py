"""Placeholders of media in prompts: how they are found, and how the vectors of the media replace them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.utils import torch_compilable_check


def check_tensor(condition: torch.Tensor, message: str | Callable[[], str]) -> None:
    """Raise `ValueError` with the message if the condition, one bool in a tensor, is false.

    In a compiled graph it is a `RuntimeError` without this message. There, transformers' `torch_compilable_check` would
    turn the condition into a Python number, and the Inductor of torch 2.14 cannot compile a graph with several of them
    ("BooleanAtom not allowed in this context").
    """
    if torch.compiler.is_compiling():
        torch._assert_async(condition, "A check of the inputs failed: call the model without torch.compile.")
    else:
        torch_compilable_check(condition, message)


@dataclass(frozen=True)
class Placeholders:
    """Where the placeholders of a batch are. It is made before the media are encoded: to count placeholders, Python
    waits for the device, and between the vision tower and the language model that would cost time.

    Attributes:
        masks: maps each modality in the batch to the mask of its placeholders, bool, `(batch, length)`.
        counts: maps each modality to the number of placeholders in each row; `None` where it is not known
            (`torch.compile`, the meta device).
    """

    masks: dict[str, torch.Tensor]
    counts: dict[str, list[int] | None]

    @classmethod
    def of(cls, masks: dict[str, torch.Tensor]) -> "Placeholders":
        """Count the placeholders of these masks."""
        return cls(masks, {modality: count_per_row(mask) for modality, mask in masks.items()})


def count_per_row(mask: torch.Tensor) -> list[int] | None:
    """How many entries of each row are true; `None` where the values of tensors cannot be read."""
    if torch.compiler.is_compiling() or mask.is_meta:
        return None
    counts: list[int] = mask.sum(-1).tolist()
    return counts


class MergingMixin:
    """Puts the vectors of media into the embeddings of prompts. `config` has a `<modality>_token_id` per modality."""

    config: Any
    get_input_embeddings: Callable[[], nn.Module]
    # The end of error messages about prompts and media that do not fit each other: it says what to do.
    placeholder_hint: ClassVar[str] = "Make the prompt with the processor of this checkpoint."

    def merge_features(
        self,
        inputs_embeds: torch.Tensor,
        mask: torch.Tensor,
        media: Sequence[torch.Tensor],
        modality: str,
        counts: list[int] | None = None,
    ) -> torch.Tensor:
        """Put the vectors of the media, one `(num_tokens, width)` tensor each, at the placeholders, in row order.

        Args:
            inputs_embeds: `(batch, length, width)`.
            mask: placeholders, bool, `(batch, length)`.
            media: the vectors of each medium.
            modality: `"image"`, `"video"` or `"audio"`.
            counts: placeholders of each row, if the caller has counted them already.

        Raises:
            ValueError: the numbers of placeholders and vectors differ, in the whole batch or in one row.
        """
        features = torch.cat(list(media))
        counts = count_per_row(mask) if counts is None else counts
        self.check_num_vectors(mask, features, modality, counts)
        self.check_row_ends(mask, media, modality, counts)
        return self.replace_embeddings(inputs_embeds, mask, features)

    def replace_embeddings(
        self, inputs_embeds: torch.Tensor, mask: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Replace the embeddings of the placeholders by the vectors of the media.

        Args:
            inputs_embeds: `(batch, length, width)`.
            mask: placeholders, bool, `(batch, length)`.
            features: `(num_placeholders, width)`, in row order.
        """
        return inputs_embeds.masked_scatter(mask.unsqueeze(-1), features.to(inputs_embeds))

    def check_num_vectors(
        self, mask: torch.Tensor, features: torch.Tensor, modality: str, counts: list[int] | None = None
    ) -> None:
        """Check that there is one vector for each placeholder; arguments as in `merge_features`.

        Raises:
            ValueError: there are more or fewer placeholders than vectors.
        """
        num_placeholders = mask.sum() if counts is None else sum(counts)
        torch_compilable_check(
            num_placeholders == features.shape[0],
            lambda: (
                f"The prompt holds {int(num_placeholders)} {modality} placeholders (token id "
                f"{getattr(self.config, f'{modality}_token_id')}), but the {modality}s give {features.shape[0]} "
                f"vectors. {self.placeholder_hint}"
            ),
        )

    def check_row_ends(
        self, mask: torch.Tensor, media: Sequence[torch.Tensor], modality: str, counts: list[int] | None = None
    ) -> None:
        """Check that no medium is split between two rows: the last placeholder of a row must complete a medium.

        Raises:
            ValueError: a medium would be split between two rows.
        """
        ends = [0, *accumulate(len(vectors) for vectors in media)]
        fits: Any
        if counts is None:
            row_ends = mask.sum(-1).cumsum(0)
            fits = torch.isin(row_ends, torch.tensor(ends, device=row_ends.device)).all()
        else:
            fits = set(accumulate(counts)) <= set(ends)
        torch_compilable_check(
            fits,
            lambda: (
                f"The rows hold {mask.sum(-1).tolist()} {modality} placeholders, but the {modality}s give "
                f"{[len(vectors) for vectors in media]} vectors, which do not fill them row by row. "
                f"{self.placeholder_hint}"
            ),
        )

    def _embeddable_ids(self, input_ids: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        """Replace the ids of placeholders by 0, because the embedding table may have no row for them.

        The vectors at these positions are overwritten later, so any valid id is right.
        """
        for mask in masks.values():
            input_ids = input_ids.masked_fill(mask, 0)
        return input_ids


class PlaceholderMixin(MergingMixin):
    """Finds placeholders by their ids, or by their embeddings."""

    training: bool

    def find_placeholders(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, present: Collection[str]
    ) -> Placeholders:
        """The placeholders of the modalities that the batch has media of.

        Args:
            input_ids: the prompts, `(batch, length)`.
            inputs_embeds: the prompts as embeddings, instead of `input_ids`.
            present: the modalities.

        Raises:
            ValueError: in training, the prompts hold placeholders of other modalities.
        """
        masks = {
            modality: self.get_placeholder_mask(input_ids, inputs_embeds, modality, present) for modality in present
        }
        if self.training and input_ids is not None:
            self.refuse_forgotten_media(input_ids, masks)
        return Placeholders.of(masks)

    def get_placeholder_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        modality: str,
        present: Collection[str] | None = None,
    ) -> torch.Tensor:
        """Mask of the placeholders of `modality` in the prompts: bool, `(batch, length)`.

        If the prompts are embeddings instead of ids, a position is a placeholder if its vector is equal to the
        placeholder's embedding.

        Args:
            input_ids: `(batch, length)`; `None` if the prompts are embeddings.
            inputs_embeds: `(batch, length, width)`; only used without `input_ids`.
            modality: `"image"`, `"video"` or `"audio"`.
            present: the modalities whose media are in this batch; `None` if unknown. Some designs use it.
        """
        token_id = getattr(self.config, f"{modality}_token_id")
        if input_ids is not None:
            return input_ids == token_id
        assert inputs_embeds is not None
        embedding = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(-1)

    def refuse_forgotten_media(self, input_ids: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None) -> None:
        """Refuse prompts with placeholders for which the batch has no media.

        Without this check, the model would answer, or be trained, without seeing the videos.

        Args:
            input_ids: `(batch, length)`.
            masks: maps each modality in the batch to the mask of its placeholders, bool, `(batch, length)`.

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
            "Pass everything that the processor returns (pixel_values, pixel_values_videos, input_features, ...); to "
            "train with TRL, make the trainer by hf_videollm.make_trainer, make_dpo_trainer or make_grpo_trainer.",
        )


__all__ = ["MergingMixin", "PlaceholderMixin", "Placeholders", "check_tensor", "count_per_row"]
