"""An opened video file in PyAV: its packets, the frames that the decoder makes of them, and damage on the way."""

from __future__ import annotations

import bisect
import os
from array import array
from collections.abc import Iterator
from typing import Any

from .errors import CorruptMedia, Deadline, MediaLimits
from .media_container import import_pyav
from .media_source import MediaHandle, is_cut_short
from .media_video_head import is_entry

THREADS = max(1, min(4, os.cpu_count() or 1))


class PyAVFile:
    """A video file that is open for decoding with PyAV."""

    def __init__(self, handle: MediaHandle, limits: MediaLimits, deadline: Deadline, tolerate_damage: bool) -> None:
        self._av = import_pyav()
        self._handle = handle
        self._name = handle.name
        self._limits = limits
        self._deadline = deadline
        self._tolerate = tolerate_damage
        self._pts = array("q")
        self._waiting = False  # frames are dropped until one comes that can be decoded without others
        self._broken = False  # decoding met damage
        self._started = False  # the decoder got a keyframe
        self._stops_early = False  # packets after that of the last wanted frame are not decoded
        self._readable = 0  # number of frames that were decoded without damage
        self.damaged = is_cut_short(handle)
        if self.damaged and not tolerate_damage:
            raise self._corrupt("ends too early")
        self._container: Any = None
        self._stream: Any = None

    def close(self) -> None:
        if self._container is not None:
            self._settle()
            self._container.close()

    def _settle(self) -> None:
        """Lets the threads of the decoder end their work before a seek or before the file is closed.

        Seeking and closing hold the lock of the Python interpreter while they wait for these threads. A thread that
        logs an error waits for that lock (where `av.logging` is on), which would be a deadlock. Decoding does not hold
        the lock.
        """
        if self._stream is None or not self._stream.codec_context.is_open:
            return
        for _ in range(THREADS + 1):
            try:
                self._stream.decode(None)
            except EOFError:
                return  # all threads are done
            except self._av.FFmpegError:
                continue  # one of the threads met damage; its frame is not used

    def _seek(self, key: tuple[int, int]) -> bool:
        """Moves to a keyframe, (pts, dts). False if the file has no index, or a damaged one."""
        self._settle()
        try:
            self._container.seek(key[1], stream=self._stream, backward=True)
        except (self._av.FFmpegError, OSError):
            return False
        return True

    def _packets(self) -> Iterator[Any]:
        """Packets of the video stream from the current position on."""
        packets = self._container.demux(self._stream)
        # In transport streams, the mark of a corrupt packet also means a gap in the numbering, as between two joined
        # recordings. Real damage shows in the decoder.
        is_transport = self._container.format.name == "mpegts"
        seen = 0
        while True:
            try:
                packet = next(packets, None)
            except (self._av.FFmpegError, OSError):
                self._damage("breaks off")
                self._broken = True
                return
            if packet is None:
                return
            if packet.is_corrupt and not is_transport:
                self._damage("ends in a broken packet")
                self._broken = True
                return
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                continue  # PyAV's sign that the stream ends
            seen += 1
            if seen % 256 == 0:
                self._deadline.check(self._name)
            yield packet

    def _decode_from_here(self, key: tuple[int, int] | None = None, wanted: set[int] | None = None) -> Iterator[Any]:
        """Decoded frames from the current position on, or from the next packet of keyframe `key` on."""
        context = self._stream.codec_context
        # H.264 marks frames that no other frame needs. They are skipped unless they are wanted. The marks of HEVC are
        # not used, because they are valid only within one temporal layer.
        skipping = wanted is not None and context.name == "h264"
        missing = set(wanted) if wanted is not None and self._stops_early else None
        try:
            for packet in self._packets():
                if key is not None:
                    if packet.pts is not None and packet.is_keyframe and packet.pts > key[0]:
                        return  # the seek went too far
                    if packet.pts != key[0]:
                        continue
                    key = None
                if skipping and wanted is not None:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from self._decoded(packet)
                if self._broken:
                    break
                if missing is not None:
                    missing.discard(packet.pts)
                    if not missing:
                        break  # the decoder has all that it needs, and only waits for more packets
            yield from self._decoded(None)
        finally:
            if skipping:
                context.skip_frame = "DEFAULT"

    def _decoded(self, packet: Any) -> Iterator[Any]:
        """Frames that the decoder puts out after one packet (None: the last ones). Notes damage and progress."""
        if packet is not None and packet.size == 0:
            return  # the decoder would take it for the end of the stream
        self._started = self._started or packet is None or packet.is_keyframe
        try:
            frames = self._stream.decode(packet)
        except self._av.FFmpegError:
            if not self._started:
                return  # a file that was cut between keyframes begins with frames that nothing can decode
            # At the end of a broken stream the decoder reports the same damage once more.
            if packet is not None or not self._broken:
                self._damage("cannot be decoded to its end")
            self._broken = True
            return
        self._deadline.check(self._name)
        for frame in frames:
            self._waiting = self._waiting and not is_entry(frame)
            if self._waiting or (frame.is_corrupt and not self._started):
                continue
            if frame.is_corrupt:
                self._damage("holds a broken frame")
                self._broken = True
                return
            if frame.pts is not None:
                self._readable = max(self._readable, bisect.bisect_right(self._pts, frame.pts))
            yield frame

    def _damage(self, what: str) -> None:
        self.damaged = True
        if not self._tolerate:
            raise self._corrupt(what)

    def _corrupt(self, what: str) -> CorruptMedia:
        return CorruptMedia(
            f"{self._name}: the video {what}; download or export the file again, "
            'or pass on_decode_error="truncate" to use what can be read.'
        )
