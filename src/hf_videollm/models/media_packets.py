"""Which frames a video stream holds, as far as its packets tell it without decoding."""

from __future__ import annotations

from array import array
from typing import Any

# Stands in an array of times for "unknown".
NO_TIME = -(1 << 63)
# A packet of MPEG-4 this small says that there is no new picture.
_EMPTY_MPEG4 = 10


class PacketList:
    """Reads the packets of a stream, in the order of the file, one after the other.

    A frame number is only good if it means one picture, whatever else is asked for. In most files every packet is one
    frame and carries its time, so that numbers can be given without decoding; `doubt` says why that is not sure here.
    `oddity` says why a decoder other than PyAV might count or seek otherwise, though PyAV has no trouble.

    Args:
        codec: FFmpeg's name of the decoder.
        container: FFmpeg's name of the demuxer.
        extradata: header of the stream, or None.
        reorders: whether frames are shown in another order than they are decoded in.
    """

    def __init__(self, codec: str, container: str, extradata: bytes | None, reorders: bool) -> None:
        self.pts = array("q")  # of the packets that show a frame; NO_TIME where it is not known
        self.keys: list[tuple[int, int]] = []  # (pts, dts) of the keyframes
        self.last_dts: int | None = None
        self.last_duration: int | None = None
        # In AVI a packet has no presentation time, so with B-frames only the order of output is true.
        self.has_times = not (container.startswith("avi") and reorders)
        self.doubt: str | None = None if self.has_times else "times of decoding only"
        self.oddity: str | None = None
        self.count = 0  # packets, those that show nothing included
        self._codec = codec
        self._length_size = (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else None
        self._stores_dts = not container.startswith("matroska")  # there FFmpeg makes them up
        self._latest: int | None = None

    def add(self, packet: Any) -> None:
        """Takes the next packet."""
        self.count += 1
        if packet.size == 0:
            self.doubt = self.doubt or "empty packets"
            return
        if packet.is_corrupt:
            self.doubt = self.doubt or "gaps in the stream"
        if self._codec == "mpeg4" and packet.size <= _EMPTY_MPEG4:
            self.doubt = self.doubt or "packets without a picture"
        self._look_at_times(packet.pts, packet.dts, packet.is_keyframe)
        if packet.is_discard or self._is_hidden(packet):
            self.oddity = self.oddity or "frames that are not shown"
            return
        if packet.is_keyframe and self._codec == "h264" and not _has_idr(packet, self._length_size):
            self.oddity = self.oddity or "keyframes that need earlier frames"
        self.pts.append(NO_TIME if packet.pts is None else packet.pts)
        if packet.pts is not None:
            self.last_duration = packet.duration

    def finish(self) -> None:
        """Says that there are no more packets."""
        if not self.doubt and len(set(self.pts)) != len(self.pts):
            self.doubt = "times that occur twice"

    def leading(self, place: int, decoded: set[int]) -> array[int]:
        """Times of the frames before the first picture: the file holds them, and they cannot be decoded.

        They are the packets before that of the first picture and, in open groups of pictures, those right behind it
        that are shown before it. Of packets without times, those right behind it of which nothing came out.

        Args:
            place: of the first picture's packet in `pts`.
            decoded: such places of what came out of the decoder.
        """
        end, last = place + 1, max(decoded, default=place)
        while end < len(self.pts) and end not in decoded and self._comes_before(end, place, last):
            end += 1
        times = array("q", [self.pts[i] for i in range(end) if i != place and i not in decoded])
        # Without all times the order of decoding is the best that is known.
        return times if NO_TIME in times else array("q", sorted(times))

    def _comes_before(self, place: int, first: int, last: int) -> bool:
        time, start = self.pts[place], self.pts[first]
        if self.has_times and NO_TIME not in (time, start):
            return time < start
        return place < last

    def _look_at_times(self, pts: int | None, dts: int | None, is_key: bool) -> None:
        if pts is None:
            self.doubt = self.doubt or "frames without times"
            return
        goes_back = dts is not None and self.last_dts is not None and dts < self.last_dts and self._stores_dts
        if goes_back or (len(self.keys) > 1 and pts < self.keys[-2][0]):
            self.doubt = self.doubt or "times that go back"
        self.last_dts = dts
        if not self.keys and not is_key:
            self.oddity = self.oddity or "frames before the first keyframe"
        elif self.keys and pts < self.keys[-1][0]:
            self.oddity = self.oddity or "frames that need the next keyframe"
        if is_key and self._latest is not None and pts < self._latest:
            self.doubt = self.doubt or "times that go back"
        if is_key:
            self.keys.append((pts, pts if dts is None else dts))
        self._latest = pts if self._latest is None else max(self._latest, pts)

    def _is_hidden(self, packet: Any) -> bool:
        """Whether the packet holds a frame that only others refer to (VP8 and VP9 say so in their first bits)."""
        if self._codec.startswith(("vp8", "libvpx")) and "vp9" not in self._codec:
            return not memoryview(packet)[0] & 0x10
        if "vp9" not in self._codec:
            return False
        data = memoryview(packet)
        first, last = data[0], data[-1]
        if last & 0xE0 == 0xC0 or first >> 6 != 2:
            return False  # several frames in one packet, of which one is shown
        bits = first if first >> 4 & 3 != 3 else first << 1 | data[1] >> 7
        shows_earlier, is_shown = bits >> 3 & 1, bits >> 1 & 1
        return not (shows_earlier or is_shown)


def _has_idr(packet: Any, length_size: int | None) -> bool:
    """Whether a packet of H.264 holds an IDR picture: nothing after it refers to anything before it.

    Args:
        length_size: bytes of the length before each unit; None for start codes.
    """
    data = bytes(packet)
    position = 0
    while position < len(data):
        if length_size is None:
            position = data.find(b"\0\0\1", position) + 3
            if position < 3 or position >= len(data):
                return False
            length = 0
        else:
            length = int.from_bytes(data[position : position + length_size], "big")
            position += length_size
        if position < len(data) and data[position] & 31 == 5:
            return True
        position += length
    return False
