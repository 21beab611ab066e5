"""Subtitles of videos: SRT files, and the lines that are shown at given times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .data_files import DataError
from .items import Item

__all__ = ["FRAME_TIMES", "SUBTITLES", "SubtitleLine", "frame_times", "lines_at", "lines_covering", "middle_times"]
__all__ += ["read_srt", "video_clock"]

# Where an item holds its subtitles, and, as soon as its video is decoded, the times of the frames that the model sees.
SUBTITLES, FRAME_TIMES = "subtitles", "frame_times"

_TIME = re.compile(
    r"\s*(?P<h0>\d+):(?P<m0>\d+):(?P<s0>\d+)[,.](?P<f0>\d+)\s*-->\s*(?P<h1>\d+):(?P<m1>\d+):(?P<s1>\d+)[,.](?P<f1>\d+)"
)
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


class SubtitleLine(NamedTuple):
    """One entry of an SRT file.

    Attributes:
        start: second from which it is shown.
        end: second until which it is shown.
        text: without marks of fonts and styles; line breaks are blanks.
        raw: as it stands in the file.
    """

    start: float
    end: float
    text: str
    raw: str


def read_srt(path: Path) -> tuple[SubtitleLine, ...]:
    """The entries of an SRT file, in their order.

    Raises:
        DataError: the file cannot be read, or an entry has no times.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as subtitles in UTF-8: {error}") from error
    lines, found = content.splitlines(), []
    starts = [number for number, line in enumerate(lines) if _TIME.match(line)]
    if not starts:
        if content.strip():
            raise DataError(f"{path} has no line such as '00:00:01,000 --> 00:00:02,000': it is no SRT file.")
        return ()
    for start, following in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        # The line before the times of the next entry is its number.
        words = [line for line in lines[start + 1 : following - 1] if line.strip()]
        raw = " ".join(words)
        begin, end = _seconds(lines[start])
        found.append(SubtitleLine(begin, end, " ".join(_TAG.sub("", raw).split()), raw))
    return tuple(found)


def _seconds(line: str) -> tuple[float, float]:
    match = _TIME.match(line)
    assert match is not None
    part = match.groupdict()
    begin, end = (
        int(part[f"h{side}"]) * 3600 + int(part[f"m{side}"]) * 60 + float(f"{part[f's{side}']}.{part[f'f{side}']}")
        for side in "01"
    )
    return begin, end


def lines_at(lines: Sequence[SubtitleLine], times: Iterable[float]) -> list[SubtitleLine]:
    """For each time the first line that is shown then, if there is one. A line may come several times.

    Video-MME asks for as many lines as there are frames: those that are shown at the times of the frames.

    Examples:
        >>> lines = [SubtitleLine(0.0, 2.0, "Hello.", "Hello."), SubtitleLine(5.0, 6.0, "Bye.", "Bye.")]
        >>> [line.text for line in lines_at(lines, [1.0, 3.0, 5.5])]
        ['Hello.', 'Bye.']
    """
    shown = (next((line for line in lines if line.start < time < line.end), None) for time in times)
    return [line for line in shown if line is not None]


def lines_covering(lines: Iterable[SubtitleLine], times: Sequence[float]) -> list[SubtitleLine]:
    """The lines that are shown at one of the times, each once, in the order of the file: LongVideoBench's rule.

    A line that is shown for less than a second counts as shown for a whole one.

    Examples:
        >>> lines = [SubtitleLine(0.0, 2.0, "Hello.", "Hello."), SubtitleLine(5.0, 5.2, "Bye.", "Bye.")]
        >>> [line.text for line in lines_covering(lines, [1.0, 1.5, 5.5])]
        ['Hello.', 'Bye.']
    """
    return [line for line in lines if any(start < time < end for start, end in [_second(line)] for time in times)]


def _second(line: SubtitleLine) -> tuple[float, float]:
    """Start and end of a line; of the second around its middle if it is shorter."""
    if line.end - line.start >= 1:
        return line.start, line.end
    middle = (line.start + line.end) / 2
    return middle - 0.5, middle + 0.5


def frame_times(item: Item) -> tuple[float, ...]:
    """Seconds of the file at which the frames are shown that the model sees; none while that is not known.

    `asking.Asker.as_seen` finds them out. An item whose video cannot be read has none, and it gets no answer anyway.
    """
    return tuple(item.extra.get(FRAME_TIMES, ()))


@lru_cache(maxsize=4096)
def video_clock(path: Path) -> tuple[int, float] | None:
    """Number of frames and frames per second of a video; None where it cannot be read, which the run reports itself."""
    from ..models.errors import MediaError
    from ..models.media_video import probe_video

    try:
        metadata = probe_video(str(path))
    except MediaError:
        return None
    frames, fps = metadata.total_num_frames, metadata.fps
    return (int(frames), float(fps)) if frames and fps else None


def middle_times(num_frames: int, clock: tuple[int, float]) -> list[float]:
    """Times of so many frames in the middles of equal parts of a video, by VideoLLaMA2's rule for subtitles.

    Part i goes from round(s i) to round(s (i + 1)), where s is (frames - 1) / num_frames and halves are rounded to even
    numbers. Its middle is rounded down.

    Args:
        num_frames: that the model sees.
        clock: of `video_clock`.

    Example:
        >>> middle_times(2, (101, 10.0))
        [2.5, 7.5]
    """
    frames, fps = clock
    step = (frames - 1) / num_frames
    return [(round(step * index) + round(step * (index + 1))) // 2 / fps for index in range(num_frames)]
