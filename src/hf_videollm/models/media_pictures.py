"""Converts pictures and arrays of any kind to uint8 RGB as they are shown. This docstring states the rule.

A PIL picture is turned as its EXIF orientation says, and converted with PIL's `convert("RGB")`, as in `load_image` of
transformers: grey becomes three equal channels, palette indices become colours, transparency is dropped. `convert`
clips values above 255, so deeper pictures are converted here: 16-bit values (mode "I;16", and mode "I" of PNG and PGM
files) are divided by 257; other integers (mode "I") and floats (mode "F") follow the rule for arrays.

Arrays must hold whole numbers from 0 to 255, in any integer type, or booleans (False is black, True is white). All
other arrays are refused (floats, other numbers, complex numbers, objects), because it is unknown which value is white.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

from .errors import UnsupportedMedia

RULE = "pass whole numbers from 0 to 255 in any integer type, or booleans for black and white"
# To read EPS, PIL would run another program, Ghostscript. For MPEG, PIL only recognises the file and cannot decode it.
_NOT_OPENED = {"EPS", "MPEG"}
# A file with one of these suffixes is a video, so it cannot be one frame in a list of frames.
_VIDEO_SUFFIXES = (".gif", ".apng", ".avifs", ".fli", ".flc")
# Formats in which the other pictures of a file belong to the first one (depth maps, layers, sizes of an icon).
_ONE_PICTURE = {"MPO", "PSD", "ICO", "ICNS", "CUR"}
# Formats that can be recognised reliably by the first bytes of a file.
_BY_THEIR_BYTES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM")
# EXIF orientation -> the PIL operation that turns the stored picture into the shown one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def picture_formats() -> tuple[str, ...]:
    """Names of the picture formats that PIL can decode without other programs."""
    Image.init()
    return tuple(
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _NOT_OPENED
        # A stub plugin only recognises its format; it can decode nothing unless the user registers a handler.
        and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    )


@cache
def picture_suffixes() -> tuple[str, ...]:
    """File name suffixes of the formats in `picture_formats`, in lower case, the most common first."""
    formats = set(picture_formats())
    common = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
    known = [suffix for suffix, name in Image.registered_extensions().items() if name in formats]
    return tuple(dict.fromkeys([*(suffix for suffix in common if suffix in known), *known]))


def is_picture_name(path: Any) -> bool:
    """Whether a path has the suffix of a picture file that can be one frame; a GIF cannot, it is a video."""
    if not isinstance(path, str | os.PathLike):
        return False
    name = os.fspath(path)
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    suffix = os.path.splitext(name)[1].lower()
    return suffix in picture_suffixes() and suffix not in _VIDEO_SUFFIXES


def is_picture_file(data: Any) -> bool:
    """Whether these bytes are a picture file that can be one frame, in a format that its first bytes identify."""
    if not isinstance(data, bytes | bytearray | memoryview):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=_BY_THEIR_BYTES) as picture:
            return not is_moving(picture)
    except Exception:  # the bytes are not a picture, or it cannot be read
        return False


def is_moving(picture: Any) -> bool:
    """Whether an opened picture file holds several pictures of one size: an animation, or a stack of pages (TIFF)."""
    if not isinstance(picture, Image.Image) or picture.format in _ONE_PICTURE:
        return False
    try:
        if getattr(picture, "n_frames", 1) < 2:
            return False
        position = picture.tell()
        rewind(picture)
        size = picture.size
        picture.seek(1)
        is_same = picture.size == size  # a scan and its thumbnail differ in size, and are one still picture
        picture.seek(position)
    except Exception:  # the file is damaged; decoding it will raise an error that says so
        return False
    return is_same


def rewind(picture: Any) -> None:
    """Moves an opened animation to its first picture.

    If PIL has decoded a picture in the middle of an APNG and then goes back, it cannot find the second picture any
    more. It can if it goes on to the last picture before.
    """
    if picture.format == "PNG" and picture.tell():
        picture.seek(picture.n_frames - 1)
    picture.seek(0)


def is_iterated(pictures: Sequence[Any]) -> bool:
    """Whether this list holds one opened animation, alone or repeated.

    `list(ImageSequence.Iterator(animation))` repeats it: the list then holds the same object once for each picture, and
    the object shows only its last picture.
    """
    first: Any = pictures[0] if pictures else None
    return is_moving(first) and len(pictures) in (1, first.n_frames) and all(picture is first for picture in pictures)


def file_of_gif(picture: Any) -> bytes | None:
    """The bytes of an opened animated GIF, so that the video decoder can read it; None for other pictures."""
    if not isinstance(picture, Image.Image) or picture.format != "GIF" or not is_moving(picture):
        return None
    stream = getattr(picture, "fp", None)
    try:
        position = stream.tell()  # type: ignore[union-attr]
        stream.seek(0)  # type: ignore[union-attr]
        data = stream.read()  # type: ignore[union-attr]
        stream.seek(position)  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # the file is closed, or the picture has no file
        return None
    return data if data.startswith(b"GIF8") else None


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; its mode and pixel values do not change.

    `ImageOps.exif_transpose` does the same, but raises an error if any other EXIF entry is invalid.
    """
    picture.load()
    try:
        turn = _TURNS.get(picture.getexif().get(0x0112, 1))
    except Exception:  # an unreadable EXIF block is ignored
        turn = None
    return picture if turn is None else picture.transpose(turn)


def picture_array(picture: Image.Image, what: str) -> np.ndarray:
    """A PIL picture as uint8 (H, W, 3), by the rule in the docstring of this file.

    Args:
        what: name of the picture in error messages.

    Raises:
        UnsupportedMedia: the picture has no pixels, or the range of its values is not known.
    """
    if 0 in picture.size:
        raise UnsupportedMedia(f"{what} has no pixels ({picture.width}x{picture.height}).")
    file_format = picture.format
    picture = upright(picture)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in ("PNG", "PPM")):
        # Divides by 257 and rounds, in integer arithmetic.
        grey = ((np.asarray(picture).astype(np.int64) + 128) // 257).astype(np.uint8)
        return _rgb(grey)
    if picture.mode in ("I", "F"):
        return _rgb(np.asarray(whole_numbers(np.asarray(picture), what)))
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # PIL warns if a palette with transparency becomes RGB directly
    return np.asarray(picture.convert("RGB"))


def is_plain(array: torch.Tensor) -> bool:
    """Whether a tensor is dense and has data: not sparse, not on the meta device."""
    return array.layout is torch.strided and not array.is_meta


def whole_numbers(array: Any, what: str) -> Any:
    """An array or tensor converted to uint8 by the rule in the docstring of this file; the shape stays the same.

    Args:
        array: NumPy array or tensor; the result is of the same kind.
        what: name of the array in error messages.

    Raises:
        UnsupportedMedia: the array holds floats, complex numbers, objects, or numbers outside 0 to 255.
    """
    if isinstance(array, torch.Tensor):
        if not is_plain(array):
            raise UnsupportedMedia(f"{what} is no plain tensor (sparse, or without data); {RULE}.")
        if array.dtype == torch.uint8:
            return array
        if array.dtype == torch.bool:
            return array.to(torch.uint8) * 255
        if array.is_floating_point() or array.is_complex() or array.is_quantized:
            raise _refused(what, str(array.dtype).removeprefix("torch."))
        return torch.from_numpy(whole_numbers(array.detach().cpu().numpy(), what)).to(array.device)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iu":
        raise _refused(what, array.dtype)
    if array.size and (array.min() < 0 or array.max() > 255):
        raise _refused(what, f"{array.dtype} values from {array.min()} to {array.max()}")
    return array.astype(np.uint8)


def frame_array(array: Any, what: str) -> np.ndarray:
    """One frame as uint8 (H, W, 3), from an array (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels.

    Args:
        what: name of the frame in error messages.

    Raises:
        UnsupportedMedia: the array has another shape, or the range of its values is not known.
    """
    shape = tuple(array.shape)
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and not channels_axis(shape)):
        raise UnsupportedMedia(f"{what} has the shape {shape}; pass (H, W, 3) or (3, H, W).")
    numbers = whole_numbers(array, what)
    if isinstance(numbers, torch.Tensor):
        numbers = numbers.detach().cpu().numpy()
    if numbers.ndim == 3 and channels_axis(shape) == -3:
        numbers = numbers.transpose(1, 2, 0)
    return _rgb(numbers)


def channels_axis(shape: Sequence[int]) -> int | None:
    """The axis that holds the channels: -1 for (..., H, W, C), -3 for (..., C, H, W), None if neither fits."""
    for counts in ((3,), (1, 4)):
        for axis in (-1, -3):
            if shape[axis] in counts:
                return axis
    return None


def _rgb(picture: np.ndarray) -> np.ndarray:
    picture = picture[:, :, None] if picture.ndim == 2 else picture
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[:, :, :3]


def _refused(what: str, values: Any) -> UnsupportedMedia:
    return UnsupportedMedia(f"{what} holds {values}; {RULE}.")
