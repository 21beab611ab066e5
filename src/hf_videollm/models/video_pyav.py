"""Frames by number with PyAV, which carries its own FFmpeg."""

from __future__ import annotations

import bisect
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .media_errors import CorruptMedia, Deadline, MediaLimits, MediaTooLarge, MissingBackend, NoVideoStream
from .media_source import MediaHandle, is_cut_short, unreadable
from .video_clip import Clip, DecodingStopped, FrameCountChanged

# Demuxers that may be used. The list keeps out playlists (which open further files and addresses), picture
# and text "videos", and devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,gif,asf,ogg,wav,w64,mp3,aac,flac,aiff,au,caf,amr,"
    "ac3,eac3,mpegvideo,h264,hevc,m4v,mxf,wtv,rm,dv,ivf,obu,nut"
)
_MAX_PACKETS = 10_000_000  # 90 hours at 30 frames a second; bounds the memory of the packet list
_THREADS = max(1, min(4, os.cpu_count() or 1))


def import_pyav() -> Any:
    """The `av` module. Raises `MissingBackend` with the command to install it."""
    try:
        import av
    except ImportError:
        raise MissingBackend('PyAV is not installed, and it decodes video here; run: pip install "av>=16"') from None
    return av


def open_container(handle: MediaHandle) -> Any:
    """An opened `av` input container; the caller closes it.

    Raises:
        UnsupportedMedia, CorruptMedia: no container in it, or a damaged one.
    """
    av = import_pyav()
    options = {"format_whitelist": CONTAINERS}
    try:
        return av.open(handle.for_pyav(), mode="r", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError, IndexError):
        raise unreadable(handle) from None


def best_stream(container: Any, kind: str) -> Any:
    """The main stream of a kind, "video" or "audio", or None. A cover picture of a song is no video."""
    streams = [s for s in getattr(container.streams, kind) if s.codec_context is not None]
    streams = [s for s in streams if kind != "video" or not _is_cover(s)]
    best = container.streams.best(kind)
    # Streams are compared by number: PyAV may wrap the same one twice.
    return next((s for s in streams if best is not None and s.index == best.index), streams[0] if streams else None)


def _is_cover(stream: Any) -> bool:
    disposition = stream.disposition
    return bool(disposition & type(disposition).attached_pic)


def file_start(container: Any, earliest: float) -> float:
    """The time in seconds that counts as zero: the file's start, or `earliest` when the container's claim is later."""
    start = container.start_time
    if start is None:
        return earliest
    return min(start / import_pyav().time_base, earliest)


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture is turned for display: first the transposition, then the flips."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) as stored -> as shown."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        if self.flip_rows:
            picture = picture[::-1]
        if self.flip_columns:
            picture = picture[:, ::-1]
        return picture


def _orientation(frame: Any) -> Orientation:
    """The display matrix of a frame as quarter turns and mirrors; other angles are left as stored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


@dataclass
class _Run:
    key: tuple[int, int] | None
    indices: list[int]


class PyAVReader:
    """Decodes with PyAV: seeks to the keyframe before each group of wanted frames and decodes from there.

    A frame is known by its timestamp, so a seek that lands elsewhere is noticed; then, and for streams whose packets
    carry no usable timestamps, the file is decoded from its beginning.
    """

    backend = "pyav"

    def __init__(self, handle: MediaHandle, limits: MediaLimits, deadline: Deadline, tolerate_damage: bool) -> None:
        self._av = import_pyav()
        self._name = handle.name
        self._limits = limits
        self._deadline = deadline
        self._tolerate = tolerate_damage
        self._pts = array("q")
        self._keys: list[tuple[int, int]] = []
        self._last_duration: int | None = None
        self._broken = False  # decoding met damage
        self._readable = 0  # frames known to decode
        self.damaged = is_cut_short(handle)
        if self.damaged and not tolerate_damage:
            raise self._corrupt("ends too early")
        self._container = open_container(handle)
        try:
            self._open_stream()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def unsuited_for(self, backend: str) -> str | None:
        """Why another decoder would not give the same frames of this file, or None. All of this was measured."""
        if self.damaged:
            return "trouble with damaged files"
        if self._counting:
            return "no timestamps to go by"
        if not self._container.format.name.startswith(("mov", "matroska")):
            # Transport streams and the like have no index, and decord then returns neighbouring frames.
            return "inexact seeking in this container"
        if backend == "decord" and self._orientation != Orientation():
            return "no way to turn pictures"
        if self._stream.codec_context.name == "hevc" and backend == "decord":
            return "damaged pictures after seeking in HEVC"
        if self._stream.codec_context.name in ("vp8", "libvpx"):
            return "no way to tell hidden frames of VP8"
        return None

    # -- opening --

    def _open_stream(self) -> None:
        self._stream = best_stream(self._container, "video")
        if self._stream is None:
            raise NoVideoStream(
                f"{self._name}: there is no video in this file; pass another, or, to a model that hears, pass it as "
                "audio=."
            )
        context = self._stream.codec_context
        self._limits.check_picture(self._name, context.width, context.height)
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        context.thread_type = "AUTO"
        # Starting threads costs more than decoding small pictures.
        context.thread_count = _THREADS if context.width * context.height >= 100_000 else 1
        self._read_packet_list()
        first = self._first_frame()
        self._orientation = _orientation(first)
        width, height = first.width, first.height
        self._size = (width, height)
        if self._orientation.transpose:
            width, height = height, width
        self.clip = self._make_clip(np.frombuffer(self._pts, dtype=np.int64), width, height)

    def _read_packet_list(self) -> None:
        """Presentation times of all frames and the places to seek to, from the packets alone."""
        pts, complete = array("q"), True
        keys: list[tuple[int, int]] = []
        rate = self._stream.average_rate or self._stream.guessed_rate
        # In AVI a packet has no presentation time, so with B-frames only the order of output is true.
        self._counting = self._container.format.name == "avi" and bool(self._stream.codec_context.has_b_frames)
        fallback = 0
        last_dts: int | None = None
        for packet in self._packets():
            if packet.is_corrupt:
                self._damage("ends in a broken packet")
                break
            if packet.pts is None:
                complete = False
                fallback += 1
                continue
            last_dts = packet.dts
            if packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
            if not packet.is_discard:
                pts.append(packet.pts)
                self._last_duration = packet.duration
                self._check_packets(pts)
        if self.damaged and last_dts is not None and not self._counting:
            # Packets come in decoding order. Of the frames up to the last packet's decoding time none can be missing;
            # of later ones some may, and then the numbers would be wrong.
            pts = array("q", [p for p in pts if p <= last_dts])
        order = sorted(pts)
        if not complete or len(set(order)) != len(order):
            # Some frames have no time of their own: number them, at the rate that the container claims.
            self._counting = True
            step = round(1 / (rate * self._stream.time_base)) if rate else 1
            base = order[0] if order else 0
            order = [base + i * max(1, step) for i in range(len(pts) + fallback)]
        if not order:
            raise self._corrupt("holds no frames")
        self._pts = array("q", order)
        self._keys = sorted(keys)

    def _packets(self) -> Iterator[Any]:
        """Packets of the video stream from the current position, the flushing one left out."""
        packets = self._container.demux(self._stream)
        seen = 0
        while True:
            try:
                packet = next(packets, None)
            except (self._av.FFmpegError, OSError):
                self._damage("breaks off")
                return
            if packet is None or packet.size == 0:
                return
            seen += 1
            if seen % 256 == 0:
                self._deadline.check(self._name)
            yield packet

    def _check_packets(self, pts: array[int]) -> None:
        if len(pts) % 256:
            return
        if len(pts) > _MAX_PACKETS:
            raise MediaTooLarge(f"{self._name}: more than {_MAX_PACKETS:,} frames; cut the file.")
        seconds = float((pts[-1] - pts[0]) * self._stream.time_base)
        self._limits.check_duration(self._name, seconds)

    def _first_frame(self) -> Any:
        """The first frame that decodes: it alone tells the true size and the rotation."""
        self._rewind()
        for frame in self._decode_from_here():
            self._limits.check_picture(self._name, frame.width, frame.height)
            return frame
        raise self._corrupt("holds no frame that can be decoded")

    def _make_clip(self, pts: np.ndarray, width: int, height: int) -> Clip:
        tick = float(self._stream.time_base)
        times = pts * tick
        times -= file_start(self._container, float(times[0]))
        span = float(times[-1] - times[0])
        claimed = self._stream.average_rate
        claimed = float(claimed) if claimed else None
        rate = (len(pts) - 1) / span if span > 0 else claimed
        # The container's own rate is the round number, believed only when the timestamps say the same.
        if claimed and rate and abs(claimed - rate) <= 0.01 * rate:
            rate = claimed
        last = (self._last_duration or 0) * tick
        if not 0 < last < 10 * (1 / rate if rate else 1.0):
            last = 1 / rate if rate else 0.0
        duration = span + last
        self._limits.check_duration(self._name, duration)
        return Clip(times, duration, rate, width, height)

    # -- decoding --

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """See `FrameReader.frames`.

        Raises:
            CorruptMedia: damage was met and is not tolerated; DecodingStopped: it is tolerated.
            FrameCountChanged: `clip` was wrong and is right now.
        """
        done = 0
        if not self._counting:
            for run in self._runs(indices):
                for index, frame in self._decode_run(run):
                    yield index, self._picture(frame)
                    done += 1
                if indices[done - 1] != run.indices[-1]:
                    break  # the seek was not exact
        if done < len(indices) and not self._broken:
            yield from self._decode_all(indices[done:])
        elif done < len(indices):
            # A later frame may have come out by itself, so the first one missed is a bound as well.
            raise DecodingStopped(min(self._readable, indices[done]))

    def _runs(self, indices: Sequence[int]) -> list[_Run]:
        """Wanted frames grouped by the keyframe to start from; near groups are joined, as a seek costs frames too."""
        key_pts = [key[0] for key in self._keys]
        runs: list[_Run] = []
        for index in indices:
            place = bisect.bisect_right(key_pts, self._pts[index]) - 1
            if place < 0:
                runs = runs or [_Run(None, [])]  # before the first keyframe: from the beginning
            elif not runs or (
                runs[-1].key is not self._keys[place]
                and bisect.bisect_left(self._pts, key_pts[place]) - runs[-1].indices[-1] > 8
            ):
                runs.append(_Run(self._keys[place], []))
            runs[-1].indices.append(index)
        return runs

    def _decode_run(self, run: _Run) -> Iterator[tuple[int, Any]]:
        """Frames of one run, in order; stops at the first that does not come out where it should."""
        wanted = [self._pts[index] for index in run.indices]
        if run.key is None:
            self._rewind()
        else:
            try:
                self._container.seek(run.key[1], stream=self._stream, backward=True)
            except (self._av.FFmpegError, OSError):
                return  # a damaged index; decoding from the beginning may still do
        done = 0
        for frame in self._decode_from_here(run.key, set(wanted)):
            if frame.pts is None or frame.pts > wanted[done]:
                return
            if frame.pts == wanted[done]:
                yield run.indices[done], frame
                done += 1
                if done == len(wanted):
                    return

    def _decode_all(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames by counting from the beginning; recounts the clip when the stream ends before the list does."""
        self._rewind()
        times, done = array("q"), 0
        for count, frame in enumerate(self._decode_from_here()):
            times.append(frame.pts if frame.pts is not None else count)
            wanted = indices[done]
            if wanted == count if self._counting else self._pts[wanted] == frame.pts:
                yield wanted, self._picture(frame)
                done += 1
                if done == len(indices):
                    return
        if self._broken:
            raise DecodingStopped(min(len(times) if self._counting else self._readable, indices[done]))
        self._recount(times)
        raise FrameCountChanged

    def _recount(self, times: array[int]) -> None:
        """Takes the frames that really came out as the clip: hidden frames, for one, are packets but no pictures."""
        if not times:
            raise self._corrupt("holds no frame that can be decoded")
        if list(times) != sorted(set(times)):
            times = self._pts[: len(times)]
        self._pts = times
        self._counting = True
        self.clip = self._make_clip(np.frombuffer(times, dtype=np.int64), self.clip.width, self.clip.height)

    def _rewind(self) -> None:
        start = self._stream.start_time
        beginning = min([0, start or 0, *(dts for _, dts in self._keys[:1])])
        try:
            self._container.seek(beginning, stream=self._stream, backward=True)
        except (self._av.FFmpegError, OSError):
            try:
                self._container.seek(0)
            except (self._av.FFmpegError, OSError):
                raise self._corrupt("has a damaged index") from None

    def _decode_from_here(self, key: tuple[int, int] | None = None, wanted: set[int] | None = None) -> Iterator[Any]:
        """Decoded frames from the position of the container, or from the packet of keyframe `key` after it on."""
        context = self._stream.codec_context
        # H.264 marks frames that no other frame needs; unless wanted they can be left out. The marks of HEVC hold
        # only within one temporal layer, so there they are not used.
        skipping = wanted is not None and context.name == "h264"
        try:
            for packet in self._packets():
                if packet.is_corrupt:
                    self._damage("holds a broken packet")
                    self._broken = True
                    break
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
            yield from self._decoded(None)
        finally:
            if skipping:
                context.skip_frame = "DEFAULT"

    def _decoded(self, packet: Any) -> Iterator[Any]:
        """Frames that come out after one packet (None: the last ones); notes damage and how far decoding got."""
        try:
            frames = self._stream.decode(packet)
        except self._av.FFmpegError:
            # At the end of a broken stream the decoder complains once more; nothing new is learnt from that.
            if packet is not None or not self._broken:
                self._damage("cannot be decoded to its end")
            self._broken = True
            return
        self._deadline.check(self._name)
        for frame in frames:
            if frame.is_corrupt:
                self._damage("holds a broken frame")
                self._broken = True
                return
            if frame.pts is not None:
                self._readable = max(self._readable, bisect.bisect_right(self._pts, frame.pts))
            yield frame

    def _picture(self, frame: Any) -> np.ndarray:
        """uint8 (H, W, 3) RGB as shown; a stream that changes its size keeps the first one."""
        self._limits.check_picture(self._name, frame.width, frame.height)
        width, height = self._size
        return self._orientation.apply(frame.to_ndarray(format="rgb24", width=width, height=height))

    # -- errors --

    def _damage(self, what: str) -> None:
        self.damaged = True
        if not self._tolerate:
            raise self._corrupt(what)

    def _corrupt(self, what: str) -> CorruptMedia:
        return CorruptMedia(
            f"{self._name}: the video {what}; download or export the file again, "
            'or pass on_decode_error="truncate" to use what can be read.'
        )
