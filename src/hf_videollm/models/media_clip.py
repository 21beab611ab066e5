"""What all decoders share: the description of a video stream, and the interface of a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Tolerance, in seconds, when frame times are compared with `start` and `end`: some containers round their timestamps to
# milliseconds.
TIME_SLACK = 0.0006


@dataclass(frozen=True)
class Clip:
    """Description of a video stream.

    Args:
        timestamps: float64 (T,), seconds of the file (`media_clock`), ascending; frame i is shown from `timestamps[i]`.
        duration: seconds from the start of the first frame to the end of the last one.
        fps: frames per second; the mean if the rate varies; None if it is not known (a single frame).
        width, height: size in pixels of a frame as it is shown, after rotation.
    """

    timestamps: np.ndarray
    duration: float
    fps: float | None
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.timestamps)


class FrameReader(Protocol):
    """An opened video, from which frames are read by number.

    Attributes:
        backend: name of the decoder.
        clip: description of the video.
    """

    backend: str
    clip: Clip

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 (H, W, 3) RGB) for ascending distinct indices, in that order."""

    def close(self) -> None:
        """Closes the file; may be called twice."""


class DecodingStopped(Exception):  # noqa: N818 (caught inside the package; users never see it)
    """Decoding stopped at damage. The first `readable` frames of the video can be decoded."""

    def __init__(self, readable: int) -> None:
        super().__init__(readable)
        self.readable = readable


class FrameCountChanged(Exception):  # noqa: N818
    """The reader found that its frame count was wrong, and corrected `clip`. The caller must read its frames again."""
