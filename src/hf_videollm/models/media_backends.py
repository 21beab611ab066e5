"""Three decoders behind one small interface: which frames a file has, and frames by number.

PyAV reads the packets of a file once, without decoding, and so knows the time of every frame in the order of
presentation, whatever the header claims. The other decoders take their frame numbers from the same list;
where one of them disagrees, or stumbles, PyAV does the work.

decord 0.6 has been seen to wait forever inside of its own `get_batch` on an intact file; others report it too
(dmlc/decord, issues 269 and 375). It is native code, so no limit of time reaches it. Nothing here chooses decord but
`backend="decord"`, or "auto" where neither PyAV nor torchcodec works.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .errors import CorruptMedia, Deadline, MediaLimits, MissingBackend
from .media_clip import Clip, FrameReader
from .media_pyav import PyAVReader, import_pyav
from .media_source import MediaHandle, unreadable

logger = logging.getLogger(__name__)

BACKENDS = ("pyav", "torchcodec", "decord")


def available_backends() -> tuple[str, ...]:
    """Names of the decoders that are installed and work here, the preferred one first."""
    return tuple(name for name in BACKENDS if is_usable(name))


def is_usable(backend: str) -> bool:
    """Whether a decoder is installed and works here."""
    try:
        _PROBES[backend]()
    except MissingBackend:
        return False
    return True


def check_backend(backend: str) -> None:
    """Raises `ValueError` when there is no such backend."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f'backend={backend!r} is unknown; use "auto", "pyav", "decord" or "torchcodec".')


def _import_decord() -> Any:
    if not _is_of_package("decord"):
        raise MissingBackend(
            "The module decord here is not that of the package decord (decord2, for one, installs one of that name, "
            "which returns wrong frames); uninstall what brought it, then run: pip install --force-reinstall "
            '"hf-videollm[decord]", or use backend="auto".'
        )
    try:
        import decord
    except (ImportError, OSError, RuntimeError):
        raise MissingBackend(
            'The decord backend is not installed; run: pip install "hf-videollm[decord]", or use backend="auto".'
        ) from None
    return decord


def _is_of_package(module: str) -> bool:
    """Whether a module, if there is one, is what the package of the same name installed: its place and its sizes."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        return False  # made by hand
    if spec is None:
        return True  # the import says that it is missing
    try:
        package = importlib.metadata.distribution(module)
    except importlib.metadata.PackageNotFoundError:
        return False
    files = [file for file in package.files or () if file.parts[0] == module and file.size is not None]
    places = [os.path.realpath(str(package.locate_file(file))) for file in files]
    return os.path.realpath(spec.origin or "") in places and all(
        os.path.isfile(place) and os.path.getsize(place) == file.size for place, file in zip(places, files, strict=True)
    )


def _import_torchcodec() -> Any:
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError):
        raise MissingBackend(
            "The torchcodec backend is not installed or finds no FFmpeg; run: "
            'pip install "hf-videollm[torchcodec]" and install FFmpeg, or use backend="auto".'
        ) from None
    # Newer releases import without FFmpeg and fail at the first file.
    if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
        raise MissingBackend(
            "torchcodec is installed but finds no FFmpeg libraries; install FFmpeg (apt install ffmpeg), "
            'or use backend="auto".'
        )
    return torchcodec


_PROBES: dict[str, Callable[[], Any]] = {
    "pyav": import_pyav,
    "torchcodec": _import_torchcodec,
    "decord": _import_decord,
}


def open_reader(
    handle: MediaHandle, backend: str, limits: MediaLimits, deadline: Deadline, tolerate_damage: bool
) -> FrameReader:
    """Opens a video with the wanted backend ("auto": the first that works).

    Raises:
        MissingBackend: the backend named is not usable here; ValueError: there is no such backend.
        UnsupportedMedia, NoVideoStream, CorruptMedia, MediaTooLarge: see the names.
    """
    check_backend(backend)
    if backend == "auto":
        backend = next((name for name in BACKENDS if is_usable(name)), "pyav")
    _PROBES[backend]()
    if backend != "pyav" and not is_usable("pyav"):
        return _OTHER_READERS[backend](handle, limits, deadline, None)
    reader = PyAVReader(handle, limits, deadline, tolerate_damage)
    if backend == "pyav":
        return reader
    try:
        return _hand_over(reader, backend, handle, limits, deadline)
    except BaseException:
        reader.close()
        raise


def _hand_over(
    reader: PyAVReader, backend: str, handle: MediaHandle, limits: MediaLimits, deadline: Deadline
) -> FrameReader:
    """The other backend's reader when it agrees with PyAV about the file, else PyAV's."""
    reason = reader.unsuited_for(backend)
    if reason is None:
        try:
            other = _OTHER_READERS[backend](handle, limits, deadline, reader.clip)
        except CorruptMedia:
            reason = "a file that it cannot open"
        else:
            if other.count == len(reader.clip):
                reader.close()
                return other
            other.close()
            reason = "another count of frames"
    logger.info("%s: %s has %s; decoding with pyav", handle.name, backend, reason)
    return reader


# --- decord and torchcodec -----------------------------------------------------------------------------------------

_BATCH = 8  # frames asked for at once: bounds the memory, and the time between two looks at the clock


class DecordReader:
    """Decodes with decord. Without PyAV its own frame count and timestamps describe the clip."""

    backend = "decord"

    def __init__(self, handle: MediaHandle, limits: MediaLimits, deadline: Deadline, clip: Clip | None) -> None:
        decord = _import_decord()
        self._errors = (decord.DECORDError, RuntimeError, OSError, IndexError)
        self._name, self._deadline = handle.name, deadline
        source = handle.for_decoder()
        try:
            self._video = decord.VideoReader(source if isinstance(source, str) else io.BytesIO(source))
            self.count = len(self._video)
            self.clip = clip or self._own_clip()
        except self._errors:
            raise unreadable(handle) from None
        _check_clip(self.clip, self._name, limits)

    def _own_clip(self) -> Clip:
        times = self._video.get_frame_timestamp(list(range(self.count))).astype(np.float64)
        height, width = self._array(self._video[0]).shape[:2]
        fps = float(self._video.get_avg_fps()) or None
        return Clip(times[:, 0] - times[0, 0], float(times[-1, 1] - times[0, 0]), fps, width, height)

    @staticmethod
    def _array(frames: Any) -> np.ndarray:
        # decord has a global switch for its output type, and the user may have set it.
        return frames.asnumpy() if hasattr(frames, "asnumpy") else np.asarray(frames)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """See `FrameReader.frames`. Raises `CorruptMedia`."""
        for start in range(0, len(indices), _BATCH):
            self._deadline.check(self._name)
            part = list(indices[start : start + _BATCH])
            try:
                pictures = self._array(self._video.get_batch(part))
            except self._errors:
                raise _undecodable(self._name) from None
            yield from zip(part, pictures, strict=True)

    def close(self) -> None:
        # decord has no close; dropping the reader closes the file.
        self._video = None


class TorchcodecReader:
    """Decodes with torchcodec in its exact mode. Without PyAV its own scan of the file describes the clip."""

    backend = "torchcodec"

    def __init__(self, handle: MediaHandle, limits: MediaLimits, deadline: Deadline, clip: Clip | None) -> None:
        torchcodec = _import_torchcodec()
        self._name, self._deadline = handle.name, deadline
        try:
            self._video = torchcodec.decoders.VideoDecoder(
                handle.for_decoder(), dimension_order="NHWC", seek_mode="exact"
            )
            self.count = int(self._video.metadata.num_frames)
            self.clip = clip or self._own_clip()
        except (RuntimeError, ValueError, OSError, IndexError, TypeError):
            raise unreadable(handle) from None
        _check_clip(self.clip, self._name, limits)

    def _own_clip(self) -> Clip:
        about = self._video.metadata
        begin, end = float(about.begin_stream_seconds), float(about.end_stream_seconds)
        fps = float(about.average_fps) if about.average_fps else None
        height, width = self._video[0].shape[:2]
        # The times of single frames are not exposed without decoding; they are evenly spaced but for variable rates.
        times = np.arange(self.count) * ((end - begin) / self.count)
        return Clip(times, end - begin, fps, width, height)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """See `FrameReader.frames`. Raises `CorruptMedia`."""
        for start in range(0, len(indices), _BATCH):
            self._deadline.check(self._name)
            part = list(indices[start : start + _BATCH])
            try:
                pictures = self._video.get_frames_at(part).data.numpy()
            except (RuntimeError, ValueError, OSError, IndexError):
                raise _undecodable(self._name) from None
            yield from zip(part, pictures, strict=True)

    def close(self) -> None:
        self._video = None


_OTHER_READERS: dict[str, Any] = {"decord": DecordReader, "torchcodec": TorchcodecReader}


def _check_clip(clip: Clip, name: str, limits: MediaLimits) -> None:
    limits.check_picture(name, clip.width, clip.height)
    limits.check_duration(name, clip.duration)


def _undecodable(name: str) -> CorruptMedia:
    return CorruptMedia(f"{name}: the video cannot be decoded to its end; download or export the file again.")
