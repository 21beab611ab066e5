"""Records the first frames that a decoder returns for a file, and the packets that they came from."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from .media_packets import NO_TIME, PacketList

# Packet i gets the timestamp TAG + i before it is decoded. The decoder copies it to the frame, so that the frame tells
# which packet it came from. TAG is far from all real timestamps.
TAG = -(1 << 52)


@dataclass
class Head:
    """The first frames of a file, up to the first keyframe: the first one that does not refer to other frames."""

    first_packet: int | None = None  # index in `PacketList.pts` of the packet of `first`; None if not known
    first: Any = None  # the very first frame; it has the true size and the rotation of the video
    has_key: bool = False  # whether a keyframe was decoded
    key: int = NO_TIME  # timestamp of the first keyframe
    times: array[int] = field(default_factory=lambda: array("q"))  # timestamps of all these frames
    packets: set[int] = field(default_factory=set)  # indices in `PacketList.pts` of their packets

    def add(self, frame: Any, packets: PacketList) -> None:
        """Adds the next decoded frame."""
        index = -1 if frame.pts is None else frame.pts - TAG
        is_tagged = 0 <= index < len(packets.pts)
        if self.first is None:
            self.first, self.first_packet = frame, index if is_tagged else None
        self.times.append(packets.pts[index] if is_tagged else time_of(frame))
        if is_tagged:
            self.packets.add(index)
        if not self.has_key and is_entry(frame):
            self.has_key, self.key = True, self.times[-1]


def time_of(frame: Any) -> int:
    """The timestamp of a frame in ticks; `NO_TIME` without one."""
    return NO_TIME if frame.pts is None else frame.pts


def is_entry(frame: Any) -> bool:
    """Whether decoding can begin at this frame, as the decoder says (the keyframe flags of containers may be wrong)."""
    return bool(frame.key_frame) and int(frame.pict_type) == 1
