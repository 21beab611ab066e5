"""Leaves out rows whose media turn out to be broken while they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.bad_media import BadFile, BadMediaLog
from ..data.blocks import blocks_of
from ..models.errors import MediaError, MediaNotFound
from .caches.broken import FAULTS_OF_SETUP

__all__ = ["SkippingCollator"]

logger = logging.getLogger(__name__)
# So many rows behind each other may be broken before the search for a whole one ends.
MOST_TRIES = 100


@dataclass
class SkippingCollator:
    """A collator that puts a later row of the dataset in the place of one that cannot be decoded.

    Which row that is depends on the dataset alone, so all orders stay reproducible, with any number of workers.

    Attributes:
        collator: makes batches.
        rows: the dataset.
        log: what all processes find.
        key: column with the names of the rows.
        stride: distance to the row that takes the place of a broken one. In a mix with `batches`, rows at the distance
            of a group have the same modality.
    """

    collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]
    rows: Any
    log: BadMediaLog
    stride: int = 1
    key: str = "id"
    _broken: set[str] = field(default_factory=set)
    _places: dict[str, int] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Raises:
            TooManyBadMediaError: more than the allowed share of the rows is broken.
            MediaError: there is no whole row among the next ones.
        """
        if not any(row[self.key] in self._broken for row in rows):
            try:
                return self.collator(rows)
            except FAULTS_OF_SETUP:
                raise
            except MediaError:
                # Which row it is, and whether it is one alone, is found out below.
                pass
        return self.collator([self._whole(row) for row in rows])

    def _whole(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row itself or, if it is broken, the next one that is not."""
        place, failure = self._place(row[self.key]), None
        for step in range(MOST_TRIES):
            candidate = row if step == 0 else self.rows[(place + step * self.stride) % len(self.rows)]
            if candidate[self.key] in self._broken:
                continue
            try:
                self.collator([candidate])
            except FAULTS_OF_SETUP:
                raise
            except MediaError as error:
                failure = error
                self._note(candidate, error)
            else:
                return candidate
        raise failure or MediaError(f"{row['id']}: it is broken, and so are the {MOST_TRIES - 1} rows behind it.")

    def _place(self, name: str) -> int:
        if not self._places:
            # Of rows that are repeated, the first one counts.
            self._places = {found: place for place, found in reversed(list(enumerate(self.rows[self.key][:])))}
        return self._places.get(name, 0)

    def _note(self, row: Mapping[str, Any], error: MediaError) -> None:
        self._broken.add(row[self.key])
        paths = [str(block["path"]) for block in blocks_of(row.get("messages")) if block.get("path")]
        paths = paths or [str(error).partition(": ")[0]]
        path = next((path for path in paths if path in str(error)), paths[0] if paths else "")
        logger.warning("%s is left out: %s", row[self.key], error)
        self.log.add(BadFile(row[self.key], path, "missing" if isinstance(error, MediaNotFound) else str(error)))
