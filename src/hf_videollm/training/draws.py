"""Random choices for batches that do not depend on when a training began, stopped or resumed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["BatchDraws", "OfEpoch"]


class OfEpoch:
    """Knows the number of the epoch that is trained.

    The number lies in shared memory, so that workers of a data loader that live on see it when it changes.
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return int(self._epoch.item())

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch.fill_(number)


class BatchDraws(OfEpoch):
    """Gives each batch a source of random numbers of its own, made of a seed, the epoch and the ids of its rows.

    A source that went on from batch to batch would begin anew when a training resumes, and in every worker.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._seen: Counter[str] = Counter()
        self._seen_in = 0

    def next(self, rows: Sequence[Mapping[str, Any]]) -> random.Random:
        """The source for a batch. The same rows again in one epoch get another one."""
        epoch = self.epoch
        if epoch != self._seen_in:
            self._seen, self._seen_in = Counter(), epoch
        key = " ".join(str(row.get("id", "")) for row in rows)
        self._seen[key] += 1
        return random.Random(f"{self.seed} {epoch} {self._seen[key]} {key}")
