"""Reads the frames of a video, or of any other source of pictures, as uint8 arrays with their metadata.

    frames, metadata = load_video("clip.mp4", num_frames=16)

`load_audio` reads the audio. Every failure is a `MediaError` whose message is one line that names the file and the fix.
Its subclasses: `MediaNotFound`, `UnsupportedMedia` (the file is text or a picture, or the object is not a video),
`CorruptMedia` (the file is empty, truncated or damaged), `NoVideoStream`, `NoAudioStream`, `MediaTooLarge` (over a
limit of `MediaLimits`), `UnsafeURL`, `MissingBackend`.
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
from .media_animations import animation_in_file, animation_reader
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
    """`VideoMetadata` that also has the time of every frame, for videos with a variable frame rate.

    Attributes:
        frame_times: float64 (total_num_frames,), seconds of the file, see `load_video`. `dataclasses.replace` copies
            only the fields of `VideoMetadata`: in such a copy this is None, and `timestamps` uses the mean frame rate.
    """

    frame_times: np.ndarray | None = None

    @property
    def timestamps(self) -> list[float]:
        """Time of each chosen frame (`frames_indices`), in seconds."""
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
    """Reads the frames of a video: all of them, or only some (`num_frames`, `sample_indices_fn`, `start`, `end`).

    Args:
        source: a video, or an animated GIF, WebP or PNG (a path, `file://` or http(s) address (see `allowed_hosts`),
            base64 data URL, bytes, or binary file object); an entry of a `datasets` column (a decoder, or a dict with
            `bytes` and `path`); or pictures (the path of a folder, which is read in natural order, an opened animation,
            a list of PIL pictures, arrays, tensors or picture files, or one array or tensor (T, H, W, 3) or
            (T, 3, H, W)). Pictures are turned as EXIF says; arrays hold whole numbers from 0 to 255 (`media_pictures`
            states the whole rule). Animations have times (`media_animations`); other pictures have none.
        sample_indices_fn: function that chooses the frames. It is called as `fn(metadata=VideoMetadata)` and returns
            frame numbers, in any order and with repeats. It excludes `num_frames`.
        num_frames: number of frames to choose. The clip is divided into this number of equal parts, and the middle
            frame of each part is taken. If the clip has fewer frames, frames are repeated.
        start: where the clip begins, in seconds of the file. Second 0 is the start of the earliest track (video or
            audio), even if its timestamp is not 0. Players show this moment as 0:00. `ffmpeg -ss`, frame times,
            `load_audio`, `probe_video` and the processors also count from it. The clip consists of the frames that
            begin at or after `start` and before `end`; if there are none, of the frame on screen at `start`.
            `num_frames` divides this clip, and `sample_indices_fn` numbers its frames from 0.
        end: where the clip ends, in seconds of the file.
        backend: "pyav", "decord", "torchcodec", or "auto" for the first that works here. Frame i is always the i-th
            picture that comes out when the file is decoded from its beginning, for every backend and every choice of
            frames. If a file was cut between keyframes, its first frames cannot be decoded: they keep their numbers
            and times, and show the first picture that can be decoded. decord and torchcodec decode only simple files;
            the others (cut between keyframes, with edit lists, fragmented, with a variable rate, ...) are decoded by
            PyAV, and `metadata.video_backend` is then "pyav".
        limits: limits of size and time, checked before and while decoding.
        allowed_hosts: hosts from which files may be downloaded; none by default. A host whose IP address is private is
            refused, unless the URL and this list contain the IP address itself.
        on_decode_error: "raise", or "truncate": warn and return the chosen frames that come before the damage.
        frame_fn: function that is applied to each frame, uint8 (H, W, 3), when it is decoded; for example to make it
            smaller, so that the frames are never all in memory at full size. All its results must have one size.

    Returns:
        frames: uint8 (T, H, W, 3), RGB, rotated as shown, in the order in which they were chosen.
        metadata: describes the whole file: `total_num_frames`, `fps` (the mean if the rate varies; None if pictures
            have no times), `duration` in seconds, `width`, `height`, `video_backend`. `frames_indices` are the chosen
            frames, numbered from the beginning of the file. For a damaged file, `total_num_frames` counts only the
            readable frames.

    Raises:
        MediaError: one of the subclasses that the docstring of this module lists.
        ValueError: an argument is wrong, for example a frame number outside of the clip.
    """
    check_num_frames(num_frames)
    check_interval(start, end)
    _check_functions(sample_indices_fn=sample_indices_fn, frame_fn=frame_fn)
    if sample_indices_fn is not None and num_frames is not None:
        raise ValueError("sample_indices_fn and num_frames both choose the frames: pass only one of them.")
    allowed_hosts = _checked_reading(backend, allowed_hosts, on_decode_error)
    if num_frames is not None and num_frames > limits.max_frames:
        # Checked here, before a huge list of frame numbers fills the memory.
        limits.check_result(source_name(source), num_frames, 1, 1)
    sampler = sample_indices_fn or _Uniform(num_frames)
    deadline = Deadline(limits.timeout)
    if is_frames(source):
        frames = FrameList(source, limits, deadline, allowed_hosts)
        if (animation := animation_reader(frames)) is not None:
            try:
                return _read(animation, frames.name, sampler, start, end, limits, frame_fn)
            finally:
                animation.close()
        return _load_frames(frames, sampler, start, end, limits, frame_fn)
    with _opened(source, backend, limits, allowed_hosts, deadline, on_decode_error == "truncate") as (handle, reader):
        try:
            return _read_counted(reader, handle.name, sampler, start, end, limits, frame_fn)
        except CorruptMedia:
            if reader.backend in ("pyav", "frames") or not is_usable("pyav"):
                raise
        # The other decoder failed. PyAV may be able to decode the file; if not, it raises the error.
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
    """The metadata that `load_video` returns, without decoding the frames.

    For most files this reads the packets and decodes one frame. `frames_indices` is None. Arguments and errors are
    those of `load_video`.
    """
    allowed_hosts = _checked_reading(backend, allowed_hosts, on_decode_error)
    deadline = Deadline(limits.timeout)
    if is_frames(source):
        frames = FrameList(source, limits, deadline, allowed_hosts)
        animation = animation_reader(frames)
        return _frame_metadata(frames) if animation is None else _metadata(animation.clip, animation.backend)
    with _opened(source, backend, limits, allowed_hosts, deadline, on_decode_error == "truncate") as (_, reader):
        return _metadata(reader.clip, reader.backend)


def _checked_reading(backend: str, allowed_hosts: Sequence[str], on_decode_error: str) -> list[str]:
    """Checks the arguments for every source, even one that does not use them; returns the normalised hosts."""
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
    with (
        open_media(source, limits, allowed_hosts, deadline) as handle,
        animation_in_file(handle, limits, deadline) as animation,
    ):
        reader = animation or open_reader(handle, backend, limits, deadline, tolerate)
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
        # (i + 1/2) * total / wanted, rounded down, in integer arithmetic.
        return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]


class _Stack:
    """Collects decoded frames in one array, and checks the limits before it creates the array.

    Args:
        name: name of the video in error messages.
        num_frames: number of frames that the caller returns, including repeated ones.
        num_rows: number of frames in the array, without repeated ones.
        size: width and height of a decoded frame.
        limits: limits that the result must not exceed.
        frame_fn: function that is applied to each frame; `None` for no function.
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
        # The size of the results of `frame_fn` is not known before the first frame; until then, only their number is
        # checked (with a size of 1 x 1).
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
    """Calls `_read`; calls it once more if decoding shows that the frames of the file were counted wrongly."""
    try:
        return _read(reader, name, *arguments)
    except FrameCountChanged:
        logger.info("%s: recounted %d frames", name, len(reader.clip))
    try:
        return _read(reader, name, *arguments)
    except FrameCountChanged:
        raise CorruptMedia(
            f"{name}: the video has different frames each time it is decoded; download or export the file again."
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
    """Chooses frame numbers, decodes each chosen frame once, in file order, and returns them in the chosen order."""
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
    """(first, last + 1) of the frames whose times are in [start, end); if none is, of the frame shown at `start`."""
    first = 0 if start is None else int(np.searchsorted(clip.timestamps, start - TIME_SLACK, side="left"))
    last = len(clip) if end is None else int(np.searchsorted(clip.timestamps, end - TIME_SLACK, side="left"))
    if start is not None and start >= _shown_until(clip, len(clip)):
        raise MediaError(
            f"{name}: start={start:g} s is after the end of the video at {_shown_until(clip, len(clip)):.2f} s; "
            "choose an earlier start."
        )
    if last <= first:
        first = max(0, first - 1)
        last = first + 1
    return first, last


def _shown_until(clip: Clip, count: int) -> float:
    """The time in seconds until which the first `count` frames are shown: the start of the next frame, or the end."""
    if count < len(clip):
        return float(clip.timestamps[count])
    return float(clip.timestamps[0]) + clip.duration


def _asked_for(sampler: Callable[..., Any], metadata: VideoMetadata, name: str) -> list[int]:
    """Calls the sampler, and returns its frame numbers as a list after checking them."""
    total, answer = metadata.total_num_frames, sampler(metadata=metadata)
    try:
        numbers = np.asarray(answer).reshape(-1)
    except (TypeError, ValueError):  # raised for lists of different lengths, and for tensors on a GPU
        numbers = np.array([None])
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        mask = " A mask of booleans is not accepted: return np.flatnonzero(mask)." if numbers.dtype.kind == "b" else ""
        raise ValueError(f"{name}: sample_indices_fn must return frame numbers, as a list or an array.{mask}")
    indices = [int(i) for i in numbers]
    if not indices:
        raise ValueError(f"{name}: the sampler chose no frames of {total}; choose at least one.")
    if min(indices) < 0 or max(indices) >= total:
        raise ValueError(
            f"{name}: the sampler chose frames {min(indices)} to {max(indices)}, but the frames of the clip "
            f"go from 0 to {total - 1}."
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
        raise ValueError(f"{frames.name}: pictures have no times, so start and end cannot be used; slice the list.")
    metadata = _frame_metadata(frames)
    indices = _asked_for(sampler, metadata, frames.name)
    stack = _Stack(frames.name, len(indices), len(indices), (frames.width, frames.height), limits, frame_fn)
    for row, index in enumerate(indices):
        stack.put(row, frames[index])
    metadata.frames_indices = indices
    return stack.pictures, metadata
