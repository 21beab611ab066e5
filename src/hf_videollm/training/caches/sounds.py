"""The sounds of files as a mapping, for stages and loops that read them by path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ...data.media_cache.cache import MediaCache
from ...models.errors import NoAudioStream
from ...models.media_reading import read_sound, reading_through
from .broken import OnBroken
from .filling import fill

__all__ = ["AudioCache"]

Waveform = npt.NDArray[np.float32]


class AudioCache(Mapping[str, Waveform | None]):
    """Maps the path of a file to its audio, float32 `(samples,)` from -1 to 1, or to `None` if it has no audio.

    The samples come from a `MediaCache`; those that it does not have any more are decoded again.
    """

    def __init__(self, cache: MediaCache, sampling_rate: int, paths: Iterable[str]) -> None:
        """Args:
        cache: holds the decoded samples.
        sampling_rate: of the waveforms, in Hz.
        paths: the files.
        """
        self._cache, self._rate = cache, sampling_rate
        self._paths = dict.fromkeys(paths)

    def __getitem__(self, path: str) -> Waveform | None:
        if path not in self._paths:
            raise KeyError(path)
        with reading_through(self._cache):
            try:
                sound: Waveform = read_sound(path, sampling_rate=self._rate)
            except NoAudioStream:
                return None
        return sound

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    @classmethod
    def build(
        cls,
        paths: Iterable[str],
        sampling_rate: int,
        folder: str | os.PathLike[str] | MediaCache,
        progress: bool = True,
        on_broken: OnBroken | None = None,
    ) -> AudioCache:
        """Decode the sound of every file that the cache does not hold yet.

        Args:
            paths: files; repeated names are decoded once.
            sampling_rate: sampling rate of the waveforms in Hz.
            folder: a cache, or its folder.
            progress: show a progress bar.
            on_broken: called with path and reason for each file that cannot be decoded; the mapping then lacks it.
                Without it, such a file is an error.

        Raises:
            ValueError: there are no files, or none of them can be decoded.
            MediaError: a file cannot be decoded, and there is no `on_broken`.
        """
        unique = list(dict.fromkeys(paths))
        if not unique:
            raise ValueError("There are no files whose sound could be cached.")
        cache = folder if isinstance(folder, MediaCache) else MediaCache(folder)
        sounds = cls(cache, sampling_rate, unique)
        whole = fill(unique, sounds.__getitem__, "Decoding sound", progress, on_broken)
        return cls(cache, sampling_rate, whole)
