"""The rows of a mix with `batches`: in each epoch in another order, in which every batch keeps its ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..data.mix_plan import PreparedMix
from .draws import OfEpoch

__all__ = ["EpochOrder"]


class EpochOrder(OfEpoch):
    """Puts the rows of a mix into the order of the epoch that is trained.

    Args:
        prepared: the mix.
        rows: its rows as a `datasets.Dataset` in any order. Those that are not there, because they are broken, are not
            trained on.
    """

    def __init__(self, prepared: PreparedMix, rows: Any) -> None:
        super().__init__()
        self.rows = rows
        # A row that the mix repeats stands in the dataset several times; the first one counts.
        places = {name: place for place, name in reversed(list(enumerate(rows["id"][:])))}
        names = prepared.table["id"][:]
        kept = [number for number in prepared.chosen if names[number] in places]
        self.prepared = replace(prepared, chosen=kept)
        self._place_of = {number: places[names[number]] for number in kept}
        self._known: tuple[int, list[int]] = (-1, [])

    def places(self) -> list[int]:
        """Where the rows of this epoch lie in the dataset, in the order in which they are trained on."""
        epoch = self.epoch
        if self._known[0] != epoch:
            self._known = (epoch, [self._place_of[number] for number in self.prepared.order(epoch)])
        return self._known[1]

    def dataset(self) -> Any:
        """A `datasets.Dataset` whose n-th row is the n-th one of the epoch that is trained."""
        from datasets import Dataset

        return Dataset.from_dict({"number": range(len(self.places()))}).with_transform(self._read)

    def _read(self, batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        places = self.places()
        found: dict[str, list[Any]] = self.rows[[places[number] for number in batch["number"]]]
        return found
