"""Sound files of any sample format, rate and number of channels, written here, so that a test knows every sample."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np

NUMBERS = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
WAV_FORMATS = {"u8": (1, 8), "s16": (1, 16), "s24": (1, 24), "s32": (1, 32), "flt": (3, 32), "dbl": (3, 64)}


def channel_tones(channels: int, samples: int = 1600, rate: int = 16000) -> np.ndarray:
    """float64 (channels, samples): 200 Hz in all, channel k of the level (k + 1) / (channels + 1)."""
    levels = np.arange(1, channels + 1) / (channels + 1)
    return levels[:, None] * np.sin(2 * np.pi * 200 * np.arange(samples) / rate)


def as_numbers(sound: np.ndarray, sample_format: str) -> np.ndarray:
    """The sound in the numbers of an FFmpeg sample format (without its p for planar)."""
    kind = NUMBERS[sample_format]
    if sample_format == "u8":
        return np.round(sound * 128 + 128).astype(kind)
    return np.round(sound * np.iinfo(kind).max).astype(kind) if kind in (np.int16, np.int32) else sound.astype(kind)


def wav(sound: np.ndarray, sample_format: str = "s16", rate: int = 16000) -> bytes:
    """A WAV file of a sound (channels, samples), written by hand: also what no encoder would write."""
    if sample_format == "s24":
        numbers = as_numbers(sound, "s32").T
        data = numbers.astype("<i4").tobytes()
        data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    else:
        data = as_numbers(sound, sample_format).T.tobytes()
    tag, bits = WAV_FORMATS[sample_format]
    size = len(sound) * bits // 8
    head = struct.pack("<IHHIIHH", 16, tag, len(sound), rate, rate * size & 0xFFFFFFFF, size, bits)
    begin = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + head
    return begin + b"data" + struct.pack("<I", len(data)) + data


def caf(sound: np.ndarray, sample_format: str = "s16", labels: list[int] | None = None, rate: int = 16000) -> bytes:
    """A CAF file of a sound (channels, samples), written by hand.

    Args:
        sample_format: a signed one; bytes of CAF are signed, unlike those of WAV.
        labels: Core Audio's number of each channel, for example 1 (left), 2 (right), 3 (centre), 4 (low tones). If they
            are not in the order of these numbers, FFmpeg reads a custom order. `None`: the file describes no channels.
    """
    is_float = sample_format in ("flt", "dbl")
    bits = NUMBERS[sample_format](0).itemsize * 8
    flags = int(is_float) | 2  # 2: little endian
    count, size = len(sound), len(sound) * bits // 8
    chunks = [(b"desc", struct.pack(">d4s5I", rate, b"lpcm", flags, size, 1, count, bits))]
    if labels is not None:
        described = b"".join(struct.pack(">II3f", label, 0, 0, 0, 0) for label in labels)
        chunks.append((b"chan", struct.pack(">III", 0, 0, len(labels)) + described))
    chunks.append((b"data", bytes(4) + as_numbers(sound, sample_format).T.tobytes()))
    return b"caff" + struct.pack(">HH", 1, 0) + b"".join(k + struct.pack(">q", len(v)) + v for k, v in chunks)


def encode(
    container: str, codec: str, sample_format: str, sound: np.ndarray, rate: int = 16000, layout: str | None = None
) -> bytes:
    """A file of a sound (channels, samples) in any container and codec of PyAV."""
    layout = layout or f"{len(sound)} channels"
    packed = sample_format.rstrip("p")
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.format = sample_format
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
        numbers = as_numbers(sound, packed)
        for start in range(0, numbers.shape[1], 1024):
            # Interleaved, and made planar by FFmpeg: PyAV cannot touch the planes of 8 channels and more.
            block = np.ascontiguousarray(numbers[:, start : start + 1024].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format=packed, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for part in resampler.resample(frame):
                file.mux(stream.encode(part))
        for part in resampler.resample(None):
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    return target.getvalue()
