"""Opens every kind of source that a user may pass as a video or audio, so that a decoder can read it.

Paths, bytes, file objects, data URLs, allowed web addresses and the entries of `datasets` columns become a
`MediaHandle`. Sources that already are pictures (`is_frames`) become a `FrameList` instead (`media_frames`).
"""

from __future__ import annotations

import base64
import io
import os
import re
import stat
import string
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image

from .errors import CorruptMedia, Deadline, MediaError, MediaLimits, MediaNotFound, UnsafeURL, UnsupportedMedia
from .media_fetch import download
from .media_pictures import file_of_gif

FrameLike: TypeAlias = "Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str]"
VideoSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Sequence[FrameLike] | np.ndarray"
    " | torch.Tensor"
)

_CHUNK = 1 << 20  # bytes
_NO_WHITESPACE = dict.fromkeys(map(ord, string.whitespace))
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]*)://")


@dataclass
class MediaHandle:
    """An encoded media file: either a file on disk (`path`) or a seekable binary stream (`stream`)."""

    name: str
    path: str | None = None
    stream: BinaryIO | None = None

    def for_pyav(self) -> str | BinaryIO:
        """The source in a form for `av.open`. The prefix "file:" keeps FFmpeg from reading a path as a URL."""
        if self.path is not None:
            return "file:" + self.path
        assert self.stream is not None
        self.stream.seek(0)
        return self.stream

    def for_decoder(self) -> str | bytes:
        """The path, or the whole content as bytes, for decoders that cannot read Python streams."""
        if self.path is not None:
            return self.path
        assert self.stream is not None
        self.stream.seek(0)
        return self.stream.read()

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Opens the file as a binary stream, positioned at its first byte.

        Data in memory are one stream for all their readers: each leaves the position as it was, because a decoder may
        be in the middle of them.
        """
        if self.path is not None:
            with open(self.path, "rb") as stream:
                yield stream
        else:
            assert self.stream is not None
            position = self.stream.tell()
            self.stream.seek(0)
            try:
                yield self.stream
            finally:
                if not self.stream.closed:
                    self.stream.seek(position)


def is_web_address(text: Any) -> bool:
    """Whether this is an http or https address, in upper or lower case."""
    return isinstance(text, str) and text[:8].lower().startswith(("http://", "https://"))


def is_data_url(text: Any) -> bool:
    """Whether this is a data URL, in upper or lower case."""
    return isinstance(text, str) and text[:5].lower() == "data:"


def source_name(source: Any) -> str:
    """A short one-line name of the source for error messages, without its content, passwords or memory addresses."""
    source = stored_media(source)
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        text = text if isinstance(text, str) else os.fsdecode(text)
        if is_data_url(text):
            return "<data URL>"
        if _SCHEME.match(text):
            text = re.sub(r"//[^/@]*@", "//", text).split("?")[0].split("#")[0]
        text = "".join(c if c.isprintable() else "?" for c in text)
        return text if len(text) <= 200 else text[:90] + "..." + text[-90:]
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if hasattr(source, "read"):
        return "<file object>"
    filename = getattr(source, "filename", None) if isinstance(source, Image.Image) else None
    return source_name(filename) if isinstance(filename, str) and filename else "<frames>"


def is_frames(source: Any) -> bool:
    """Whether the source is already pictures: a list, an array, a tensor, a folder, an opened animation, a decoder."""
    source = stored_media(source)
    if isinstance(source, np.ndarray | torch.Tensor) or hasattr(source, "get_frames_at"):
        return True
    if isinstance(source, Image.Image):
        return file_of_gif(source) is None
    if isinstance(source, str | bytes | bytearray | memoryview):
        return isinstance(source, str) and not _SCHEME.match(source) and os.path.isdir(source)
    if isinstance(source, os.PathLike):
        return os.path.isdir(source)
    return isinstance(source, Sequence)


def stored_media(source: Any) -> Any:
    """The bytes or the path of the file in an entry of a `datasets` column; any other source unchanged.

    With `decode=False` an entry is a dict with `bytes` and `path`. Otherwise it is a torchcodec decoder, to which
    `datasets` attaches the same dict. In both cases this function returns the file, so that its audio can be read as
    well, and any backend can decode it.

    Raises:
        UnsupportedMedia: the dict has keys other than these.
    """
    attached = getattr(source, "_hf_encoded", None)  # `datasets` itself reads this attribute when it saves a decoder
    is_decoder = isinstance(attached, dict)
    stored = attached if is_decoder else source
    if not isinstance(stored, dict):
        return source
    keys = {key for key, value in stored.items() if value is not None}
    if keys & {"array", "sampling_rate"} or not keys & {"bytes", "path"}:  # `as_waveform` reads dicts with an array
        return source
    if unread := sorted(keys - {"bytes", "path"}):
        raise UnsupportedMedia(
            f"A dict of one file has the keys 'path' and 'bytes', and {unread[0]!r} would be ignored: leave it out. "
            "Pass options beside the dict: as keys of the message block, or as arguments of the call."
        )
    if stored.get("bytes") is not None:
        return stored["bytes"]
    path = stored.get("path")
    # If the path is not on this machine (hf://), only the decoder can read the file.
    return source if path is None or (is_decoder and not os.path.exists(path)) else path


@contextmanager
def open_media(
    source: Any, limits: MediaLimits, allowed_hosts: Sequence[str], deadline: Deadline
) -> Iterator[MediaHandle]:
    """Opens an encoded source. On exit, also after an error, closes what it opened and deletes temporary files.

    A file object that the user passed is read from its beginning, and is not closed.

    Raises:
        CorruptMedia: the file is empty.
        MediaNotFound, UnsupportedMedia, MediaTooLarge, UnsafeURL: see the docstrings of these classes.
    """
    source = stored_media(source)
    name = source_name(source)
    if isinstance(source, Image.Image) and (data := file_of_gif(source)) is not None:
        source = data
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if not isinstance(text, str):
            text = os.fsdecode(text)
        if not text:
            raise MediaNotFound("the path is an empty string; pass the path of a video or audio file.")
        if is_data_url(text):
            with io.BytesIO(_decode_data_url(text, name, limits)) as stream:
                yield _checked_stream(stream, name, limits)
            return
        if is_web_address(text):
            with tempfile.TemporaryDirectory(prefix="hf_videollm_") as folder:
                path = os.path.join(folder, "download")
                with open(path, "wb") as target:
                    download(text, target, name, allowed_hosts, limits, deadline)
                yield _checked_path(path, name, limits)
            return
        yield _checked_path(_local_path(text, name), name, limits)
    elif isinstance(source, bytes | bytearray | memoryview):
        with io.BytesIO(source.tobytes() if isinstance(source, memoryview) else source) as stream:
            yield _checked_stream(stream, name, limits)
    elif hasattr(source, "read"):
        yield _checked_stream(_seekable(source, name, limits, deadline), name, limits)
    else:
        raise UnsupportedMedia(
            f"an object of type {type(source).__name__} is no video source; pass a path, bytes, a file object, a URL, "
            "or a list or array of frames."
        )


def _local_path(text: str, name: str) -> str:
    if not _SCHEME.match(text):
        return text
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        raise UnsafeURL(f"{name}: this is not a valid address; write file:///path/to/video.mp4.") from None
    if parts.scheme != "file":
        raise UnsafeURL(f"{name}: the scheme {parts.scheme}:// is not supported; pass a local path or an https URL.")
    if parts.netloc not in ("", "localhost"):
        raise UnsafeURL(f"{name}: a file:// address must point to this machine; write file:///path/to/video.mp4.")
    return urllib.request.url2pathname(parts.path)


def _checked_path(path: str, name: str, limits: MediaLimits) -> MediaHandle:
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaNotFound(f"{name}: no such file; check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise MediaError(f"{name}: cannot be opened ({reason.lower()}); check the path and its permissions.") from None
    if not stat.S_ISREG(info.st_mode):
        raise UnsupportedMedia(f"{name}: not a regular file; pass the path of a video or audio file.")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{name}: cannot be read (permission denied); check the file's permissions.")
    if info.st_size == 0:
        raise _empty(name)
    limits.check_bytes(name, info.st_size)
    return MediaHandle(name, path=os.path.abspath(path))


def _checked_stream(stream: BinaryIO, name: str, limits: MediaLimits) -> MediaHandle:
    try:
        stream.seek(0, os.SEEK_END)
        size = stream.tell()
        stream.seek(0)
        begin = stream.read(1)
        stream.seek(0)
    except (OSError, ValueError):  # ValueError: the stream is closed
        raise _unreadable_stream(name) from None
    if not isinstance(begin, bytes | bytearray):
        raise _unreadable_stream(name)
    if size == 0:
        raise _empty(name)
    limits.check_bytes(name, size)
    return MediaHandle(name, stream=stream)


def _unreadable_stream(name: str) -> UnsupportedMedia:
    return UnsupportedMedia(f"{name}: cannot be read; open the file for reading in binary mode, open(path, 'rb').")


def _empty(name: str) -> CorruptMedia:
    return CorruptMedia(f"{name}: the file is empty; it was probably not written or downloaded completely.")


def _seekable(source: Any, name: str, limits: MediaLimits, deadline: Deadline) -> BinaryIO:
    """The file object itself, or a copy of its content in memory if it cannot seek (pipes, sockets)."""
    if isinstance(source, io.TextIOBase):
        raise _unreadable_stream(name)
    if is_seekable(source):
        return source
    buffer = io.BytesIO()
    failures: list[Exception] = []
    must_stop = threading.Event()

    def read() -> None:
        try:
            while not must_stop.is_set() and (chunk := source.read(_CHUNK)) != b"":
                buffer.write(chunk)
                limits.check_bytes(name, buffer.tell())
        except Exception as error:  # the user's object may raise anything
            failures.append(error)

    # A `read` that waits for a writer cannot be interrupted. So it runs in a thread, and this thread stops waiting for
    # it at the deadline.
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(min(deadline.remaining(), threading.TIMEOUT_MAX))
    must_stop.set()
    deadline.check(name)
    if failures and isinstance(failures[0], MediaError):
        raise failures[0]
    if failures:
        raise _unreadable_stream(name)
    return buffer


def is_seekable(source: Any) -> bool:
    """Whether a file object can go back to its beginning; pipes and sockets cannot."""
    if not (hasattr(source, "seek") and hasattr(source, "tell")):
        return False
    try:
        return bool(source.seekable()) if hasattr(source, "seekable") else True
    except ValueError:  # the file is closed; reading it will raise an error that says so
        return True


def _decode_data_url(text: str, name: str, limits: MediaLimits) -> bytes:
    header, comma, payload = text.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise UnsupportedMedia(f"{name}: only base64 is supported; write data:video/mp4;base64,... .")
    # Base64 text may contain line breaks; any other character outside the alphabet means that it is damaged.
    payload = payload.translate(_NO_WHITESPACE)
    limits.check_bytes(name, len(payload) * 3 // 4)
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError:  # binascii.Error is a ValueError; non-ASCII text raises a plain ValueError
        raise CorruptMedia(f"{name}: the base64 text is damaged; encode the file again.") from None


# --- recognising files by their first bytes ------------------------------------------------------------------------

_PICTURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
_MEDIA_MAGIC = (b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"GIF8", b"ID3", b"fLaC", b"0&\xb2u", b"\x00\x00\x01\xba")


def unreadable(handle: MediaHandle) -> MediaError:
    """The error to raise for a file that no decoder can open.

    `CorruptMedia` if the first bytes are those of a video or audio file, else `UnsupportedMedia`.
    """
    with handle.reading() as stream:
        head = stream.read(64)
    for magic, kind in _PICTURES.items():
        if head.startswith(magic):
            return UnsupportedMedia(
                f"{handle.name}: this is a {kind} picture, not a video; open it with PIL and pass the opened picture."
            )
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return UnsupportedMedia(
            f"{handle.name}: this is a WEBP picture, not a video; open it with PIL and pass the opened picture."
        )
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"moof")
    if head[4:8] in boxes or head.startswith(_MEDIA_MAGIC) or (head.startswith(b"RIFF") and len(head) > 8):
        return CorruptMedia(
            f"{handle.name}: the file is damaged or incomplete (no readable index); download or export it again."
        )
    return UnsupportedMedia(
        f"{handle.name}: not a video or audio file that can be decoded; use MP4, MKV, WebM, AVI, MOV, GIF or the like."
    )


def is_cut_short(handle: MediaHandle) -> bool:
    """Whether an MP4, Matroska or AVI file is shorter than its own headers say. Decoders often ignore this silently."""
    with handle.reading() as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(64)
        if head.startswith(b"\x1aE\xdf\xa3"):
            return _matroska_end(head) > size
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return _last_box_end(stream, size) > size
        if head.startswith(b"RIFF"):
            end = 8 + int.from_bytes(head[4:8], "little")
            is_known = end < 8 + 0x7FFFFFFF  # writers that cannot seek back store a larger, meaningless number
            return is_known and end > size and not (end == size + 1 and _lacks_padding(stream, size))
    return False


def _lacks_padding(stream: BinaryIO, size: int) -> bool:
    """Whether a RIFF file only lacks the padding byte after its last block (of odd length), as some writers omit it."""
    position = 12
    while position + 8 <= size:
        stream.seek(position + 4)
        length = int.from_bytes(stream.read(4), "little")
        position += 8 + length
        if position == size:
            return length % 2 == 1
        position += length % 2
    return False


def _last_box_end(stream: BinaryIO, size: int) -> int:
    """Where the last top-level MP4 box with media or an index should end, by the sizes in the box headers.

    Reading stops at the first box with an invalid size.
    """
    position, furthest = 0, 0
    while position + 8 <= size:
        stream.seek(position)
        header = stream.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - position
        if length < 8:
            break
        position += length
        if kind in (b"mdat", b"moov", b"moof"):
            furthest = position
    return furthest


def _matroska_end(head: bytes) -> int:
    """Where the Matroska segment should end, by the size in its header; 0 if the header gives none (live streams)."""
    length, used = _ebml_number(head, 4)
    position = 4 + used + length
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return 0
    length, used = _ebml_number(head, position + 4)
    open_ended = length == (1 << (7 * used)) - 1
    return 0 if open_ended else position + 4 + used + length


def _ebml_number(data: bytes, position: int) -> tuple[int, int]:
    """Reads a variable-length EBML integer: (value, number of bytes read); (0, 1) past the end of `data`."""
    if position >= len(data) or data[position] == 0:
        return 0, 1
    used = 9 - data[position].bit_length()
    value = int.from_bytes(data[position : position + used], "big") & ((1 << (7 * used)) - 1)
    return value, used
