"""What comes out of a decoder first, and from which packets it came."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from .media_packets import NO_TIME, PacketList

TAG = -(1 << 52)  # of packets that are numbered instead of timed; far from all times


@dataclass
class Head:
    """What came out of the decoder first, up to the first picture that needs no other one."""

    first_place: int | None = None
    first: Any = None  # the very first frame: it alone tells the true size and the rotation
    has_key: bool = False  # one that needs no other
    key: int = NO_TIME  # the time of the first such frame
    times: array[int] = field(default_factory=lambda: array("q"))  # of all these frames
    places: set[int] = field(default_factory=set)  # which packets they are, see `PacketList.leading`

    def add(self, frame: Any, packets: PacketList) -> None:
        place = -1 if frame.pts is None else frame.pts - TAG
        is_tagged = 0 <= place < len(packets.pts)
        if self.first is None:
            self.first, self.first_place = frame, place if is_tagged else None
        self.times.append(packets.pts[place] if is_tagged else time_of(frame))
        if is_tagged:
            self.places.add(place)
        if not self.has_key and is_entry(frame):
            self.has_key, self.key = True, self.times[-1]


def time_of(frame: Any) -> int:
    return NO_TIME if frame.pts is None else frame.pts


def is_entry(frame: Any) -> bool:
    """Whether decoding may begin at this frame, by what the decoder itself says. Containers flag others, too."""
    return bool(frame.key_frame) and int(frame.pict_type) == 1
