"""Decoded frames on disk, so that training reads a clip's pixels instead of decoding it in every epoch."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from .broken import BrokenFiles, OnBroken

__all__ = ["CLIPS_AHEAD", "DECODERS", "FrameCache", "StillFrames", "cache_signature"]

DECODERS = 4
UNRELATED_OPTIONS = ("processor_class", "auto_map")
# At most this many clips are decoded before they are written, which limits the memory for them.
CLIPS_AHEAD = 64


class FrameCache(Mapping[str, torch.Tensor]):
    """Maps the path of a video to its frames `(T, 3, H, W)` uint8: sampled, resized and cropped, not yet normalised.

    All frames are in one memory-mapped file, which may be larger than memory.
    """

    def __init__(self, frames: np.ndarray, rows: Mapping[str, int], seconds: np.ndarray | None = None) -> None:
        """Args:
        frames: `(clips, T, 3, H, W)` uint8.
        rows: maps a path to its index along the first axis.
        seconds: `(clips, T)`, the times of the frames, NaN if they are not known.
        """
        self._frames = frames
        self._rows = rows
        self._seconds = seconds

    def __getitem__(self, path: str) -> torch.Tensor:
        # A copy, because torch refuses to share memory that is mapped read-only.
        return torch.from_numpy(np.array(self._frames[self._rows[path]]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def times(self, path: str) -> list[float] | None:
        """Seconds of the frames since the start of the file, or `None` if they are not known."""
        seconds = None if self._seconds is None else self._seconds[self._rows[path]]
        return None if seconds is None or np.isnan(seconds).any() else seconds.tolist()

    @classmethod
    def build(
        cls,
        paths: Iterable[str],
        video_processor: Any,
        folder: str | os.PathLike[str],
        progress: bool = True,
        on_broken: OnBroken | None = None,
    ) -> FrameCache:
        """Decode every video once, or open the result of an earlier call.

        An earlier result is used if videos (name, size, time of change) and settings of the processor are the same.

        Args:
            paths: video files; repeated names are decoded once.
            video_processor: decodes, samples, resizes and crops; must give all clips the same shape.
            folder: folder of the cache. Its files appear there only when they are complete.
            progress: show a progress bar.
            on_broken: called with path and reason for each file that cannot be decoded; the cache then lacks it.
                Without it, such a file is an error.

        Raises:
            ValueError: there are no videos, or the clips have different shapes.
            MediaError: a file cannot be decoded, and there is no `on_broken`.
        """
        unique = list(dict.fromkeys(paths))
        if not unique:
            raise ValueError("There are no videos to cache.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # When a processor is saved, it gets fields that do not change any pixel. They are left out here.
        options = {name: value for name, value in video_processor.to_dict().items() if name not in UNRELATED_OPTIONS}
        target = folder / f"frames-{cache_signature(unique, options)}.npy"
        seconds = target.with_name(f"{target.stem}-seconds.npy")
        broken = BrokenFiles(target.with_name(f"{target.stem}-broken.json"), on_broken)
        if not (target.exists() and seconds.exists()):
            _decode_all(unique, video_processor, target, seconds, progress, broken)
        broken.report()
        rows = {path: row for row, path in enumerate(unique) if path not in broken.reasons}
        return cls(np.load(target, mmap_mode="r"), rows, np.load(seconds))


class StillFrames(Mapping[str, torch.Tensor]):
    """Maps the path of a video to one random frame `(1, 3, H, W)` uint8, a new one each time: clips become images."""

    def __init__(self, frames: Mapping[str, torch.Tensor], seed: int = 0) -> None:
        """Args:
        frames: maps a path to frames `(T, 3, H, W)`.
        seed: seed of the random choice.
        """
        self._frames = frames
        self._rng = random.Random(seed)

    def __getitem__(self, path: str) -> torch.Tensor:
        frames = self._frames[path]
        chosen = self._rng.randrange(len(frames))
        return frames[chosen : chosen + 1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def cache_signature(paths: list[str], options: Mapping[str, Any]) -> str:
    """A hash of files and decoding options. It changes if a file (name, size, time of change) or an option changes."""
    facts = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    settings = json.dumps([options, facts], sort_keys=True, default=str)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _decode_all(
    paths: list[str], video_processor: Any, target: Path, seconds: Path, progress: bool, broken: BrokenFiles
) -> None:
    temporary, unfinished = (path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in (target, seconds))
    frames = None
    times: list[np.ndarray | None] = []
    try:
        clips = _decode_ahead(paths, video_processor, broken)
        for row, decoded in enumerate(track(clips, "Decoding clips", total=len(paths), disable=not progress)):
            path = paths[row]
            if decoded is None:
                times.append(None)
                continue
            clip, clip_times = decoded
            if frames is None:
                shape = (len(paths), *clip.shape)
                frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            if clip.shape != frames.shape[1:]:
                raise ValueError(
                    f"{path} gives frames of shape {clip.shape}, but the clips before it {frames.shape[1:]}: the cache "
                    "needs one shape, so let the video processor crop and sample a fixed number of frames."
                )
            frames[row] = clip
            times.append(clip_times)
        if frames is None:
            raise ValueError(f"None of the {len(paths)} videos can be decoded: {next(iter(broken.reasons.values()))}")
        frames.flush()
        unknown = np.full(frames.shape[1], np.nan)
        with open(unfinished, "wb") as file:
            np.save(file, np.array([unknown if known is None else known for known in times]))
        broken.save()
        os.replace(unfinished, seconds)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)


def _decode_ahead(
    paths: list[str], video_processor: Any, broken: BrokenFiles
) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Yield the clips in order. Several are decoded at once, because a decoder mostly waits for its own threads."""

    def decode(path: str) -> tuple[np.ndarray, np.ndarray] | None:
        return broken.decode(lambda name: _decode(name, video_processor), path)

    with ThreadPoolExecutor(max_workers=DECODERS) as pool:
        for start in range(0, len(paths), CLIPS_AHEAD):
            yield from pool.map(decode, paths[start : start + CLIPS_AHEAD])


def _decode(path: str, video_processor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Frames and their times in seconds."""
    batch = video_processor(
        videos=[path], do_rescale=False, do_normalize=False, return_metadata=True, return_tensors="pt"
    )
    frames = batch["pixel_values_videos"][0].to(torch.uint8).numpy()
    metadata = batch["video_metadata"][0]
    return frames, np.array(metadata.timestamps) if metadata.fps else np.full(len(frames), np.nan)
