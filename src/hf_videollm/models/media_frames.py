"""Reads frames without opening a video file: folders and lists of pictures, arrays, animations, decoder objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from .errors import CorruptMedia, Deadline, MediaError, MediaLimits, MediaTooLarge, UnsupportedMedia
from .media_pictures import (
    channels_axis,
    frame_array,
    is_iterated,
    is_moving,
    picture_array,
    picture_formats,
    picture_suffixes,
    rewind,
    upright,
)
from .media_source import open_media, source_name


class FrameList:
    """A sequence of pictures that serves as a video. A picture file is opened only when its frame is read.

    The limits apply as for a video: `max_bytes` to all picture files together, `max_pixels` to each picture, and the
    deadline is checked at each frame.

    Args:
        source: a folder, list, array, opened animation or decoder object.
        limits: limits of size and time.
        deadline: when reading must end; by default, `limits.timeout` from now.
        allowed_hosts: hosts from which picture files may be downloaded.
        name: name of the source in error messages; by default, `source_name(source)`.

    Attributes:
        name: name of the source in error messages.
        height, width: size in pixels of every frame as it is shown.
        fps: frames per second if the source is a decoder that knows it, else None.

    Raises:
        UnsupportedMedia: there are no pictures, a frame has an unknown type, or the pictures differ in size.
        CorruptMedia: a picture file cannot be read.
        MediaTooLarge, MediaNotFound, UnsafeURL: see the docstrings of these classes.
    """

    def __init__(
        self,
        source: Any,
        limits: MediaLimits,
        deadline: Deadline | None = None,
        allowed_hosts: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        self.name = source_name(source) if name is None else name
        self._limits = limits
        self._deadline = deadline or Deadline(limits.timeout)
        self._allowed_hosts = allowed_hosts
        self._bytes: dict[int, int] = {}  # frame number -> size of its file
        self._items = _items(source, self.name)
        if len(self._items) == 0:
            raise UnsupportedMedia(f"{self.name}: there are no frames in it; pass at least one picture.")
        self.fps = _rate(source)
        self._first: np.ndarray | None = None
        self._first = self[0]
        self.height, self.width = self._first.shape[:2]
        limits.check_picture(self.name, self.width, self.height)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def animation(self) -> Image.Image | None:
        """The opened animation whose pictures are the frames; None for other sources."""
        return self._items.picture if isinstance(self._items, _Pages) else None

    def check_deadline(self) -> None:
        """Raises `MediaTooLarge` if the time limit is over."""
        self._deadline.check(self.name)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame `index`, uint8 (H, W, 3)."""
        self._deadline.check(self.name)
        if index == 0 and self._first is not None:
            return self._first
        with damage_is_typed(self.name):
            item = self._items[index]  # if the items are an animation or a decoder, this reads the frame
        frame = self._picture(item, index)
        self._deadline.check(self.name)
        height, width = frame.shape[:2]
        if index and (height, width) != (self.height, self.width):
            raise UnsupportedMedia(
                f"{self.name}: frame {index} is {width}x{height} and frame 0 is {self.width}x{self.height}; "
                "resize them to one size."
            )
        return frame

    def _picture(self, item: Any, index: int) -> np.ndarray:
        what = f"{self.name}: frame {index}"
        if isinstance(item, Image.Image):
            if is_moving(item) and not isinstance(self._items, _Pages):
                raise _several(what, item)
            return self._decoded(item, self.name, what)
        if isinstance(item, np.ndarray | torch.Tensor):
            return frame_array(item, what)
        if item is None or not _is_file(item):
            raise UnsupportedMedia(
                f"{what} is a {type(item).__name__}; frames may be PIL pictures, arrays, tensors or picture files."
            )
        with open_picture(item, self._limits, self._deadline, self._allowed_hosts) as (picture, size):
            self._count(index, size)
            if is_moving(picture):
                raise _several(source_name(item), picture)
            return self._decoded(picture, source_name(item), source_name(item))

    def _decoded(self, picture: Image.Image, name: str, what: str) -> np.ndarray:
        self._limits.check_picture(name, *picture.size)
        with damage_is_typed(name):
            return picture_array(picture, what)

    def _count(self, index: int, size: int) -> None:
        self._bytes[index] = size
        self._limits.check_bytes(self.name, sum(self._bytes.values()))


@contextmanager
def open_picture(
    source: Any, limits: MediaLimits, deadline: Deadline, allowed_hosts: Sequence[str] = ()
) -> Iterator[tuple[Image.Image, int]]:
    """Opens a picture (a path, address, data URL, bytes, file object) with the same checks as a video.

    Yields:
        The opened picture, and the size of its file in bytes. The picture's width and height are checked, but its
        pixels are not decoded yet.

    Raises:
        CorruptMedia: PIL cannot read the picture.
        MediaNotFound, MediaTooLarge, UnsafeURL, UnsupportedMedia: see the docstrings of these classes.
    """
    with open_media(source, limits, allowed_hosts, deadline) as handle, handle.reading() as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        with damage_is_typed(handle.name):
            picture = Image.open(stream, formats=picture_formats())
        with picture:
            limits.check_picture(handle.name, *picture.size)
            yield picture, size


def load_picture(
    source: Any, limits: MediaLimits, deadline: Deadline, allowed_hosts: Sequence[str] = ()
) -> Image.Image:
    """One picture in mode RGB, turned as it is shown and converted as in `media_pictures`; an animation's first one.

    Args:
        source: an opened picture, or a path, address, data URL, bytes or file object of one.

    Raises:
        MediaError: one of its subclasses; see `FrameList`.
    """
    name = source_name(source)
    if isinstance(source, Image.Image):
        limits.check_picture(name, *source.size)
        with damage_is_typed(name):
            return Image.fromarray(picture_array(source, name))
    with open_picture(source, limits, deadline, allowed_hosts) as (picture, _), damage_is_typed(name):
        return Image.fromarray(picture_array(picture, name))


def shown_picture(picture: Image.Image) -> Image.Image:
    """An opened picture, turned as it is shown. A mode with more than 8 bits becomes RGB; other modes are kept.

    Raises:
        CorruptMedia: the picture cannot be decoded.
        UnsupportedMedia: the range of its values is not known (`media_pictures`).
    """
    name = source_name(picture)
    with damage_is_typed(name):
        if picture.mode.startswith(("I", "F")):
            return Image.fromarray(picture_array(picture, name))
        return upright(picture)


@contextmanager
def damage_is_typed(name: str) -> Iterator[None]:
    """Turns any exception that PIL raises for a bad file into a `MediaError`; its plugins raise many types."""
    try:
        yield
    except MediaError:
        raise
    except Image.DecompressionBombError:
        raise MediaTooLarge(
            f"{name}: the picture has more pixels than PIL opens; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from None
    except MemoryError:
        raise MediaTooLarge(f"{name}: there is not enough memory for this picture; make it smaller.") from None
    except Exception:
        raise CorruptMedia(f"{name}: this picture cannot be read; export it again or leave it out.") from None


def _is_file(item: Any) -> bool:
    kinds = str | os.PathLike | bytes | bytearray | memoryview | dict
    return isinstance(item, kinds) or hasattr(item, "read")


def _several(what: str, picture: Image.Image) -> UnsupportedMedia:
    return UnsupportedMedia(
        f"{what} holds {getattr(picture, 'n_frames', 2)} pictures ({picture.format}); pass the opened picture alone as "
        "the video, or copies of its pictures as frames."
    )


class _Pages(Sequence[Image.Image]):
    """The pictures of an opened animation, as a sequence. Reading one moves the animation to that picture."""

    def __init__(self, picture: Any) -> None:
        self.picture = picture

    def __len__(self) -> int:
        return int(self.picture.n_frames)

    def __getitem__(self, index: Any) -> Any:
        if index < self.picture.tell():
            rewind(self.picture)
        self.picture.seek(index)
        return self.picture


def _items(source: Any, name: str) -> Any:
    if isinstance(source, str | os.PathLike):
        return folder_pictures(os.fspath(source))
    if isinstance(source, np.ndarray | torch.Tensor):
        return _four_axes(source, name)
    if isinstance(source, Image.Image):
        return _Pages(source) if is_moving(source) else [source]
    if hasattr(source, "get_frames_at"):  # a torchcodec decoder: frames by number, (3, H, W) or (H, W, 3)
        return source
    items = list(source)
    if is_iterated(items):
        return _Pages(items[0])
    return items


def _rate(source: Any) -> float | None:
    rate = getattr(getattr(source, "metadata", None), "average_fps", None)
    return float(rate) if rate else None


def folder_pictures(folder: str) -> list[str]:
    """Paths of the pictures in a folder, in natural order (frame_2 before frame_10), without hidden files.

    Raises:
        MediaError: the folder cannot be listed.
        UnsupportedMedia: it holds no pictures.
    """
    name = source_name(folder)
    try:
        entries = [entry.name for entry in os.scandir(folder)]
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise MediaError(f"{name}: the folder cannot be listed ({reason}); check its permissions.") from None
    suffixes = picture_suffixes()
    names = [entry for entry in entries if entry.lower().endswith(suffixes) and not entry.startswith(".")]
    if not names:
        raise UnsupportedMedia(
            f"{name}: the folder holds no pictures; it needs files that PIL can read, such as .png or .jpg."
        )

    def natural(text: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", text.lower())
        return [(0, int(p), p) if p.isdigit() and p.isascii() else (1, 0, p) for p in parts]

    return [os.path.join(folder, entry) for entry in sorted(names, key=natural)]


def _four_axes(array: np.ndarray | torch.Tensor, name: str) -> np.ndarray | torch.Tensor:
    shape = tuple(array.shape)
    if len(shape) == 4 and channels_axis(shape[1:]):
        return array
    raise UnsupportedMedia(f"{name}: an array of shape {shape} is no video; pass (T, H, W, 3) or (T, 3, H, W).")
