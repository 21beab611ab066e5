"""Video files, and other sources of pictures, to uint8 frames with their metadata.

    frames, metadata = load_video("clip.mp4", num_frames=16)

Sound is read by `load_audio`. Every failure is a `MediaError` whose message is one line that names the file and says
what to do. The errors: `MediaNotFound`, `UnsupportedMedia` (text, a picture, an unknown object), `CorruptMedia` (empty,
truncated, damaged), `NoVideoStream`, `NoAudioStream`, `MediaTooLarge` (a budget of `MediaLimits`), `UnsafeURL`,
`MissingBackend`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
from transformers.video_utils import VideoMetadata

from .errors import (
    CheckpointError,
    CorruptMedia,
    Deadline,
    MediaError,
    MediaLimits,
    MediaNotFound,
    MediaTooLarge,
    MissingBackend,
    NoAudioStream,
    NoVideoStream,
    UnsafeURL,
    UnsupportedMedia,
    check_interval,
    check_num_frames,
    check_on_decode_error,
    warn_caller,
)
from .media_addresses import host_names
from .media_audio import load_audio
from .media_backends import available_backends, check_backend, is_usable, open_reader
from .media_clip import TIME_SLACK, Clip, DecodingStopped, FrameCountChanged, FrameReader
from .media_frames import FrameList
from .media_source import MediaHandle, VideoSource, is_frames, open_media, source_name
from .video_llm_option_names import names_options

__all__ = [
    "CheckpointError",
    "ClipMetadata",
    "CorruptMedia",
    "MediaError",
    "MediaLimits",
    "MediaNotFound",
    "MediaTooLarge",
    "MissingBackend",
    "NoAudioStream",
    "NoVideoStream",
    "UnsafeURL",
    "UnsupportedMedia",
    "VideoSource",
    "available_backends",
    "load_audio",
    "load_video",
    "probe_video",
]

logger = logging.getLogger(__name__)
FrameFn: TypeAlias = Callable[[np.ndarray], np.ndarray]


class ClipMetadata(VideoMetadata):
    """`VideoMetadata` of a file, with the time of every frame; the rate alone says little where it varies.

    Attributes:
        frame_times: float64 (total_num_frames,), seconds of the file, see `load_video`. None in a copy made with
            `dataclasses.replace`, which knows only the fields of `VideoMetadata`; then the rate has to do.
    """

    frame_times: np.ndarray | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the chosen frames (`frames_indices`)."""
        if self.frame_times is None:
            return super().timestamps
        indices = range(self.total_num_frames) if self.frames_indices is None else self.frames_indices
        return [float(self.frame_times[index]) for index in indices]


@names_options
def load_video(
    source: VideoSource,
    *,
    sample_indices_fn: Callable[..., Any] | None = None,
    num_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    backend: str = "auto",
    limits: MediaLimits = MediaLimits(),  # noqa: B008 (frozen)
    allowed_hosts: Sequence[str] = (),
    on_decode_error: Literal["raise", "truncate"] = "raise",
    frame_fn: FrameFn | None = None,
) -> tuple[np.ndarray, VideoMetadata]:
    """Frames of a video, all of them or those asked for.

    Args:
        source: a path, `file://` or (see `allowed_hosts`) http(s) address, base64 data URL, bytes, or binary file
            object of a video or GIF; what a column of `datasets` holds, as a decoder or as a dict of bytes and path; a
            folder of pictures in natural order; an opened animation; or frames: a list of PIL pictures, arrays,
            tensors or picture files, or one array or tensor (T, H, W, 3) or (T, 3, H, W). Pictures are turned as EXIF
            says; numbers are whole ones from 0 to 255 (`media_pictures` has the rule for every mode and type).
        sample_indices_fn: called as `fn(metadata=VideoMetadata)`; returns the wanted frame numbers, in any order and
            with repeats. It goes before `num_frames`.
        num_frames: this many frames, the middle ones of as many equal parts; frames repeat when the clip is shorter.
        start: second of the file at which the clip begins. Second 0 is the moment at which the file begins: where the
            earliest of its tracks does, pictures or sound, whatever its own clock says then. Players show it as 0:00,
            `ffmpeg -ss` counts from it, and so do frame times, `load_audio`, `probe_video` and the processors. The
            frames that begin from `start` until before `end` (the one on screen where none does) are the clip that
            `num_frames` divides and that `sample_indices_fn` sees and numbers from 0. A sampler that wants file numbers
            must be used without them.
        end: second before which the clip ends, on the same clock.
        backend: "pyav", "decord", "torchcodec", or "auto" for the first that works here. Frame i is the i-th picture
            that comes out when the file is decoded from its beginning, whatever else is asked for and whichever of
            them reads it. Frames before the first picture, which nothing can decode in a clip that begins between
            keyframes, count as the file counts them, with its times, and show that first picture. The others are given
            plain files alone; the rest (cut between keyframes, edited, in fragments, of uneven rate, ...) is decoded by
            PyAV, and `metadata.video_backend` says so.
        limits: budgets, checked before and while decoding.
        allowed_hosts: hosts that may be downloaded from; none by default. A host whose name leads to a private
            address is refused unless the address itself is listed.
        on_decode_error: "raise", or "truncate": warn and return the wanted frames that come before the damage.
        frame_fn: applied to each frame, uint8 (H, W, 3), as it is decoded, e.g. to make it smaller: an hour of frames
            then never lies in memory at full size. It must give all frames one size.

    Returns:
        frames: uint8 (T, H, W, 3), RGB, rotated as shown, in the order of the wanted numbers.
        metadata: of the whole file: `total_num_frames`, `fps` (the mean where it varies; None for pictures),
            `duration` in seconds, `width`, `height`, `video_backend`; `frames_indices` are file numbers. For a
            damaged file, `total_num_frames` counts the frames that can be read.

    Raises:
        MediaError: one of its subclasses; see the module.
        ValueError: a wrong argument, among them frame numbers outside of the clip.
    """
    check_num_frames(num_frames)
    check_interval(start, end)
    _check_functions(sample_indices_fn=sample_indices_fn, frame_fn=frame_fn)
    allowed_hosts = _checked_reading(backend, allowed_hosts, on_decode_error)
    if num_frames is not None and num_frames > limits.max_frames:
        # Before the list of their numbers fills the memory.
        limits.check_result(source_name(source), num_frames, 1, 1)
    sampler = sample_indices_fn or _Uniform(num_frames)
    deadline = Deadline(limits.timeout)
    if is_frames(source):
        frames = FrameList(source, limits, deadline, allowed_hosts)
        return _load_frames(frames, sampler, start, end, limits, frame_fn)
    with _opened(source, backend, limits, allowed_hosts, deadline, on_decode_error == "truncate") as (handle, reader):
        try:
            return _read_counted(reader, handle.name, sampler, start, end, limits, frame_fn)
        except CorruptMedia:
            if reader.backend == "pyav" or not is_usable("pyav"):
                raise
        # The other decoder failed. PyAV may succeed, and otherwise has the better error message.
        second = open_reader(handle, "pyav", limits, deadline, on_decode_error == "truncate")
        try:
            return _read_counted(second, handle.name, sampler, start, end, limits, frame_fn)
        finally:
            second.close()


@names_options
def probe_video(
    source: VideoSource,
    *,
    backend: str = "auto",
    limits: MediaLimits = MediaLimits(),  # noqa: B008 (frozen)
    allowed_hosts: Sequence[str] = (),
    on_decode_error: Literal["raise", "truncate"] = "raise",
) -> VideoMetadata:
    """The metadata that `load_video` would give, for the price of reading the file and decoding one frame.

    `frames_indices` is None. Arguments and errors as in `load_video`.
    """
    allowed_hosts = _checked_reading(backend, allowed_hosts, on_decode_error)
    deadline = Deadline(limits.timeout)
    if is_frames(source):
        return _frame_metadata(FrameList(source, limits, deadline, allowed_hosts))
    with _opened(source, backend, limits, allowed_hosts, deadline, on_decode_error == "truncate") as (_, reader):
        return _metadata(reader.clip, reader.backend)


def _checked_reading(backend: str, allowed_hosts: Sequence[str], on_decode_error: str) -> list[str]:
    """The allowed hosts. All options are checked for every source, also those that the source does not need."""
    check_backend(backend)
    check_on_decode_error(on_decode_error)
    return sorted(host_names(allowed_hosts))


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name}={function!r}: give a function.")


@contextmanager
def _opened(
    source: Any, backend: str, limits: MediaLimits, allowed_hosts: Sequence[str], deadline: Deadline, tolerate: bool
) -> Iterator[tuple[MediaHandle, FrameReader]]:
    with open_media(source, limits, allowed_hosts, deadline) as handle:
        reader = open_reader(handle, backend, limits, deadline, tolerate)
        try:
            yield handle, reader
        finally:
            reader.close()


class _Uniform:
    """The sampler of `num_frames`: the middle of each of n equal parts; all frames when n is None."""

    def __init__(self, num_frames: int | None) -> None:
        self.num_frames = None if num_frames is None else int(num_frames)

    def __call__(self, metadata: VideoMetadata) -> list[int]:
        total, wanted = metadata.total_num_frames, self.num_frames
        if wanted is None:
            return list(range(total))
        # In whole numbers: (i + 1/2) * total / wanted, rounded down.
        return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]


class _Stack:
    """Puts frames into one array as they are decoded, and checks the budget before the array is made.

    Args:
        name: of the video, for errors.
        num_frames: frames that the caller gets in the end.
        num_rows: frames of the array, fewer where the caller gets some of them twice.
        size: width and height of a frame as it is decoded.
        limits: the budget.
        frame_fn: applied to each frame.
    """

    def __init__(
        self,
        name: str,
        num_frames: int,
        num_rows: int,
        size: tuple[int, int],
        limits: MediaLimits,
        frame_fn: FrameFn | None,
    ) -> None:
        self.name, self.num_frames, self.num_rows = name, num_frames, num_rows
        self.limits, self.frame_fn = limits, frame_fn
        self.pictures = np.empty((0,), dtype=np.uint8)
        self.filled = 0
        # `frame_fn` may change the size, which is then known after the first frame only.
        limits.check_result(name, num_frames, *(size if frame_fn is None else (1, 1)))

    def put(self, row: int, picture: np.ndarray) -> None:
        """Store a frame, uint8 (H, W, 3)."""
        picture = picture if self.frame_fn is None else self.frame_fn(picture)
        if not self.filled:
            self.limits.check_result(self.name, self.num_frames, picture.shape[1], picture.shape[0])
            self.pictures = np.empty((self.num_rows, *picture.shape), dtype=np.uint8)
        self.pictures[row] = picture
        self.filled += 1


def _read_counted(reader: FrameReader, name: str, *arguments: Any) -> tuple[np.ndarray, VideoMetadata]:
    """As `_read`. It runs a second time if decoding shows that the packets told a wrong number of frames."""
    try:
        return _read(reader, name, *arguments)
    except FrameCountChanged:
        logger.info("%s: recounted %d frames", name, len(reader.clip))
    try:
        return _read(reader, name, *arguments)
    except FrameCountChanged:
        raise CorruptMedia(
            f"{name}: the video gives other frames each time it is decoded; download or export the file again."
        ) from None


def _read(
    reader: FrameReader,
    name: str,
    sampler: Callable[..., Any],
    start: float | None,
    end: float | None,
    limits: MediaLimits,
    frame_fn: FrameFn | None,
) -> tuple[np.ndarray, VideoMetadata]:
    """One round: sample, decode the distinct frames in file order, put them in the sampler's order."""
    clip = reader.clip
    metadata = _metadata(clip, reader.backend)
    first, last = _clip_bounds(clip, name, start, end)
    view = metadata
    if (first, last) != (0, len(clip)):
        view = _metadata(clip, reader.backend)
        view.total_num_frames = last - first
        view.frame_times = clip.timestamps[first:last]
        view.duration = _shown_until(clip, last) - float(clip.timestamps[first])
    indices = [first + i for i in _asked_for(sampler, view, name)]
    distinct = sorted(set(indices))
    stack = _Stack(name, len(indices), len(distinct), (clip.width, clip.height), limits, frame_fn)
    row_of = {index: row for row, index in enumerate(distinct)}
    readable = len(clip)
    try:
        for index, picture in reader.frames(distinct):
            stack.put(row_of[index], picture)
    except DecodingStopped as stop:
        readable = stop.readable
    metadata.total_num_frames = readable
    if stack.filled < len(distinct):
        if stack.filled == 0:
            raise CorruptMedia(f"{name}: none of the wanted frames can be decoded; download or export the file again.")
        indices = [i for i in indices if row_of[i] < stack.filled]
    if stack.filled < len(distinct) or getattr(reader, "damaged", False):
        warn_caller(f"{name}: the video is damaged; {readable} frames can be read, {len(indices)} are returned.")
    metadata.frames_indices = indices
    rows = [row_of[i] for i in indices]
    return (stack.pictures if rows == list(range(len(distinct))) else stack.pictures[rows]), metadata


def _metadata(clip: Clip, backend: str) -> ClipMetadata:
    metadata = ClipMetadata(
        total_num_frames=len(clip),
        fps=clip.fps,
        width=clip.width,
        height=clip.height,
        duration=clip.duration,
        video_backend=backend,
    )
    metadata.frame_times = clip.timestamps
    return metadata


def _clip_bounds(clip: Clip, name: str, start: float | None, end: float | None) -> tuple[int, int]:
    """(first, last + 1) of the frames whose times are in [start, end); at least the one that is shown at `start`."""
    first = 0 if start is None else int(np.searchsorted(clip.timestamps, start - TIME_SLACK, side="left"))
    last = len(clip) if end is None else int(np.searchsorted(clip.timestamps, end - TIME_SLACK, side="left"))
    if start is not None and start >= _shown_until(clip, len(clip)):
        raise MediaError(
            f"{name}: start={start:g} s lies behind the end of the video at {_shown_until(clip, len(clip)):.2f} s; "
            "choose an earlier start."
        )
    if last <= first:
        first = max(0, first - 1)
        last = first + 1
    return first, last


def _shown_until(clip: Clip, count: int) -> float:
    """The time in seconds at which frame number `count` would come."""
    if count < len(clip):
        return float(clip.timestamps[count])
    return float(clip.timestamps[0]) + clip.duration


def _asked_for(sampler: Callable[..., Any], metadata: VideoMetadata, name: str) -> list[int]:
    """The sampler's answer as a checked list of frame numbers."""
    total, answer = metadata.total_num_frames, sampler(metadata=metadata)
    try:
        numbers = np.asarray(answer).reshape(-1)
    except (TypeError, ValueError):  # of lists of several lengths, of tensors on a GPU
        numbers = np.array([None])
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        mask = " True and False do not choose: give np.flatnonzero(mask)." if numbers.dtype.kind == "b" else ""
        raise ValueError(f"{name}: sample_indices_fn must return frame numbers, as a list or an array.{mask}")
    indices = [int(i) for i in numbers]
    if not indices:
        raise ValueError(f"{name}: the sampler chose no frames of {total}; choose at least one.")
    if min(indices) < 0 or max(indices) >= total:
        raise ValueError(
            f"{name}: the sampler chose frames {min(indices)} to {max(indices)}, but they go from 0 to {total - 1}."
        )
    return indices


def _frame_metadata(frames: FrameList) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=len(frames),
        fps=frames.fps,
        duration=len(frames) / frames.fps if frames.fps else None,
        width=frames.width,
        height=frames.height,
        video_backend="frames",
    )


def _load_frames(
    frames: FrameList,
    sampler: Callable[..., Any],
    start: float | None,
    end: float | None,
    limits: MediaLimits,
    frame_fn: FrameFn | None,
) -> tuple[np.ndarray, VideoMetadata]:
    if start is not None or end is not None:
        raise ValueError(f"{frames.name}: pictures have no times, so start and end mean nothing; slice the list.")
    metadata = _frame_metadata(frames)
    indices = _asked_for(sampler, metadata, frames.name)
    stack = _Stack(frames.name, len(indices), len(indices), (frames.width, frames.height), limits, frame_fn)
    for row, index in enumerate(indices):
        stack.put(row, frames[index])
    metadata.frames_indices = indices
    return stack.pictures, metadata
