"""Several processes share one evaluation: which items are whose, by the environment of torchrun and accelerate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

__all__ = ["Ranks"]

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that share the work.

    Attributes:
        rank: number of this process, counted from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, which is the number of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """From `RANK`, `WORLD_SIZE` and `LOCAL_RANK`, which torchrun and accelerate set; one process without them.

        Raises:
            ValueError: they are no numbers, or the rank does not fit the number of processes.
        """
        values = os.environ if environment is None else environment
        numbers = {}
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
            text = values.get(name) or default
            if not text.isdigit():
                raise ValueError(f"The environment says {name}={text}, which is no number: unset it or use torchrun.")
            numbers[name] = int(text)
        if not numbers["RANK"] < numbers["WORLD_SIZE"]:
            raise ValueError(
                f"The environment says RANK={numbers['RANK']} of WORLD_SIZE={numbers['WORLD_SIZE']}: ranks are counted "
                "from 0; unset both for one process."
            )
        return cls(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"])

    def share(self, items: Sequence[T]) -> list[T]:
        """The items of this process: every `world_size`-th one.

        Questions on one video follow each other, so blocks would save some decoding, but benchmarks are often sorted by
        length, and then the last process would get all long videos.

        Example:
            >>> Ranks(rank=1, world_size=3).share("abcdefg")
            ['b', 'e']
        """
        return list(items[self.rank :: self.world_size])

    def device(self, device: str | None) -> str | None:
        """The device of this process: each gets a GPU of its own, unless the user names a device."""
        if device is not None or self.world_size == 1:
            return device
        import torch

        if not torch.cuda.is_available():
            return None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"
