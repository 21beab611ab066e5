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
