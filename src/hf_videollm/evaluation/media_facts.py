"""What the records say of the media of an item: paths, exact frames, and where a file is not as its annotation says."""

from __future__ import annotations

from typing import Any

from .items import Item, Medium

__all__ = ["media_facts", "skipped_frames"]

# A file may differ so much from its annotation. Annotations are rounded, to whole seconds in some sets, and players
# count the length of a file in several ways.
SLACK_SECONDS, SLACK_FRAMES, SLACK_SHARE = 1.0, 2.0, 0.02


def media_facts(item: Item, metadata: list[Any]) -> list[dict[str, Any]]:
    """What the records say of the media of an item.

    Args:
        item: that was asked.
        metadata: of its videos, from the processor.

    Returns:
        For each medium its `type` and `path`. A video has also `start` and `end`, if a part was asked about, `frames`
        (numbers of the frames that the model got, in the file or folder) and `fps`. `ends` is the second at which it
        ends, if the part should go on behind that. `stated` and `found` are length and number of frames as annotated
        and as they are, if they differ.
    """
    facts, number = [], 0
    for medium in item.media:
        fact: dict[str, Any] = {"type": medium.type, "path": str(medium.path)}
        fact |= {name: getattr(medium, name) for name in ("start", "end") if getattr(medium, name) is not None}
        if medium.type == "video" and number < len(metadata):
            fact |= _video_facts(medium, metadata[number])
            number += 1
        facts.append(fact)
    return facts


def skipped_frames(medium: Medium, frames: list[str] | None) -> int:
    """Frames of a folder before the part that the model gets as a list."""
    if frames is None or (medium.start is None and medium.end is None):
        return 0
    return medium.chosen_frames(len(frames))[0]


def _video_facts(medium: Medium, known: Any) -> dict[str, Any]:
    frames = medium.frame_files()
    # The records number the frames of the whole folder.
    offset = skipped_frames(medium, frames)
    facts: dict[str, Any] = {
        "frames": [int(index) + offset for index in known.frames_indices],
        "fps": None if not known.fps else round(float(known.fps), 6),
    }
    fps = medium.fps if frames is not None else known.fps
    seconds = known.duration if frames is None else len(frames) / fps if fps else None
    if medium.end is not None and fps and seconds is not None and medium.end > float(seconds) + 1 / float(fps):
        # The model saw less than was asked about. A difference of a frame is rounding.
        facts["ends"] = round(float(seconds), 3)
    return facts | _unlike_annotation(medium, seconds, known.total_num_frames if frames is None else len(frames))


def _unlike_annotation(medium: Medium, seconds: float | None, num_frames: int | None) -> dict[str, Any]:
    """`stated` and `found`, if the annotations know another length of the whole file."""
    stated: dict[str, float] = {}
    found: dict[str, float] = {}
    for name, said, there, slack in (
        ("seconds", medium.stated_seconds, seconds, SLACK_SECONDS),
        ("frames", medium.stated_frames, num_frames, SLACK_FRAMES),
    ):
        if said is not None and there is not None and abs(said - there) > max(slack, SLACK_SHARE * said):
            stated[name], found[name] = said, round(there, 3)
    return {"stated": stated, "found": found} if stated else {}
