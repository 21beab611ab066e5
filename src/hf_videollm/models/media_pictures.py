"""Pictures and arrays of any kind -> uint8 RGB as shown, by one written rule.

A picture of PIL is turned as its EXIF orientation says and becomes what `convert("RGB")` gives, as in `load_image` of
transformers: grey is repeated, a palette is looked up, transparency is dropped. Where PIL would cut values off, the
depth decides: 16 bits (mode "I;16", and "I" of PNG and PGM files) are divided by 257; other whole numbers (mode "I")
and floats (mode "F") follow the rule of arrays.

Arrays hold whole numbers from 0 to 255, in any integer type, or booleans, False for black and True for white. Anything
else is refused, since nobody can know which number is white: floats, other numbers, complex numbers, objects.
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
# EPS is run by another program, Ghostscript. MPEG is known by its name alone.
_NOT_OPENED = {"EPS", "MPEG"}
# Files of these names are videos of their own, and not the name of a frame in a list.
_VIDEO_SUFFIXES = (".gif", ".apng", ".avifs", ".fli", ".flc")
# The other pictures in such a file belong to the first one: depth maps, layers, sizes of an icon.
_ONE_PICTURE = {"MPO", "PSD", "ICO", "ICNS", "CUR"}
_BY_THEIR_BYTES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM")
# EXIF orientation -> what turns the stored picture into the shown one.
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
    """PIL's names of the formats that it reads by itself."""
    Image.init()
    return tuple(
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _NOT_OPENED
        # A stub knows a format and leaves reading it to code that nobody has registered.
        and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    )


@cache
def picture_suffixes() -> tuple[str, ...]:
    """File name endings of those formats, in lower case, the most common first."""
    formats = set(picture_formats())
    common = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
    known = [suffix for suffix, name in Image.registered_extensions().items() if name in formats]
    return tuple(dict.fromkeys([*(suffix for suffix in common if suffix in known), *known]))


def is_picture_name(path: Any) -> bool:
    """Whether this is the name of a picture file that may be a frame; a GIF is a video of its own."""
    if not isinstance(path, str | os.PathLike):
        return False
    name = os.fspath(path)
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    suffix = os.path.splitext(name)[1].lower()
    return suffix in picture_suffixes() and suffix not in _VIDEO_SUFFIXES


def is_picture_file(data: Any) -> bool:
    """Whether these bytes are a picture file that may be a frame: one of the formats that begin like no other."""
    if not isinstance(data, bytes | bytearray | memoryview):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=_BY_THEIR_BYTES) as picture:
            return not is_moving(picture)
    except Exception:  # no picture, or one that cannot be read
        return False


def is_moving(picture: Any) -> bool:
    """Whether an opened picture holds several of one size: an animation, or the pages of a stack."""
    if not isinstance(picture, Image.Image) or picture.format in _ONE_PICTURE:
        return False
    try:
        if getattr(picture, "n_frames", 1) < 2:
            return False
        here = picture.tell()
        picture.seek(0)
        size = picture.size
        picture.seek(1)
        is_same = picture.size == size  # a scan with its thumbnail is a still
        picture.seek(here)
    except Exception:  # damage, which decoding will name
        return False
    return is_same


def is_iterated(pictures: Sequence[Any]) -> bool:
    """Whether this is one opened animation, alone or as `list(ImageSequence.Iterator(animation))` gives it: many times
    the very same object, which is at its last picture by then."""
    first: Any = pictures[0] if pictures else None
    return is_moving(first) and len(pictures) in (1, first.n_frames) and all(picture is first for picture in pictures)


def file_of_gif(picture: Any) -> bytes | None:
    """The file of an opened animated GIF, so that it is read as its path would be; None for all others."""
    if not isinstance(picture, Image.Image) or picture.format != "GIF" or not is_moving(picture):
        return None
    stream = getattr(picture, "fp", None)
    try:
        here = stream.tell()  # type: ignore[union-attr]
        stream.seek(0)  # type: ignore[union-attr]
        data = stream.read()  # type: ignore[union-attr]
        stream.seek(here)  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # closed, or none
        return None
    return data if data.startswith(b"GIF8") else None


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as it is shown, pixels as they are.

    `ImageOps.exif_transpose` does the same, and fails where a camera wrote some other EXIF entry wrongly.
    """
    picture.load()
    try:
        turn = _TURNS.get(picture.getexif().get(0x0112, 1))
    except Exception:  # an EXIF block that cannot be read says nothing
        turn = None
    return picture if turn is None else picture.transpose(turn)


def picture_array(picture: Image.Image, what: str) -> np.ndarray:
    """uint8 (H, W, 3) of a picture by the rule of this file.

    Args:
        what: its name in messages.

    Raises:
        UnsupportedMedia: no pixels, or a mode whose numbers have no known range.
    """
    if 0 in picture.size:
        raise UnsupportedMedia(f"{what} has no pixels ({picture.width}x{picture.height}).")
    file_format = picture.format
    picture = upright(picture)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in ("PNG", "PPM")):
        # In whole numbers: / 257, rounded.
        grey = ((np.asarray(picture).astype(np.int64) + 128) // 257).astype(np.uint8)
        return _rgb(grey)
    if picture.mode in ("I", "F"):
        return _rgb(np.asarray(whole_numbers(np.asarray(picture), what)))
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # PIL warns of a loss on the direct way, which gives the same colours
    return np.asarray(picture.convert("RGB"))


def is_plain(array: torch.Tensor) -> bool:
    """Whether a tensor holds its numbers one by one."""
    return array.layout is torch.strided and not array.is_meta


def whole_numbers(array: Any, what: str) -> Any:
    """An array or tensor of any type as uint8 by the rule of this file, of the same kind and shape.

    Args:
        array: NumPy array or tensor.
        what: its name in messages.

    Raises:
        UnsupportedMedia: floats, complex numbers, objects, or numbers outside of 0 to 255.
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
    """uint8 (H, W, 3) of one frame: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels.

    Raises:
        UnsupportedMedia: another shape, or values of which the range is not known.
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
    """Which axis of (..., H, W, C) or (..., C, H, W) holds the channels, -1 or -3; None if neither can."""
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
