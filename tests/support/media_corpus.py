"""Small media files for the tests, all made here with PyAV, so that nothing has to be downloaded or stored.

Frames carry their number as eight black or white columns, so a test can read from the pixels which frame it got.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48


def number_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 (H, W, 3): bit k of `number` is column k, white for one."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    for bit, columns in enumerate(np.array_split(np.arange(width), 8)):
        picture[:, columns] = 235 if number >> bit & 1 else 16
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number that `number_picture` drew."""
    number = 0
    for bit, columns in enumerate(np.array_split(picture.mean(axis=(0, 2)), 8)):
        middle = columns[len(columns) // 4 : -(len(columns) // 4) or None]
        number |= int(middle.mean() > 128) << bit
    return number


def read_numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


def write_video(
    path: Path,
    pictures: int | Sequence[np.ndarray] = 30,
    *,
    rate: int | Fraction = 25,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    sound: np.ndarray | None = None,
    sound_rate: int = 44100,
    pix_fmt: str = "yuv420p",
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes a clip: numbered pictures or those given, at a rate or at given times (in `time_base`).

    `sound` is float32 (channels, samples).
    """
    if isinstance(pictures, int):
        pictures = [number_picture(i) for i in range(pictures)]
    height, width = pictures[0].shape[:2]
    if options is None:
        options = {"bf": "3", "g": "250", "crf": "10", "preset": "veryfast"} if codec == "libx264" else {}
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = time_base
        track = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[sound.shape[0]]
            track = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=sound_rate, layout=layout)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None and sound is not None:
            _write_sound(container, track, sound, sound_rate)
    return path


def write_sound(path: Path, sound: np.ndarray, rate: int = 44100, codec: str = "aac") -> Path:
    """Writes a file with sound only; `sound` is float32 (channels, samples)."""
    with av.open(str(path), "w") as container:
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[sound.shape[0]]
        _write_sound(container, container.add_stream(codec, rate=rate, layout=layout), sound, rate)
    return path


def _write_sound(container, track, sound: np.ndarray, rate: int) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[sound.shape[0]]
    packed = track.codec_context.format.name.startswith("s16")
    for start in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, start : start + 1024])
        if packed:
            block = np.ascontiguousarray((block.T.reshape(1, -1) * 32767).astype(np.int16))
        frame = av.AudioFrame.from_ndarray(block, format="s16" if packed else "fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(track.encode(frame))
    container.mux(track.encode())


def sine(seconds: float, frequency: float, rate: int = 44100, channels: int = 1, level: float = 0.5) -> np.ndarray:
    """float32 (channels, samples)."""
    wave = level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[None].astype(np.float32), channels, axis=0)


def loudest_frequency(wave: np.ndarray, rate: int = 16000) -> float:
    return float(np.fft.rfftfreq(len(wave), 1 / rate)[np.abs(np.fft.rfft(wave)).argmax()])


# --- files that lie or are broken ----------------------------------------------------------------------------------


def _boxes(data: bytes, kind: bytes) -> list[int]:
    """Positions of the payloads of all MP4 boxes of a kind."""
    found, position = [], data.find(kind)
    while position >= 0:
        found.append(position + 4)
        position = data.find(kind, position + 4)
    return found


def rotate_mp4(source: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copies an MP4 and sets the display matrix (a, b, c, d) of its first track."""
    data = bytearray(source.read_bytes())
    start = _boxes(data, b"tkhd")[0]
    a, b, c, d = (value * 65536 for value in matrix)
    data[start + 40 : start + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # degrees clockwise


def lie_about_duration(source: Path, target: Path, factor: int) -> Path:
    """Copies an MP4 whose headers (movie, track and media) claim `factor` times the true duration."""
    data = bytearray(source.read_bytes())
    for kind, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        for start in _boxes(data, kind):
            place = slice(start + offset, start + offset + 4)
            data[place] = struct.pack(">I", int.from_bytes(data[place], "big") * factor)
    target.write_bytes(data)
    return target


def claim_size(source: Path, target: Path, width: int, height: int) -> Path:
    """Copies an MP4 whose sample description claims another picture size."""
    data = bytearray(source.read_bytes())
    start = _boxes(data, b"avc1")[-1]
    data[start + 24 : start + 28] = struct.pack(">HH", width, height)
    target.write_bytes(data)
    return target
