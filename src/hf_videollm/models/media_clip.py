"""What the decoders share: the description of a clip, and the interface they implement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Seconds by which a frame may be early or late: some containers round their timestamps to a thousandth of a second.
TIME_SLACK = 0.0006


@dataclass(frozen=True)
class Clip:
    """What is known of a video stream.

    Args:
        timestamps: float64 (T,), seconds of the file (`media_clock`), ascending; entry i is when frame i is shown.
        duration: seconds from the first frame to the end of the last one.
        fps: frames per second; the mean where the rate varies; None where one frame tells nothing.
        width, height: of a frame as shown, after rotation.
    """

    timestamps: np.ndarray
    duration: float
    fps: float | None
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.timestamps)


class FrameReader(Protocol):
    """An opened video."""

    backend: str
    clip: Clip

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 (H, W, 3) RGB) for ascending distinct indices, in that order."""

    def close(self) -> None:
        """Closes the file; may be called twice."""


class DecodingStopped(Exception):  # noqa: N818 (a signal between two of our files)
    """Decoding met damage. `readable` frames from the beginning on are known to be good."""

    def __init__(self, readable: int) -> None:
        super().__init__(readable)
        self.readable = readable


class FrameCountChanged(Exception):  # noqa: N818
    """The stream holds another number of frames than packets; the reader has counted anew and must be asked again."""
