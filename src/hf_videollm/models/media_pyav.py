"""Reads frames by number with PyAV, which includes its own FFmpeg."""

from __future__ import annotations

import bisect
import copy
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import Deadline, MediaLimits, MediaTooLarge, NoVideoStream
from .media_clip import Clip, DecodingStopped, FrameCountChanged
from .media_clock import container_start, frame_times, may_reset, usual_step
from .media_container import best_stream, open_container
from .media_index import anchor, is_packet, last_key, list_from_index
from .media_list_cache import Listing, file_identity, keep_listing, kept_listing
from .media_orientation import Orientation, orientation_of
from .media_packets import NO_TIME, PacketList
from .media_pyav_file import THREADS, PyAVFile
from .media_source import MediaHandle
from .media_video_head import TAG, Head, is_entry, time_of

_MAX_PACKETS = 10_000_000  # 90 hours at 30 frames a second; limits the memory of the packet list
_MOST_PIXELS = 2**31 - 1  # largest value of FFmpeg's option `max_pixels`; `MediaLimits` may contain infinity
# Decoders that return grey pictures, without an error, for frames whose reference frames are missing.
_BLIND = ("mpeg4", "h263", "flv", "msmpeg4", "wmv1", "wmv2")
# In these codecs a packet is a whole frame, unless the frame is interlaced.
_WHOLE_FRAMES = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d")


@dataclass
class _Run:
    """Wanted frames that are decoded together, from the keyframe `key`, (pts, dts), or from the beginning (None)."""

    key: tuple[int, int] | None
    indices: list[int]


class PyAVReader(PyAVFile):
    """Decodes with PyAV: seeks to the keyframe before each group of wanted frames and decodes from there.

    Frame i is the i-th picture that the decoder puts out when the file is decoded from its beginning. A clip that was
    cut between keyframes begins with frames that nothing can decode. They count too, with their times, and show the
    first picture that can be decoded, as players do.

    Numbers never depend on the frames that are asked for. Where the packets do not tell which pictures the decoder
    will put out (`PacketList.doubt`), the whole file is decoded once when it is opened. A frame is identified by its
    timestamp, so a seek to a wrong position is noticed. Then, and for streams without usable timestamps, the file is
    decoded from its beginning.
    """

    backend = "pyav"

    def __init__(
        self,
        handle: MediaHandle,
        limits: MediaLimits,
        deadline: Deadline,
        tolerate_damage: bool,
        trusts_index: bool = True,
    ) -> None:
        """Args:
        handle: the file.
        limits, deadline: checked before and while decoding.
        tolerate_damage: whether the frames before damage are used.
        trusts_index: whether the index of the container may take the place of the packets. It does not tell all that
            `unsuited_for` needs.
        """
        super().__init__(handle, limits, deadline, tolerate_damage)
        self._counting = False
        self._lead = array("q")  # times of the frames before the first picture
        self._identity = file_identity(handle)
        self._trusts_index, self._is_from_index = trusts_index, False
        try:
            self._open()
            if (known := kept_listing(self._identity, trusts_index)) is not None and not self.damaged:
                self._take_listing(known)
            else:
                self._read_stream()
            self._stops_early = self._stream.codec_context.name in _WHOLE_FRAMES and not self._packets_seen.doubt
        except BaseException:
            self.close()
            raise

    def unsuited_for(self, backend: str) -> str | None:
        """The reason why another decoder might return other frames of this file, or None.

        Other decoders trust the keyframe flags of the container, which may be wrong; read edit lists and fragments in
        their own ways; and do not check which frame they return. So they are used for plain files only: one picture per
        packet, an even rate from the beginning, and closed groups of pictures.
        """
        codec, container = self._stream.codec_context.name, self._container.format.name
        if self.damaged:
            return "trouble with damaged files"
        if self._packets_seen.doubt or self._packets_seen.oddity:
            return f"trouble with {self._packets_seen.doubt or self._packets_seen.oddity}"
        if self._counting or not self._begins_plainly:
            return "trouble with frames before the first keyframe"
        if not container.startswith(("mov", "matroska")):
            # Transport streams and some others have no index. decord then returns neighbouring frames.
            return "inexact seeking in this container"
        if container.startswith("mov") and self._stream.frames != self._packets_seen.count:
            return "trouble with fragments and edit lists"
        if not self._is_even():
            return "trouble with late first frames and uneven rates"
        if backend == "decord" and self._orientation != Orientation():
            return "no way to turn pictures"
        if codec == "hevc" and backend == "decord":
            return "damaged pictures after seeking in HEVC"
        if codec in ("vp8", "libvpx"):
            return "no way to tell hidden frames of VP8"
        return None

    def _is_even(self) -> bool:
        """Whether frame i is shown at i / rate seconds, with a tolerance of a quarter of a frame's duration."""
        times, rate = self.clip.timestamps, self.clip.fps
        if self._pts[0] or times[0]:
            return False
        return len(times) == 1 or bool(
            rate and np.allclose(times, np.arange(len(times)) / rate, rtol=0, atol=0.25 / rate)
        )

    # -- opening --

    def _open(self) -> None:
        """Opens the file, or opens it again, because a seek to the beginning does not always reach the first frame."""
        self.close()
        self._container = open_container(self._handle)
        self._stream = best_stream(self._container, "video")
        if self._stream is None:
            raise NoVideoStream(
                f"{self._name}: there is no video in this file; pass another file, or pass it as audio= to a model "
                "with an audio tower."
            )
        self._started = self._broken = False
        context = self._stream.codec_context
        self._waiting = context.name.startswith(_BLIND)
        self._limits.check_picture(self._name, context.width, context.height)
        context.options = {"max_pixels": str(int(min(self._limits.max_pixels, _MOST_PIXELS)))}
        context.thread_type = "AUTO"
        # Starting threads costs more than decoding small pictures.
        context.thread_count = THREADS if context.width * context.height >= 100_000 else 1

    def _read_stream(self) -> None:
        """Lists the frames: from the index of the container if it suffices, else from all packets of the file."""
        index = None
        if self._trusts_index and not self.damaged:
            index = list_from_index(self._handle, self._container, self._stream)
        if index is not None and (head := self._read_head(index)) is not None:
            self._packets_seen, self._keys = index, sorted(index.keys)
            self._look_at(head.first)
            self._number_frames(index, head, False)
            self._keep_listing(is_from_index=True)
            return
        if index is not None:
            self._open()
        self._read_packets()
        if not self.damaged:
            self._keep_listing(is_from_index=False)

    def _read_head(self, packets: PacketList) -> Head | None:
        """Decodes as far as the first keyframe, and compares the ends of the file with the list of its index.

        Returns:
            The first frames; None if the index is wrong, or if the packets are needed to say what the file holds.
        """
        head = Head()
        for position, packet in enumerate(self._packets()):
            if position == 0:
                anchor(packets, packet)
            if not is_packet(packets, position, packet):
                return None
            packet.pts = TAG + position  # the decoded frame then tells which packet it comes from
            for frame in self._decoded(packet):
                head.add(frame, packets)
                if head.has_key:
                    break
            if head.has_key or self._broken:
                break
        return head if head.has_key and not self._broken and self._is_list_of_the_end(packets) else None

    def _is_list_of_the_end(self, packets: PacketList) -> bool:
        """Whether the packets from the last keyframe on are those of a list. Notes how long the last one is shown."""
        position, last = last_key(packets), None
        if not self._seek(packets.keys[-1]):
            return False
        for packet in self._packets():
            if last is None and packet.pts != packets.keys[-1][0]:
                continue  # seeks may go to an earlier keyframe
            if not is_packet(packets, position, packet):
                return False
            position, last = position + 1, packet
        if last is None or self._broken or position != len(packets.pts) or last.dts != packets.last_dts:
            return False
        packets.last_duration = last.duration
        return True

    def _take_listing(self, known: Listing) -> None:
        """Uses the list of an earlier reader of the same file. The limits of this reader may be lower."""
        self._limits.check_picture(self._name, *known.size)
        self._limits.check_duration(self._name, known.clip.duration)
        # Its owner may change it.
        self._packets_seen = copy.copy(known.packets)
        self._keys = sorted(known.packets.keys)
        self._pts, self._lead, self._counting = known.pts, known.lead, known.counting
        self._orientation, self._size, self._has_fields = known.orientation, known.size, known.has_fields
        self._begins_plainly, self._is_from_index = known.begins_plainly, known.is_from_index
        self.clip = replace(known.clip, timestamps=known.clip.timestamps.copy())

    def _keep_listing(self, is_from_index: bool) -> None:
        self._is_from_index = is_from_index
        clip = replace(self.clip, timestamps=self.clip.timestamps.copy())
        listing = Listing(
            copy.copy(self._packets_seen),
            self._pts,
            self._lead,
            self._counting,
            clip,
            self._orientation,
            self._size,
            self._has_fields,
            self._begins_plainly,
            is_from_index,
        )
        keep_listing(self._identity, self._handle, listing)

    def _read_packets(self) -> None:
        """Reads all packets, and decodes as many as needed to know the number, times and size of the frames."""
        context, container = self._stream.codec_context, self._container.format.name
        packets = PacketList(context.name, container, context.extradata, bool(context.has_b_frames))
        head, whole = Head(), True
        for packet in self._packets():
            position = len(packets.pts)
            packets.add(packet)
            if packets.count > _MAX_PACKETS:
                raise MediaTooLarge(f"{self._name}: more than {_MAX_PACKETS:,} frames; cut the file.")
            if not whole:
                continue
            if len(packets.pts) > position:
                packet.pts = TAG + position
            for frame in self._decoded(packet):
                head.add(frame, packets)
                if head.has_key and not packets.doubt:
                    break  # the packets show which frames follow
            whole = not (self._broken or (head.has_key and not packets.doubt))
        packets.finish()
        self._packets_seen, self._keys = packets, sorted(packets.keys)
        if whole:
            for frame in self._decoded(None):
                head.add(frame, packets)
        if head.first is None:
            raise self._corrupt("holds no frame that can be decoded" if packets.count else "holds no frames")
        self._look_at(head.first)
        self._number_frames(packets, head, whole)
        self._broken = False

    def _look_at(self, first: Any) -> None:
        """Takes the size, orientation and interlacing of the video from its first frame."""
        self._limits.check_picture(self._name, first.width, first.height)
        self._orientation = orientation_of(first)
        self._size = (first.width, first.height)
        # In broadcasts, the two fields of a frame of H.264 may be two packets.
        is_h264 = self._stream.codec_context.name == "h264"
        self._has_fields = is_h264 and first.interlaced_frame and may_reset(self._container)
        if self._has_fields:
            self._packets_seen.doubt = self._packets_seen.doubt or "fields as packets"

    def _number_frames(self, packets: PacketList, head: Head, whole: bool) -> None:
        """Sets the list of frames. It changes later only if decoding shows that it is wrong (`FrameCountChanged`)."""
        self._begins_plainly = head.times[0] == head.key == min(packets.pts, default=None)
        if whole:
            shown = head.times
        elif packets.doubt or head.key == NO_TIME or head.key not in packets.pts:
            packets.doubt = packets.doubt or "a first frame without a packet"
            shown = self._decode_times()
        else:
            later = np.frombuffer(packets.pts, np.int64)
            shown = head.times[:-1] + array("q", np.sort(later[later >= head.key]).tobytes())
            if self.damaged and packets.last_dts is not None:
                # Packets come in decoding order. Frames up to the decoding time of the last packet are all in the file.
                # Of later frames some may be missing, and then the numbers would be wrong.
                shown = array("q", [time for time in shown if time <= packets.last_dts])
        if not shown:
            raise self._corrupt("holds no frames")
        self._lead = self._leading(packets, head, len(shown))
        self._take_frames(shown)

    def _leading(self, packets: PacketList, head: Head, shown: int) -> array[int]:
        """Times of the frames before the first picture; `shown` is the number of frames that can be decoded."""
        position = head.first_packet
        if position is None:  # the decoder does not tell which packet the first picture comes from
            return array("q")
        lead = packets.leading(position, head.packets)
        # If there are about two packets for each later frame, each packet is a field, and two packets are one frame.
        return lead[:: max(1, round((len(packets.pts) - position) / shown))] if self._has_fields else lead

    def _decode_times(self) -> array[int]:
        """Times of all frames, by decoding them all."""
        self._open()
        return array("q", [time_of(frame) for frame in self._decode_from_here()])

    def _take_frames(self, times: array[int]) -> None:
        times = self._lead + times
        if not self._packets_seen.has_times:
            times = array("q", [NO_TIME] * len(times))
        self._pts = times
        ticks = np.frombuffer(times, np.int64)
        self._counting = NO_TIME in times or bool((ticks[:-1] >= ticks[1:]).any())
        self.clip = self._make_clip(times)

    def _make_clip(self, pts: array[int]) -> Clip:
        """Describes the video from the timestamps of its frames."""
        tick = float(self._stream.time_base)
        ticks = np.frombuffer(pts, np.int64)
        known = ticks[ticks != NO_TIME] * tick
        # In streams without a container, `average_rate` is invented by FFmpeg; `guessed_rate` is read from the stream.
        is_bare = self._container.start_time is None and not len(known)
        claimed = None if is_bare else self._stream.average_rate
        claimed = claimed or self._stream.guessed_rate
        claimed = float(claimed) if claimed else None
        step = usual_step(known) or (1 / claimed if claimed else tick)
        times = frame_times(pts, tick, step, may_reset(self._container))
        start = container_start(self._container)
        times -= times[0] if start is None else min(start, times[0] if pts[0] == NO_TIME else start)
        span = float(times[-1] - times[0])
        rate = (len(pts) - 1) / span if span > 0 else claimed
        # The container's rate is a round number. It is used if the timestamps agree.
        if claimed and rate and abs(claimed - rate) <= 0.01 * rate:
            rate = claimed
        last = (self._packets_seen.last_duration or 0) * tick
        if not 0 < last < 10 * (1 / rate if rate else 1.0):
            last = 1 / rate if rate else 0.0
        duration = span + last
        self._limits.check_duration(self._name, duration)
        width, height = self._size
        if self._orientation.transpose:
            width, height = height, width
        return Clip(times, duration, rate, width, height)

    # -- decoding --

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """See `FrameReader.frames`.

        Raises:
            CorruptMedia: the file is damaged, and damage is not tolerated.
            DecodingStopped: the file is damaged, and damage is tolerated.
            FrameCountChanged: `clip` was wrong, and is corrected now.
        """
        first = len(self._lead)
        early = [index for index in indices if index < first]
        wanted = list(indices[len(early) :])
        only_for_early = bool(early) and wanted[:1] != [first]  # frame `first` is decoded, but itself not wanted
        for index, picture in self._pictures([first, *wanted] if only_for_early else wanted):
            if index == first:
                yield from ((early_index, picture) for early_index in early)
            if index != first or not only_for_early:
                yield index, picture

    def _pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """As `frames`, for frames that can be decoded."""
        done = 0
        if not self._counting:
            for run in self._runs(indices):
                for index, frame in self._decode_run(run):
                    yield index, self._picture(frame)
                    done += 1
                if done == 0 or indices[done - 1] != run.indices[-1]:
                    break  # the seek was not exact
        if done < len(indices) and not self._broken:
            yield from self._decode_all(indices[done:])
        elif done < len(indices):
            # `_readable` may count later frames that were decoded alone, so the first missing frame is a bound too.
            raise DecodingStopped(min(self._readable, indices[done]))

    def _runs(self, indices: Sequence[int]) -> list[_Run]:
        """The wanted frames, grouped by the keyframe before them. Near groups are joined, because a seek takes time."""
        key_pts = [key[0] for key in self._keys]
        runs: list[_Run] = []
        for index in indices:
            key = bisect.bisect_right(key_pts, self._pts[index]) - 1
            if key < 0:
                runs = runs or [_Run(None, [])]  # before the first keyframe: from the beginning
            elif not runs or (
                runs[-1].key is not self._keys[key]
                and bisect.bisect_left(self._pts, key_pts[key]) - runs[-1].indices[-1] > 8
            ):
                runs.append(_Run(self._keys[key], []))
            runs[-1].indices.append(index)
        return runs

    def _decode_run(self, run: _Run) -> Iterator[tuple[int, Any]]:
        """Frames of one run, in order. Stops where the decoder does not put out the next wanted frame."""
        wanted = [self._pts[index] for index in run.indices]
        if run.key is None:
            self._open()
        elif not self._seek(run.key):
            return  # decoding from the beginning may still work
        done, entered = 0, run.key is None
        for frame in self._decode_from_here(run.key, set(wanted)):
            if not entered:
                if frame.pts is not None and run.key is not None and frame.pts < run.key[0]:
                    continue  # it is shown before the keyframe, and refers to frames that were skipped
                if not is_entry(frame):
                    return  # its pixels depend on frames that were skipped
                entered = True
            if frame.pts is None or frame.pts > wanted[done]:
                return
            if frame.pts == wanted[done]:
                if frame.interlaced_frame and self._stops_early:
                    # The second field may be in a packet that was not decoded.
                    self._stops_early = False
                    yield from self._decode_run(_Run(run.key, run.indices[done:]))
                    return
                yield run.indices[done], frame
                done += 1
                if done == len(wanted):
                    return

    def _decode_all(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames by counting from the beginning. If the stream ends too early, the list of frames is corrected."""
        self._open()
        times, done, first = array("q"), 0, len(self._lead)
        for count, frame in enumerate(self._decode_from_here(), first):
            times.append(time_of(frame))
            wanted = indices[done]
            if wanted == count if self._counting else self._pts[wanted] == frame.pts:
                yield wanted, self._picture(frame)
                done += 1
                if done == len(indices):
                    return
        if self._broken:
            raise DecodingStopped(min(first + len(times) if self._counting else self._readable, indices[done]))
        if not times:
            raise self._corrupt("holds no frame that can be decoded")
        self._packets_seen.doubt = "packets without a picture"
        self._take_frames(times)
        if not self.damaged:
            self._keep_listing(self._is_from_index)
        raise FrameCountChanged

    def _picture(self, frame: Any) -> np.ndarray:
        """uint8 (H, W, 3) RGB, turned as a player shows it. Where a stream changes its size, the first size is kept."""
        self._limits.check_picture(self._name, frame.width, frame.height)
        width, height = self._size
        return self._orientation.apply(frame.to_ndarray(format="rgb24", width=width, height=height))
