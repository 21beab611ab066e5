"""Canonical records as the processors of this package take them: no empty keys, and parts of folders as pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["blocks_of", "chat_of", "chosen_frames", "is_canonical", "silent_videos"]

# What a processor reads of a block; the other keys say how a medium is stored.
_SHOWN = ("type", "text", "path", "url", "video", "image", "audio", "start", "end")


def is_canonical(messages: Any) -> bool:
    """Whether these are messages of a canonical record that shows a video: its block says how it is stored."""
    return any(block.get("kind") is not None for block in blocks_of(messages))


def chat_of(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a canonical record as a chat. `root` must be part of the paths already.

    Raises:
        MediaNotFound: a folder of frames, of which a part is shown, does not exist.
        ValueError: this part lies behind its last frame.
    """
    return [
        {"role": message["role"], "content": [_shown(block) for block in message["content"]]} for message in messages
    ]


def silent_videos(messages: Any) -> list[bool]:
    """For each video whether its sound is not to be heard (`use_audio` is false), in reading order."""
    return [block.get("use_audio") is False for block in blocks_of(messages) if block.get("type") == "video"]


def chosen_frames(
    num_frames: int, start: float | None, end: float | None, fps: float, first: int = 1
) -> tuple[int, int]:
    """First and last picture, counted from 0, of a part of a folder of frames.

    The rule is that of PLLaVA, whose frames are numbered from 1: from max(1, round(start * fps)) to
    min(round(end * fps), number of frames), where halves are rounded to even numbers.

    Args:
        num_frames: pictures in the folder.
        start: second where the part begins; None for the beginning.
        end: second where it ends; None for the end.
        fps: frames per second.
        first: number of the first picture.

    Raises:
        ValueError: the part begins behind the last frame.

    Example:
        >>> chosen_frames(300, 2.0, 4.0, fps=3.0)
        (5, 11)
    """
    last_number = num_frames + first - 1
    begin = first if start is None else max(first, round(start * fps))
    stop = last_number if end is None else min(round(end * fps), last_number)
    if begin > last_number:
        raise ValueError(f"start={start:g} s lies behind the last of {num_frames} frames at {fps:g} fps")
    return begin - first, max(begin, stop) - first


def blocks_of(messages: Any) -> Iterable[Mapping[str, Any]]:
    """The blocks of messages of any form, as far as there are some."""
    for message in messages if isinstance(messages, Sequence) and not isinstance(messages, str) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for block in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
            if isinstance(block, Mapping):
                yield block


def _shown(block: Mapping[str, Any]) -> dict[str, Any]:
    has_part = block.get("start") is not None or block.get("end") is not None
    if block.get("kind") in ("frames", "images") and has_part:
        return {"type": "video", "video": _pictures(block)}
    shown = {name: block[name] for name in _SHOWN if block.get(name) is not None}
    if "://" in shown.get("path", ""):
        shown["url"] = shown.pop("path")
    return shown


def _pictures(block: Mapping[str, Any]) -> list[str]:
    """The pictures of a part of a folder of frames, which has no clock of its own."""
    # These load torch, which the command line must not need for its help.
    from ..models.errors import MediaNotFound
    from ..models.media_frames import folder_pictures

    folder = str(block["path"])
    if not os.path.isdir(folder):
        raise MediaNotFound(f"{folder}: there is no such folder of frames; check the path.")
    pictures = folder_pictures(folder)
    first = block.get("first")
    try:
        begin, last = chosen_frames(
            len(pictures), block.get("start"), block.get("end"), block["fps"], 1 if first is None else first
        )
    except ValueError as error:
        raise ValueError(f"{Path(folder)}: {error}.") from None
    return pictures[begin : last + 1]
