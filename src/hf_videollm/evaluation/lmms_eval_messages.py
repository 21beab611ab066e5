"""What lmms-eval shows a model, as chat messages of transformers: paths, pictures, sounds, and parts of videos.

A medium of lmms-eval is a path, an address, a PIL picture, a sound `{"array": ..., "sampling_rate": ...}`, or a
dictionary with a path and the seconds between which a video is meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .items import Medium

__all__ = ["Turns", "media_of", "turns_of_messages", "user_turn"]

# Messages of a chat in the form that processors of transformers take.
Turns = list[dict[str, Any]]

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp")
SOUNDS = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus")
# Names of the ends of a part of a video, in message items and in dictionaries of `doc_to_visual`.
STARTS = ("start_time", "video_start", "start")
ENDS = ("end_time", "video_end", "end")
PLACES = ("url", "path", "video", "image", "audio")
OTHER_KEYS = ("type", "array", "sampling_rate", "bytes")


def turns_of_messages(messages: Sequence[Mapping[str, Any]], system: str | None = None) -> Turns:
    """The messages of a task.

    Args:
        messages: what `doc_to_messages` of lmms-eval returns: `{"role", "content"}`, the content a text or a list of
            blocks `{"type": "text", "text"}` or `{"type": "video", "url", "start_time", "end_time"}` and the like.
        system: put before them; a system message of the task is then left out.

    Raises:
        ValueError: a block is of a form that lmms-eval does not have.

    Example:
        >>> turns_of_messages([{"role": "user", "content": [{"type": "video", "url": "a.mp4", "end_time": 3.0}]}])
        [{'role': 'user', 'content': [{'type': 'video', 'path': 'a.mp4', 'end': 3.0}]}]
    """
    turns: Turns = []
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append({"role": message["role"], "content": [_block(block) for block in blocks]})
    if system:
        turns = [turn for turn in turns if turn["role"] != "system"]
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return turns


def user_turn(visuals: Sequence[Any] | None, text: str, system: str | None = None) -> Turns:
    """One turn of the user: the media of `doc_to_visual`, then the text.

    Raises:
        ValueError: a medium is of a form that lmms-eval does not have.
    """
    content: list[dict[str, Any]] = [{"type": _kind(visual), "url": visual} for visual in visuals or []]
    content.append({"type": "text", "text": text})
    return turns_of_messages([{"role": "user", "content": content}], system)


def media_of(turns: Turns, name: str) -> tuple[Medium, ...]:
    """The media of messages, for records and for telling whether two questions are on the same media.

    Args:
        turns: the messages.
        name: of the question. Media without a path are called after it.
    """
    media: list[Medium] = []
    for turn in turns:
        for block in turn["content"]:
            if (kind := block["type"]) != "text":
                path = block.get("path")
                place = f"{name}:{len(media)}" if path is None else path
                media.append(Medium(Path(place), kind, block.get("start"), block.get("end")))
    return tuple(media)


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind not in ("video", "image", "audio"):
        raise ValueError(f"lmms-eval gives a block of type {kind!r}: known are text, image, video and audio.")
    source = next((block[name] for name in PLACES if block.get(name) is not None), None)
    # A medium with bounds may be a dictionary inside the block.
    options = {**(source if isinstance(source, Mapping) else {}), **block}
    if isinstance(source, Mapping):
        if "array" in source:
            return {"type": "audio", "audio": source["array"], "sampling_rate": source["sampling_rate"]}
        _check_keys(source)
        source = source.get("bytes") or next((source[name] for name in PLACES if source.get(name) is not None), None)
    if source is None:
        raise ValueError(f"lmms-eval gives a block of type {kind!r} without a medium: {sorted(block)}.")
    result: dict[str, Any] = {"type": kind, "path" if isinstance(source, str) else kind: source}
    if kind == "video":
        for name, names in (("start", STARTS), ("end", ENDS)):
            value = next((options[key] for key in names if options.get(key) is not None), None)
            if value is not None:
                result[name] = float(value)
    return result


def _check_keys(source: Mapping[str, Any]) -> None:
    known = (*PLACES, *STARTS, *ENDS, *OTHER_KEYS)
    if unknown := [name for name in source if name not in known]:
        raise ValueError(f"lmms-eval gives a medium with {unknown[0]!r}, which would be ignored: known are {known}.")


def _kind(visual: Any) -> str:
    """What a medium of `doc_to_visual` is, by the rules of lmms-eval: by the suffix, and a video if nothing is said."""
    from PIL import Image

    if isinstance(visual, Image.Image):
        return "image"
    if isinstance(visual, Mapping):
        return "audio" if "array" in visual else str(visual.get("type", "video"))
    if isinstance(visual, str):
        suffix = Path(visual).suffix.lower()
        return "image" if suffix in PICTURES else "audio" if suffix in SOUNDS else "video"
    # Frames, as a list of pictures or an array.
    return "video"
