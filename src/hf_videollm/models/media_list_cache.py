"""Keeps the frame lists of video files that were opened before, so that a file is listed once and not for every use."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from .media_clip import Clip
from .media_orientation import Orientation
from .media_packets import PacketList
from .media_source import MediaHandle

_MOST_BYTES = 64 << 20  # some 30 hours of video
# A file that was written twice in so few seconds may have the same time of change both times: clocks of file systems
# advance in steps of up to 10 ms.
_STEP_OF_CLOCK = 0.02


@dataclass(frozen=True)
class Listing:
    """What `PyAVReader` learns about an intact file when it lists the frames. Nobody may change it.

    Args:
        packets: what the packets, or the index of the container, say.
        pts: timestamps of all frames, in the order in which they are shown.
        lead: those of them that nothing can decode.
        counting: whether frames are found by counting and not by their timestamps.
        clip: description of the video.
        orientation: how pictures are turned.
        size: width and height of a decoded picture, before it is turned.
        has_fields: whether a packet may be half a frame.
        begins_plainly: whether the first packet is the first frame and a keyframe.
        is_from_index: whether the container's index was read instead of the packets.
    """

    packets: PacketList
    pts: array[int]
    lead: array[int]
    counting: bool
    clip: Clip
    orientation: Orientation
    size: tuple[int, int]
    has_fields: bool
    begins_plainly: bool
    is_from_index: bool

    @property
    def nbytes(self) -> int:
        """Size in memory, roughly."""
        keys = 200 * len(self.packets.keys)
        return 8 * (len(self.packets.pts) + len(self.pts) + len(self.lead)) + self.clip.timestamps.nbytes + keys


_lock = threading.Lock()
_kept: OrderedDict[tuple[Any, ...], Listing] = OrderedDict()


def file_identity(handle: MediaHandle) -> tuple[Any, ...] | None:
    """What tells one content of a file from another without reading it; None for what is not a file of its own.

    None, too, for a file that was changed a moment ago: one more change might leave no trace.
    """
    if handle.path is None:
        return None
    try:
        about = os.stat(handle.path)
    except OSError:
        return None
    if abs(time.time() - about.st_ctime) < _STEP_OF_CLOCK:
        return None
    return (handle.path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def kept_listing(key: tuple[Any, ...] | None, may_be_from_index: bool) -> Listing | None:
    """The list of a file that was kept under this `file_identity`."""
    if key is None:
        return None
    with _lock:
        listing = _kept.get(key)
        if listing is None or (listing.is_from_index and not may_be_from_index):
            return None
        _kept.move_to_end(key)
        return listing


def keep_listing(key: tuple[Any, ...] | None, handle: MediaHandle, listing: Listing) -> None:
    """Keeps the list of a file, unless the file has changed since `key` was made. The oldest lists make room."""
    if key is None or file_identity(handle) != key:
        return
    with _lock:
        for other in [other for other in _kept if other[0] == key[0]]:
            del _kept[other]  # what the file held before
        _kept[key] = listing
        total = sum(kept.nbytes for kept in _kept.values())
        while total > _MOST_BYTES:
            total -= _kept.popitem(last=False)[1].nbytes


def forget() -> None:
    """Forgets all lists."""
    with _lock:
        _kept.clear()
