"""Decodes a little of the media of a record, which shows whether they can be decoded and how long they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .blocks import chat_of

__all__ = ["decoded_seconds"]

_RATE = 16_000


def decoded_seconds(record: Mapping[str, Any], num_frames: int = 8) -> Iterator[float]:
    """Decode the media of a record; lengths of its videos and sounds in seconds, as far as they are known.

    Args:
        record: a canonical record with whole paths.
        num_frames: frames that are decoded of each video.

    Raises:
        MediaError: a medium cannot be decoded, when it is reached.
    """
    # These load torch, which the command line must not need for its help.
    from ..models.errors import Deadline, MediaLimits
    from ..models.media_audio import load_audio
    from ..models.media_frames import load_picture
    from ..models.media_video import load_video

    limits = MediaLimits()
    for message in chat_of(record["messages"]):
        for block in message["content"]:
            part = {name: block[name] for name in ("start", "end") if name in block}
            source = block.get("video", block.get("path"))
            if block["type"] == "image":
                load_picture(source, limits, Deadline(limits.timeout))
            elif block["type"] == "audio" and source is not None:
                yield len(load_audio(source, sampling_rate=_RATE, **part)) / _RATE
            elif block["type"] == "video":
                metadata = load_video(source, num_frames=num_frames, **part)[1]
                if metadata.duration is not None:
                    end = min(part.get("end", metadata.duration), metadata.duration)
                    yield max(0.0, end - part.get("start", 0.0))
