"""TRL's `DPOTrainer` with rows that keep their media until the collator reads them."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from ..models.media_dataset_columns import without_decoding

__all__ = ["VideoDPOTrainer"]


class VideoDPOTrainer(DPOTrainer):
    """A `DPOTrainer` whose collator makes the batches from the rows as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave the rows as they are. TRL would tokenise them, which keeps the placeholders and loses the media."""
        return without_decoding(dataset)
