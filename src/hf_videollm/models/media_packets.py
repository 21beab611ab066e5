"""Lists the frames of a video stream from its packets, without decoding them."""

from __future__ import annotations

from array import array
from typing import Any

# In an array of timestamps, this value means that the timestamp is not known.
NO_TIME = -(1 << 63)
# An MPEG-4 packet of at most this many bytes contains no picture; it says that the last one stays on screen.
EMPTY_MPEG4 = 10


class PacketList:
    """Collects what the packets of a stream say about its frames. The packets are added in the order of the file.

    A frame number must always mean the same picture, whichever other frames are requested. In most files every packet
    is one frame and has a timestamp, so frames can be numbered without decoding.

    Args:
        codec: FFmpeg's name of the decoder.
        container: FFmpeg's name of the demuxer.
        extradata: header of the stream, or None.
        reorders: whether frames are decoded in another order than they are shown in (B-frames).

    Attributes:
        doubt: why frames cannot be numbered from the packets of this file; None if they can.
        oddity: why a decoder other than PyAV might count or seek differently in this file; None if nothing is known.
    """

    def __init__(self, codec: str, container: str, extradata: bytes | None, reorders: bool) -> None:
        self.pts = array("q")  # timestamps of the packets that show a frame; NO_TIME if one is not known
        self.keys: list[tuple[int, int]] = []  # (pts, dts) of the keyframes
        self.last_dts: int | None = None
        self.last_duration: int | None = None
        # AVI stores no presentation times, so with B-frames only the decoder knows the order of the frames.
        self.has_times = not (container.startswith("avi") and reorders)
        self.doubt: str | None = None if self.has_times else "times of decoding only"
        self.oddity: str | None = None
        self.count = 0  # number of all packets, including those that show no frame
        self._codec = codec
        self._length_size = (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else None
        self._stores_dts = not container.startswith("matroska")  # for Matroska, FFmpeg computes decoding times
        self._latest: int | None = None

    def add(self, packet: Any) -> None:
        """Adds the next packet of the file."""
        self.count += 1
        if packet.size == 0:
            self.doubt = self.doubt or "empty packets"
            return
        if packet.is_corrupt:
            self.doubt = self.doubt or "gaps in the stream"
        if self._codec == "mpeg4" and packet.size <= EMPTY_MPEG4:
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
        """Must be called after the last packet: checks whether two packets have the same timestamp."""
        if not self.doubt and len(set(self.pts)) != len(self.pts):
            self.doubt = "times that occur twice"

    def leading(self, first: int, decoded: set[int]) -> array[int]:
        """Timestamps of the frames before the first picture that can be decoded.

        The file contains these frames, but nothing can decode them, because they refer to pictures that were cut off.
        They are the packets before that of the first picture, and the packets right after it that are shown before it
        (in open groups of pictures). Without timestamps: the packets right after it from which no frame was decoded.

        Args:
            first: index in `pts` of the first picture's packet.
            decoded: indices in `pts` of all packets from which a frame was decoded.
        """
        end, last = first + 1, max(decoded, default=first)
        while end < len(self.pts) and end not in decoded and self._comes_before(end, first, last):
            end += 1
        times = array("q", [self.pts[i] for i in range(end) if i != first and i not in decoded])
        # If a timestamp is missing, the order of the file (the decoding order) is kept.
        return times if NO_TIME in times else array("q", sorted(times))

    def _comes_before(self, index: int, first: int, last: int) -> bool:
        """Whether packet `index` is shown before packet `first`; without times, whether it precedes packet `last`."""
        time, start = self.pts[index], self.pts[first]
        if self.has_times and NO_TIME not in (time, start):
            return time < start
        return index < last

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
        """Whether the packet holds a frame that is never shown (VP8 and VP9 say so in the first bits of a packet).

        Such a frame is only a reference for other frames.
        """
        if self._codec.startswith(("vp8", "libvpx")) and "vp9" not in self._codec:
            return not memoryview(packet)[0] & 0x10
        if "vp9" not in self._codec:
            return False
        data = memoryview(packet)
        first, last = data[0], data[-1]
        if last & 0xE0 == 0xC0 or first >> 6 != 2:
            return False  # the packet holds several frames, one of which is shown
        bits = first if first >> 4 & 3 != 3 else first << 1 | data[1] >> 7
        shows_earlier, is_shown = bits >> 3 & 1, bits >> 1 & 1
        return not (shows_earlier or is_shown)


def _has_idr(packet: Any, length_size: int | None) -> bool:
    """Whether an H.264 packet holds an IDR picture. Frames after an IDR picture never refer to frames before it.

    Args:
        length_size: size in bytes of the length field before each NAL unit; None if the units begin with start codes.
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
