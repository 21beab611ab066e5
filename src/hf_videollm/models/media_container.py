"""Opens video and audio files with PyAV, which includes its own FFmpeg."""

from typing import Any

from .errors import MissingBackend
from .media_source import MediaHandle, unreadable

# Formats that may be opened. The list excludes playlists (which open other files and addresses), videos made of
# pictures or text, and devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,gif,asf,ogg,wav,w64,mp3,aac,flac,aiff,au,caf,amr,"
    "ac3,eac3,mpegvideo,h264,hevc,m4v,mxf,wtv,rm,dv,ivf,obu,nut"
)


def import_pyav() -> Any:
    """The `av` module. Raises `MissingBackend` with the command to install it."""
    try:
        import av
    except ImportError:
        raise MissingBackend('PyAV, which decodes videos, is not installed; run: pip install "av>=15.1"') from None
    return av


def open_container(handle: MediaHandle) -> Any:
    """An opened input container of PyAV. The caller closes it.

    Raises:
        UnsupportedMedia: the format of the file is not in `CONTAINERS`.
        CorruptMedia: the file is damaged.
    """
    av = import_pyav()
    # PyAV 15.1 applies `options` to streams too, and crashes with FLV files, whose streams are not known yet when the
    # file is opened. `container_options` avoids this.
    options = {"format_whitelist": CONTAINERS}
    try:
        return av.open(handle.for_pyav(), mode="r", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError, IndexError):
        raise unreadable(handle) from None


def best_stream(container: Any, kind: str) -> Any:
    """The main stream of a kind, "video" or "audio", or None. A cover picture of a song is not a video."""
    streams = [s for s in getattr(container.streams, kind) if s.codec_context is not None]
    streams = [s for s in streams if kind != "video" or not _is_cover(s)]
    best = container.streams.best(kind)
    # Streams are compared by number, because PyAV may make two objects for one stream.
    return next((s for s in streams if best is not None and s.index == best.index), streams[0] if streams else None)


def _is_cover(stream: Any) -> bool:
    disposition = stream.disposition
    return bool(disposition & type(disposition).attached_pic)


__all__ = ["CONTAINERS", "best_stream", "import_pyav", "open_container"]
