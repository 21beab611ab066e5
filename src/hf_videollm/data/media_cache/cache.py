"""Decoded frames and sounds on disk: a cache between the processors and the files of a data set.

    cache = MediaCache("cache", max_size="50 GB")
    collator = VideoDataCollator(processor, cache=cache)

The frames are stored as the video processor gets them from the decoder: uint8, already resized where the processor
resizes frames while they are decoded. Everything after that (cropping, normalisation, the padding of unequal lengths)
is done by the processor as without a cache. So pixel values, numbers of frames and their times are exactly the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata as packages
from typing import Any, TypeVar

import numpy as np
from transformers.video_utils import VideoMetadata

from ...models.errors import held_warnings, warn_caller
from ...models.media_audio import load_audio
from ...models.media_reading import choice_rule
from ...models.media_source import source_name, stored_media
from ...models.media_video import ClipMetadata, load_video
from ...version import __version__
from ..sizes import parse_size
from .digests import ContentDigests
from .folder import CacheFolder
from .packing import pack, unpack

__all__ = ["DEFAULT_MAX_SIZE", "MediaCache"]

T = TypeVar("T")
DEFAULT_MAX_SIZE = "50 GB"
# Counts up when the content of entries changes.
FORM = 1
# Other releases of these may give other pixels or samples.
DECODERS = ("av", "decord", "torchcodec", "torchvision", "pillow", "scenedetect")
# Arguments of `load_video` and `load_audio` that do not change a result, or that a key holds in another form.
NOT_OF_KEYS = ("sample_indices_fn", "frame_fn", "limits", "allowed_hosts")
FACTS = ("total_num_frames", "fps", "duration", "width", "height", "video_backend")


class MediaCache:
    """Reads videos and sounds from a folder on disk, into which it puts what it had to decode.

    An entry is found by the digest of the file's content, the numbers of the frames (or the part of the sound), the
    settings of the processor that change frames, and the releases of the decoders. So a cache serves several models,
    trainings and evaluations at the same time, in any number of processes and of workers of data loaders. It may be
    larger than memory, is never larger than `max_size`, and does not suffer if a process is killed.

    Arrays, opened files and web addresses are not cached, and neither are damaged files.

    Args:
        folder: folder of the cache; it is made if it does not exist.
        max_size: bytes, or a text such as "50 GB". Entries that were not used for the longest time make room.

    Raises:
        ValueError: `max_size` is no size, or is too small.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], max_size: int | str = DEFAULT_MAX_SIZE) -> None:
        self.entries = CacheFolder(folder, parse_size(max_size))
        self._digests = ContentDigests(self.entries)

    def video(
        self, source: Any, form: Callable[[], Mapping[str, Any]], options: Mapping[str, Any]
    ) -> tuple[np.ndarray, VideoMetadata]:
        """The result of `load_video(source, **options)`; see `MediaReader.video`."""
        digest = self._digests.of(source)
        if digest is None:
            return load_video(source, **options)
        of_file = ["video", digest, _suffix(source), _settings(options)]
        known = self._metadata(of_file)
        if known is not None:
            chosen = self._chosen(of_file, options.get("sample_indices_fn"), known)
            stored = self.entries.get(_key(of_file, form(), chosen))
            if stored is not None:
                frames = unpack(stored)[1]
                options["limits"].check_result(source_name(source), len(chosen), frames.shape[2], frames.shape[1])
                known.frames_indices = chosen
                return frames, known
            # A sampler that draws frames at random would draw others the next time.
            options = {**options, "sample_indices_fn": lambda metadata: chosen}
        (frames, metadata), is_whole = _is_whole(lambda: load_video(source, **options))
        # The file may have been changed while it was decoded.
        if is_whole and self._digests.of(source) == digest:
            if known is None:
                self._put_metadata(of_file, metadata)
                self._put_choice(of_file, options.get("sample_indices_fn"), metadata.frames_indices)
            self.entries.put(_key(of_file, form(), list(metadata.frames_indices or ())), *pack(None, frames))
        return frames, metadata

    def sound(self, source: Any, options: Mapping[str, Any]) -> np.ndarray:
        """The result of `load_audio(source, **options)`; see `MediaReader.sound`."""
        digest = self._digests.of(source)
        if digest is None:
            return load_audio(source, **options)
        key = _key(["sound", digest, _suffix(source), _settings(options)])
        stored = self.entries.get(key)
        if stored is not None:
            wave = unpack(stored)[1]
            if (limits := options.get("limits")) is not None:
                limits.check_audio(source_name(source), len(wave) / options["sampling_rate"])
                limits.check_samples(source_name(source), len(wave))
            return wave
        wave, is_whole = _is_whole(lambda: load_audio(source, **options))
        if is_whole and self._digests.of(source) == digest:
            self.entries.put(key, *pack(None, wave))
        return wave

    def _metadata(self, of_file: list[Any]) -> VideoMetadata | None:
        """The metadata of a video that was decoded before."""
        stored = self.entries.get(_key(of_file))
        if stored is None:
            return None
        facts, times = unpack(stored)
        if facts.pop("has_times"):
            known = ClipMetadata(**facts)
            known.frame_times = times
            return known
        return VideoMetadata(**facts)

    def _chosen(self, of_file: list[Any], sampler: Callable[..., Any] | None, metadata: VideoMetadata) -> list[int]:
        """The numbers of the frames that a sampler chooses; all frames without a sampler."""
        if sampler is None:
            return list(range(metadata.total_num_frames))
        rule = choice_rule(sampler)
        stored = None if rule is None else self.entries.get(_key(of_file, "chosen", rule))
        if stored is not None:
            return [int(index) for index in unpack(stored)[1]]
        chosen = [int(index) for index in sampler(metadata=metadata)]
        self._put_choice(of_file, sampler, chosen)
        return chosen

    def _put_choice(self, of_file: list[Any], sampler: Callable[..., Any] | None, chosen: list[int] | None) -> None:
        rule = choice_rule(sampler)
        if rule is not None and chosen is not None:
            self.entries.put(_key(of_file, "chosen", rule), *pack(None, np.asarray(chosen)))

    def _put_metadata(self, of_file: list[Any], metadata: VideoMetadata) -> None:
        facts: dict[str, Any] = {name: _plain(metadata[name]) for name in FACTS}
        times = metadata.frame_times if isinstance(metadata, ClipMetadata) else None
        facts["has_times"] = times is not None
        self.entries.put(_key(of_file), *pack(facts, np.zeros(0) if times is None else np.asarray(times)))


def _is_whole(load: Callable[[], T]) -> tuple[T, bool]:
    """What a function loads, and whether it loaded all of it, without a warning about damage."""
    token = held_warnings.set([])
    try:
        result = load()
        warned = held_warnings.get() or []
    finally:
        held_warnings.reset(token)
    for message in warned:
        warn_caller(message)
    return result, not warned


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([FORM, _releases(), *parts], sort_keys=True, default=str).encode()).hexdigest()


@cache
def _releases() -> dict[str, str | None]:
    found: dict[str, str | None] = {"hf_videollm": __version__}
    for name in DECODERS:
        try:
            found[name] = packages.version(name)
        except packages.PackageNotFoundError:
            found[name] = None
    return found


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in NOT_OF_KEYS}


def _suffix(source: Any) -> str:
    """The ending of a file's name, by which decoders recognise some formats."""
    source = stored_media(source)
    return os.path.splitext(source)[1].lower() if isinstance(source, str | os.PathLike) else ""
