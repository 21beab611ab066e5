"""Decoded audio on disk, in the folder of the frames (`frame_cache`), so that training does not decode it again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from ...models.errors import NoAudioStream
from ...models.media_audio import load_audio
from .broken import BrokenFiles, OnBroken
from .frames import CLIPS_AHEAD, DECODERS, cache_signature

__all__ = ["AudioCache"]

Waveform = npt.NDArray[np.float32]


class AudioCache(Mapping[str, Waveform | None]):
    """Maps the path of a file to its audio, float32 `(samples,)` from -1 to 1, or to `None` if it has no audio.

    All audio is in one memory-mapped file, one sound after another. The file may be larger than memory.
    """

    def __init__(self, samples: Waveform, ends: npt.NDArray[np.int64], rows: Mapping[str, int]) -> None:
        """Args:
        samples: `(all samples,)` float32.
        ends: `(files,)`, where each sound ends in `samples`; it begins where the one before it ends.
        rows: maps a path to its index in `ends`.
        """
        self._samples = samples
        self._ends = ends
        self._rows = rows

    def __getitem__(self, path: str) -> Waveform | None:
        row = self._rows[path]
        start = int(self._ends[row - 1]) if row else 0
        # This is a copy, so that batches do not depend on the mapped file.
        sound = np.array(self._samples[start : self._ends[row]])
        return sound if len(sound) else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @classmethod
    def build(
        cls,
        paths: Iterable[str],
        sampling_rate: int,
        folder: str | os.PathLike[str],
        progress: bool = True,
        on_broken: OnBroken | None = None,
    ) -> AudioCache:
        """Decode the sound of every file once, or open the result of an earlier call.

        An earlier result is used if files (name, size, time of change) and sampling rate are the same.

        Args:
            paths: files; repeated names are decoded once.
            sampling_rate: sampling rate of the waveforms in Hz.
            folder: folder of the cache. Its files appear there only when they are complete.
            progress: show a progress bar.
            on_broken: called with path and reason for each file that cannot be decoded; the cache then lacks it.
                Without it, such a file is an error.

        Raises:
            ValueError: there are no files.
            MediaError: a file cannot be decoded, and there is no `on_broken`.
        """
        unique = list(dict.fromkeys(paths))
        if not unique:
            raise ValueError("There are no files whose sound could be cached.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"sound-{cache_signature(unique, {'sampling_rate': sampling_rate})}"
        # The table of ends appears before the samples. So if the samples are there, the table is there, too.
        samples, ends = folder / f"{name}.f32", folder / f"{name}.ends.npy"
        broken = BrokenFiles(folder / f"{name}-broken.json", on_broken)
        if not samples.exists():
            _decode_all(unique, sampling_rate, samples, ends, progress, broken)
        broken.report()
        # An empty file cannot be mapped. It is empty if no file has audio.
        mapped = np.memmap(samples, dtype=np.float32, mode="r") if samples.stat().st_size else np.zeros(0, np.float32)
        rows = {path: row for row, path in enumerate(unique) if path not in broken.reasons}
        return cls(mapped, np.load(ends), rows)


def _decode_all(
    paths: list[str], sampling_rate: int, samples: Path, ends: Path, progress: bool, broken: BrokenFiles
) -> None:
    temporary = samples.with_name(f".{samples.name}.{os.getpid()}.tmp")
    temporary_ends = ends.with_name(f".{os.getpid()}.tmp.{ends.name}")
    try:
        lengths = []
        with temporary.open("wb") as handle:
            sounds = _decode_ahead(paths, sampling_rate, broken)
            for sound in track(sounds, "Decoding sound", total=len(paths), disable=not progress):
                handle.write(sound.tobytes())
                lengths.append(len(sound))
        np.save(temporary_ends, np.cumsum(lengths, dtype=np.int64))
        broken.save()
        os.replace(temporary_ends, ends)
        os.replace(temporary, samples)
    finally:
        temporary.unlink(missing_ok=True)
        temporary_ends.unlink(missing_ok=True)


def _decode_ahead(paths: list[str], sampling_rate: int, broken: BrokenFiles) -> Iterator[Waveform]:
    """Yield the sounds in order; a few files are decoded at once. A file without sound and a broken one are empty."""

    def decode(path: str) -> Waveform:
        sound = broken.decode(lambda name: _decode(name, sampling_rate), path)
        return np.zeros(0, np.float32) if sound is None else sound

    with ThreadPoolExecutor(max_workers=DECODERS) as pool:
        for start in range(0, len(paths), CLIPS_AHEAD):
            yield from pool.map(decode, paths[start : start + CLIPS_AHEAD])


def _decode(path: str, sampling_rate: int) -> Waveform:
    try:
        return load_audio(path, sampling_rate=sampling_rate)
    except NoAudioStream:
        return np.zeros(0, np.float32)
