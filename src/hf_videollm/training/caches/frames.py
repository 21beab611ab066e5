"""The frames of clips as a mapping, for stages that show single frames, and for loops of one's own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ...data.media_cache.cache import MediaCache
from ...models.media_reading import reading_through
from .broken import OnBroken
from .filling import CLIPS_AHEAD, DECODERS, fill
from .signature import cache_signature

__all__ = ["CLIPS_AHEAD", "DECODERS", "FrameCache", "StillFrames", "cache_signature"]


class FrameCache(Mapping[str, torch.Tensor]):
    """Maps the path of a video to its frames `(T, 3, H, W)` uint8: sampled, resized and cropped, not yet normalised.

    The frames come from a `MediaCache`; those that it does not have any more are decoded again. Videos may have
    different numbers of frames.
    """

    def __init__(self, cache: MediaCache, video_processor: Any, paths: Iterable[str]) -> None:
        """Args:
        cache: holds the decoded frames.
        video_processor: samples, resizes and crops.
        paths: the videos.
        """
        self._cache, self._processor = cache, video_processor
        self._paths = dict.fromkeys(paths)

    def __getitem__(self, path: str) -> torch.Tensor:
        return self._read(path)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def times(self, path: str) -> list[float] | None:
        """Seconds of the frames since the start of the file, or `None` if they are not known."""
        metadata = self._read(path)[1]
        return list(metadata.timestamps) if metadata.fps else None

    def _read(self, path: str) -> tuple[torch.Tensor, Any]:
        if path not in self._paths:
            raise KeyError(path)
        with reading_through(self._cache):
            batch = self._processor(
                videos=[path], do_rescale=False, do_normalize=False, return_metadata=True, return_tensors="pt"
            )
        return batch["pixel_values_videos"][0].to(torch.uint8), batch["video_metadata"][0]

    @classmethod
    def build(
        cls,
        paths: Iterable[str],
        video_processor: Any,
        folder: str | os.PathLike[str] | MediaCache,
        progress: bool = True,
        on_broken: OnBroken | None = None,
    ) -> FrameCache:
        """Decode every video that the cache does not hold yet.

        Args:
            paths: video files; repeated names are decoded once.
            video_processor: decodes, samples, resizes and crops.
            folder: a cache, or its folder.
            progress: show a progress bar.
            on_broken: called with path and reason for each file that cannot be decoded; the mapping then lacks it.
                Without it, such a file is an error.

        Raises:
            ValueError: there are no videos, or none of them can be decoded.
            MediaError: a file cannot be decoded, and there is no `on_broken`.
        """
        unique = list(dict.fromkeys(paths))
        if not unique:
            raise ValueError("There are no videos to cache.")
        cache = folder if isinstance(folder, MediaCache) else MediaCache(folder)
        frames = cls(cache, video_processor, unique)
        whole = fill(unique, frames.__getitem__, "Decoding clips", progress, on_broken)
        return cls(cache, video_processor, whole)


class StillFrames(Mapping[str, torch.Tensor]):
    """Maps the path of a video to one random frame `(1, 3, H, W)` uint8, a new one each time: clips become images."""

    def __init__(self, frames: Mapping[str, torch.Tensor], seed: int = 0) -> None:
        """Args:
        frames: maps a path to frames `(T, 3, H, W)`.
        seed: seed of the random choice.
        """
        self._frames = frames
        self._rng = random.Random(seed)

    def draw_from(self, rng: random.Random) -> None:
        """Draw from another source from now on."""
        self._rng = rng

    def __getitem__(self, path: str) -> torch.Tensor:
        frames = self._frames[path]
        chosen = self._rng.randrange(len(frames))
        return frames[chosen : chosen + 1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)
