"""Other frames and pictures in each epoch of a training: random frames of segments, crops and mirrored pictures.

The originals of PLLaVA and LinVT train with a random frame of each segment, LinVT with 40 to 60 of them. All frames of
a video get the same crop, and are mirrored together. What is drawn depends on the seed, the epoch and the name of the
video alone, so it is the same with any number of workers and processes, and when a training resumes.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from math import ceil, floor
from pathlib import PurePath
from typing import Any

import numpy as np

from ..models.media_audio import load_audio
from ..models.media_source import is_data_url, source_name, stored_media
from ..models.media_video import load_video
from .draws import OfEpoch
from .recipe_augment import Augment

__all__ = ["Augmenter", "augmented_picture", "draw_key", "random_in_segments"]


class Augmenter(OfEpoch):
    """Reads media like `load_video`, with other frames and pictures (`media_reading.reading_through`).

    Args:
        settings: what is changed.
        seed: of all draws.
    """

    def __init__(self, settings: Augment, seed: int) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        self.is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside this context, nothing is changed: for evaluations."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before

    def video(self, source: Any, form: Callable[[], Mapping[str, Any]], options: Mapping[str, Any]) -> Any:
        """See `media_reading.MediaReader`."""
        if not self.is_on:
            return load_video(source, **options)
        rng = random.Random(f"{self.seed}:{self.epoch}:{draw_key(source)}")
        changed = dict(options)
        if (sampler := options.get("sample_indices_fn")) is not None:
            changed["sample_indices_fn"] = self._sampler(sampler, rng)
        if self.settings.crop < 1 or self.settings.flip:
            changed["frame_fn"] = _picture_fn(self.settings, rng, options.get("frame_fn"))
        return load_video(source, **changed)

    def sound(self, source: Any, options: Mapping[str, Any]) -> np.ndarray:
        """See `media_reading.MediaReader`."""
        return load_audio(source, **options)

    def _sampler(self, sampler: Callable[..., Any], rng: random.Random) -> Callable[..., Any]:
        numbers = self.settings.num_frames
        # With `fps`, the length of the video decides about the number of frames.
        if numbers is not None and isinstance(sampler, partial) and sampler.keywords.get("num_frames"):
            sampler = partial(sampler, num_frames=rng.randint(*numbers))
        if self.settings.frames == "uniform":
            return sampler

        def sample(metadata: Any, **kwargs: Any) -> list[int]:
            return random_in_segments(sampler(metadata=metadata, **kwargs), int(metadata.total_num_frames), rng)

        return sample


def draw_key(source: Any) -> str:
    """What tells a video from others in the draws: the name of its file, which is the same in every folder.

    Single pictures of a video are often called alike, so the name of their folder is added. Without a file, it is a
    checksum of the bytes, or of the first frame.
    """
    source = stored_media(source)
    if isinstance(source, list | tuple):
        folders = {PurePath(part).parent.name for part in source if isinstance(part, str | os.PathLike)}
        return " ".join([*sorted(folders), *(draw_key(part) for part in source)])
    if isinstance(source, np.ndarray):
        source = np.ascontiguousarray(source[:1]).tobytes()
    elif is_data_url(source):
        source = source.encode()
    if isinstance(source, bytes | bytearray | memoryview):
        return str(zlib.crc32(source))
    return PurePath(source_name(source)).name


def random_in_segments(chosen: Sequence[int], total: int, rng: random.Random) -> list[int]:
    """A random frame of the segment around each chosen frame; segments meet halfway between two of them.

    A single frame stays, because nothing says which part of the video it stands for.

    Args:
        chosen: numbers of frames, in ascending order.
        total: number of all frames.
        rng: draws the frames.

    Example:
        >>> random_in_segments([1, 4, 7], 9, random.Random(0))
        [1, 4, 6]
    """
    frames = [int(number) for number in chosen]
    if len(frames) < 2:
        return frames
    middles = [(one + other + 1) / 2 for one, other in pairwise(frames)]
    # The first and the last segment are as long on their outer side as on the inner one.
    outer = (floor(2 * frames[0] + 1 - middles[0]), ceil(2 * frames[-1] + 1 - middles[-1]))
    edges = [max(0, outer[0]), *map(floor, middles), min(total, outer[1])]
    drawn = []
    for frame, (first, end) in zip(frames, pairwise(edges), strict=True):
        last = end - 1
        drawn.append(rng.randint(first, last) if first <= last else frame)
    return drawn


def _picture_fn(settings: Augment, rng: random.Random, then: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """A function for each frame of one video. The draws are made here, once."""
    side = rng.uniform(settings.crop, 1) ** 0.5
    place = (rng.random(), rng.random())
    is_mirrored = rng.random() < settings.flip

    def change(picture: np.ndarray) -> Any:
        changed = augmented_picture(picture, side, place, is_mirrored)
        return changed if then is None else then(changed)

    return change


def augmented_picture(picture: np.ndarray, side: float, place: tuple[float, float], is_mirrored: bool) -> np.ndarray:
    """A part of a picture that has its aspect, mirrored or not.

    Args:
        picture: uint8 `(height, width, 3)`.
        side: share of its height and width that is kept.
        place: from 0 (top, left) to 1.
        is_mirrored: left and right change places.

    Example:
        >>> augmented_picture(np.arange(12).reshape(2, 2, 3), 0.5, (1.0, 1.0), False).tolist()
        [[[9, 10, 11]]]
    """
    height, width = (max(1, round(side * length)) for length in picture.shape[:2])
    top = round(place[0] * (picture.shape[0] - height))
    left = round(place[1] * (picture.shape[1] - width))
    part = picture[top : top + height, left : left + width]
    return np.ascontiguousarray(part[:, ::-1] if is_mirrored else part)
