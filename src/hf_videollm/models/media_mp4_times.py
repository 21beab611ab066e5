"""Reads from the header of an MP4 or MOV file when each frame of a track is decoded and shown.

FFmpeg's index of such a file holds the decoding times only. The header also holds the offset from the decoding time to
the time at which a frame is shown, for every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .media_source import MediaHandle

# A header of this size holds some 5 million frames, which is 48 hours at 30 frames a second.
_LARGEST_HEADER = 64 << 20
_MOST_SAMPLES = 10_000_000


@dataclass(frozen=True)
class TrackTimes:
    """Times of the samples of a track, in ticks of the track and in the order of decoding.

    Args:
        decoded: int64 (samples,), decoding times; the first is 0.
        offsets: int64 (samples,), what to add to get the time at which a sample is shown, up to a constant.
        smallest: bytes of the smallest sample.
    """

    decoded: np.ndarray
    offsets: np.ndarray
    smallest: int


def track_times(handle: MediaHandle, track_id: int) -> TrackTimes | None:
    """The times of a track; None where the header does not list all samples in a way that is known here.

    Such files are fragmented, are damaged, or have no header of this kind.

    Args:
        handle: the file.
        track_id: number of the track in the file, which is `id` of FFmpeg's stream.
    """
    with handle.reading() as stream:
        header = _movie_header(stream)
    if header is None or any(kind == b"mvex" for kind, _ in _boxes(header)):
        return None
    tracks = [content for kind, content in _boxes(header) if kind == b"trak" and _track_id(content) == track_id]
    return _times(tracks[0]) if len(tracks) == 1 else None


def _movie_header(stream: BinaryIO) -> memoryview | None:
    """The content of the box `moov`; None if there is none, several, or a huge one."""
    end, position = stream.seek(0, 2), 0
    found: memoryview | None = None
    while position + 8 <= end:
        stream.seek(position)
        head = stream.read(16)
        length, kind, used = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1 and len(head) == 16:
            length, used = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = end - position
        if length < used or position + length > end:
            return None
        if kind == b"moof" or (kind == b"moov" and (found is not None or length > _LARGEST_HEADER)):
            return None
        if kind == b"moov":
            stream.seek(position + used)
            found = memoryview(stream.read(length - used))
        position += length
    return found


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, content) of each box in the content of a box. Ends at a box whose size is impossible."""
    position = 0
    while position + 8 <= len(content):
        length, used = int.from_bytes(content[position : position + 4], "big"), 8
        if length == 1:
            length, used = int.from_bytes(content[position + 8 : position + 16], "big"), 16
        elif length == 0:
            length = len(content) - position
        if length < used or position + length > len(content):
            return
        yield bytes(content[position + 4 : position + 8]), content[position + used : position + length]
        position += length


def _child(content: memoryview, *path: bytes) -> memoryview | None:
    """The only box at a path of kinds, or None."""
    for kind in path:
        found = [inner for name, inner in _boxes(content) if name == kind]
        if len(found) != 1:
            return None
        content = found[0]
    return content


def _track_id(track: memoryview) -> int | None:
    header = _child(track, b"tkhd")
    if header is None or len(header) < 24:
        return None
    place = 20 if header[0] == 1 else 12  # version 1 stores two dates in 8 bytes each, not in 4
    return int.from_bytes(header[place : place + 4], "big")


def _times(track: memoryview) -> TrackTimes | None:
    table = _child(track, b"mdia", b"minf", b"stbl")
    if table is None:
        return None
    names = [name for name, _ in _boxes(table)]
    steps = _runs(_child(table, b"stts"))
    if steps is None:
        return None
    decoded = np.concatenate([[0], np.cumsum(np.repeat(steps[:, 1], steps[:, 0]))])[:-1]
    offsets = np.zeros(len(decoded), np.int64)
    if b"ctts" in names:
        runs = _runs(_child(table, b"ctts"))
        if runs is None or int(runs[:, 0].sum()) != len(decoded):
            return None
        # Offsets are signed in version 1 of this box. FFmpeg reads them as signed in every version.
        offsets = np.repeat(runs[:, 1].astype(np.uint32).view(np.int32).astype(np.int64), runs[:, 0])
    smallest = _smallest(_child(table, b"stsz"), len(decoded))
    return None if smallest is None else TrackTimes(decoded, offsets, smallest)


def _smallest(box: memoryview | None, samples: int) -> int | None:
    """Bytes of the smallest sample; None if the box does not give the size of each."""
    if box is None or len(box) < 12 or not samples or int.from_bytes(box[8:12], "big") != samples:
        return None
    if size := int.from_bytes(box[4:8], "big"):
        return size
    if 12 + 4 * samples > len(box):
        return None
    return int(np.frombuffer(box, dtype=">u4", count=samples, offset=12).min())


def _runs(box: memoryview | None) -> np.ndarray | None:
    """int64 (entries, 2): how many samples in a row have which value."""
    if box is None or len(box) < 8:
        return None
    count = int.from_bytes(box[4:8], "big")
    if 8 + 8 * count > len(box):
        return None
    runs = np.frombuffer(box, dtype=">u4", count=2 * count, offset=8).reshape(-1, 2).astype(np.int64)
    return runs if int(runs[:, 0].sum()) <= _MOST_SAMPLES else None
