"""Reads animated pictures (WebP, APNG, AVIF) as videos whose frames have times. PIL decodes them.

An animation stores how long each of its frames is shown, in milliseconds. The time of a frame is the sum of the
durations before it. Animated GIFs are read by the video decoder instead (`media_pictures.file_of_gif`), which computes
the same times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from .errors import Deadline, MediaLimits
from .media_clip import Clip
from .media_frames import FrameList, damage_is_typed
from .media_pictures import is_moving, picture_formats, rewind
from .media_source import MediaHandle

# A duration of 0 means "as fast as possible". Browsers and the GIF decoder show such a frame for this many seconds.
FASTEST = 0.1
# The beginnings of files that may be animations. Other files are left to the video decoders.
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"RIFF")


class AnimationReader:
    """The frames of an animation with their times, in the form of `media_clip.FrameReader`.

    Attributes:
        backend: "frames", as for other pictures.
        clip: times, duration, rate and size.
    """

    backend = "frames"

    def __init__(self, frames: FrameList, durations: np.ndarray) -> None:
        self._frames = frames
        ends = np.cumsum(durations)
        times = np.concatenate([[0.0], ends[:-1]])
        # As for video files, the last frame's duration is no part of the mean rate.
        rate = (len(times) - 1) / float(times[-1])
        self.clip = Clip(times, float(ends[-1]), rate, frames.width, frames.height)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 (H, W, 3) RGB) for ascending distinct indices, in that order."""
        for index in indices:
            yield index, self._frames[index]

    def close(self) -> None:
        """Moves the animation to its first picture; whoever opened it closes it."""
        if self._frames.animation is not None:
            with damage_is_typed(self._frames.name):
                rewind(self._frames.animation)


def animation_reader(frames: FrameList) -> AnimationReader | None:
    """A reader for frames that come from one animation with times; None for other frames.

    Every frame is decoded once, because PIL knows the duration of some formats only afterwards.

    Raises:
        CorruptMedia: a frame cannot be decoded.
        MediaTooLarge: the time limit is over.
    """
    if (animation := frames.animation) is None:
        return None
    durations = []
    with damage_is_typed(frames.name):
        rewind(animation)
    for index in range(len(frames)):
        frames.check_deadline()
        with damage_is_typed(frames.name):
            animation.seek(index)
            animation.load()
        duration = animation.info.get("duration")
        # Pages of a TIFF have no durations. Nor has the still picture that an APNG may hold before its animation.
        if not isinstance(duration, int | float) or not math.isfinite(duration):
            return None
        durations.append(duration / 1000 if duration > 0 else FASTEST)
    return AnimationReader(frames, np.array(durations, np.float64))


@contextmanager
def animation_in_file(handle: MediaHandle, limits: MediaLimits, deadline: Deadline) -> Iterator[AnimationReader | None]:
    """Opens the file of an animated WebP or PNG; yields None for every other file.

    Raises:
        MediaError: one of its subclasses; see `FrameList`.
    """
    with handle.reading() as stream:
        is_candidate = stream.read(12).startswith(_BEGINNINGS)
        stream.seek(0)
        picture = _opened(stream, handle.name, limits) if is_candidate else None
        if picture is None:
            yield None
            return
        with picture:
            yield animation_reader(FrameList(picture, limits, deadline, name=handle.name))


def _opened(stream: object, name: str, limits: MediaLimits) -> Image.Image | None:
    try:
        picture = Image.open(stream, formats=[form for form in ("PNG", "WEBP") if form in picture_formats()])  # type: ignore[arg-type]
    except Exception:
        # Another file that begins alike (AVI), or a damaged one: the video decoder's error says what it is.
        return None
    limits.check_picture(name, *picture.size)
    return picture if is_moving(picture) else None
