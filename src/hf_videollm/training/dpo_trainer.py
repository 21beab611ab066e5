"""TRL's `DPOTrainer` with rows that keep their media until the collator reads them."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from ..models.media_dataset_columns import without_decoding
from .precision import Float32Mixin, autocast_of, to_float32
from .saving import SavingMixin

__all__ = ["VideoDPOTrainer"]


class VideoDPOTrainer(SavingMixin, Float32Mixin, DPOTrainer):
    """A `DPOTrainer` whose collator makes the batches from the rows as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Args: as in TRL."""
        super().__init__(*args, **kwargs)
        if self.ref_model is not None and autocast_of(vars(self.args)) is None:
            # The reference must compute as the model does, so that both agree before the first step.
            to_float32(self.ref_model, None)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave the rows as they are. TRL would tokenise them, which keeps the placeholders and loses the media."""
        return without_decoding(dataset)
