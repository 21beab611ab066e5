"""Lists the frames of a video from the index of its container, so that the file need not be read to its end."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from .media_mp4_times import track_times
from .media_packets import EMPTY_MPEG4, PacketList
from .media_source import MediaHandle

# Codecs with frames that are never shown. Only their packets say which frames these are.
_HIDING = ("vp8", "vp9", "libvpx")


def list_from_index(handle: MediaHandle, container: Any, stream: Any) -> PacketList | None:
    """The list that all packets of the stream would give; None where the index of the container does not suffice.

    It suffices in MP4 and MOV files whose header lists every frame. FFmpeg's own index must have the same decoding
    times, up to a constant, so edit lists that move the whole track are allowed and those that cut it are not.
    Its presentation times are right up to a constant, see `anchor`. The list counts only if the first packets and those
    at the end of the file agree with it: a mistake about a decoding time or an offset would show there.

    Args:
        handle: the file.
        container: the opened file.
        stream: the video stream.
    """
    context = stream.codec_context
    entries = getattr(stream, "index_entries", None)  # older releases of PyAV have none
    if entries is None or not container.format.name.startswith("mov") or context.name.startswith(_HIDING):
        return None
    found = track_times(handle, stream.id)
    if found is None or len(found.decoded) < 2 or len(entries) != len(found.decoded):
        return None
    facts = (value for entry in entries for value in (entry.timestamp, entry.flags))
    times, flags = np.fromiter(facts, np.int64, 2 * len(entries)).reshape(-1, 2).T
    smallest = EMPTY_MPEG4 + 1 if context.name == "mpeg4" else 1
    if np.ptp(times - found.decoded) or (np.diff(times) < 0).any() or (flags & ~1).any() or found.smallest < smallest:
        return None
    shown = times + found.offsets
    keys = np.flatnonzero(flags & 1)
    if not np.diff(np.sort(shown)).all() or not len(keys) or _goes_back(shown, keys):
        return None
    packets = PacketList(context.name, container.format.name, context.extradata, bool(context.has_b_frames))
    packets.pts = array("q", shown.tobytes())
    packets.keys = [(int(shown[key]), int(times[key])) for key in keys]
    packets.count = len(shown)
    packets.last_dts = int(times[-1])
    return packets


def _goes_back(shown: np.ndarray, keys: np.ndarray) -> bool:
    """Whether the list from the packets would have doubts about the times, see `PacketList`."""
    latest = np.maximum.accumulate(shown)
    if any(key and shown[key] < latest[key - 1] for key in keys):
        return True
    # The keyframe before the last one, for every packet that follows at least two keyframes.
    before = np.searchsorted(keys, np.arange(len(shown)), side="left")
    late = before > 1
    return bool((shown[late] < shown[keys[before[late] - 2]]).any())


def anchor(packets: PacketList, first: Any) -> None:
    """Moves all presentation times by the same amount, so that the first one is that of the first packet."""
    if first.pts is None:
        return
    shift = first.pts - packets.pts[0]
    packets.pts = array("q", (np.frombuffer(packets.pts, np.int64) + shift).tobytes())
    packets.keys = [(shown + shift, decoded) for shown, decoded in packets.keys]


def is_packet(packets: PacketList, position: int, packet: Any) -> bool:
    """Whether a packet is the one that a list names at a position."""
    is_plain = packet.size and not (packet.is_corrupt or packet.is_discard)
    return bool(is_plain and position < len(packets.pts) and packet.pts == packets.pts[position])


def last_key(packets: PacketList) -> int:
    """Position of the last keyframe in a list from an index."""
    return len(packets.pts) - 1 - packets.pts[::-1].index(packets.keys[-1][0])


__all__ = ["anchor", "is_packet", "last_key", "list_from_index"]
