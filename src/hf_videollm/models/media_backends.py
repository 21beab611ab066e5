"""Three decoders (PyAV, torchcodec, decord) with one interface: list the frames of a file, and read frames by number.

PyAV reads the packets of a file once, without decoding them, and so knows the time of every frame in the order in which
they are shown; it does not rely on the file's header. The other decoders must agree with this list. If one of them
counts other frames, or fails, PyAV decodes the file instead.

decord 0.6 was observed to wait forever in its `get_batch` on an intact file; its users report the same (dmlc/decord,
issues 269 and 375). It is native code, so `MediaLimits(timeout=...)` cannot interrupt it. decord is therefore used only
for `backend="decord"`, or for "auto" if neither PyAV nor torchcodec works.
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
from .media_container import import_pyav
from .media_pyav import PyAVReader
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
            "The installed module decord is not that of the package decord (decord2, for example, installs a module of "
            "that name, which returns wrong frames); uninstall that package, then run: pip install --force-reinstall "
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
    """Whether a module comes from the package of the same name: its files must have that package's paths and sizes.

    True if there is no such module, because its import then reports that.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        return False  # the module was created in memory, without a file
    if spec is None:
        return True
    try:
        package = importlib.metadata.distribution(module)
    except importlib.metadata.PackageNotFoundError:
        return False
    files = [file for file in package.files or () if file.parts[0] == module and file.size is not None]
    paths = [os.path.realpath(str(package.locate_file(file))) for file in files]
    return os.path.realpath(spec.origin or "") in paths and all(
        os.path.isfile(path) and os.path.getsize(path) == file.size for path, file in zip(paths, files, strict=True)
    )


def _import_torchcodec() -> Any:
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError):
        raise MissingBackend(
            "The torchcodec backend is not installed or does not find FFmpeg; run: "
            'pip install "hf-videollm[torchcodec]" and install FFmpeg, or use backend="auto".'
        ) from None
    # Newer releases of torchcodec can be imported without FFmpeg; then they fail when a file is opened.
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

    If another backend is requested and PyAV is installed, PyAV first reads the packets of the file. If they show that
    the other backend might return different frames, PyAV decodes the file.

    Raises:
        MissingBackend: the named backend is not installed or does not work.
        ValueError: there is no backend of this name.
        UnsupportedMedia, NoVideoStream, CorruptMedia, MediaTooLarge: see the docstrings of these classes.
    """
    check_backend(backend)
    if backend == "auto":
        backend = next((name for name in BACKENDS if is_usable(name)), "pyav")
    _PROBES[backend]()
    if backend != "pyav" and not is_usable("pyav"):
        return _OTHER_READERS[backend](handle, limits, deadline, None)
    reader = PyAVReader(handle, limits, deadline, tolerate_damage, trusts_index=backend == "pyav")
    if backend == "pyav":
        return reader
    try:
        return _other_or_pyav(reader, backend, handle, limits, deadline)
    except BaseException:
        reader.close()
        raise


def _other_or_pyav(
    reader: PyAVReader, backend: str, handle: MediaHandle, limits: MediaLimits, deadline: Deadline
) -> FrameReader:
    """A reader of the other backend if it can decode this file and counts the same frames as PyAV; else PyAV's."""
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

_BATCH = 8  # frames that are decoded in one call: limits the memory, and the time between two checks of the deadline


class DecordReader:
    """Decodes with decord. If PyAV is not installed, the frame count and timestamps come from decord."""

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
        # decord has a global setting for its output type (`decord.bridge`), which the user may have changed.
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
        # decord has no method to close a file; it closes the file when the reader is deleted.
        self._video = None


class TorchcodecReader:
    """Decodes with torchcodec in its exact mode. If PyAV is not installed, the metadata come from torchcodec."""

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
        # torchcodec does not tell the times of single frames without decoding them. Even spacing is assumed, which is
        # wrong for videos with a variable frame rate.
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
