"""Turns a synthetic scene into frames, a waveform and an MP4 file (H.264 and AAC)."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from ..atomic import atomic_file
from ..models.errors import MissingBackend
from ..models.transformers_compat import pyav_writes_sound_in_place
from .scene import BEEP_SECONDS, DEFAULT_SIZE, Scene, Sprite

__all__ = [
    "SAMPLE_RATE",
    "draw_sprite",
    "empty_frames",
    "render_audio",
    "render_scene",
    "shape_coverage",
    "to_bytes",
    "write_clip",
    "write_scene_mp4",
]

SAMPLE_RATE = 16_000
PITCH_HZ = {"high": 1760.0, "low": 330.0}
# Coverage is averaged over this many sub-pixels per axis. This gives smooth edges, so that motion by less than a pixel
# is visible.
SUBPIXELS = 4
# The same frames must give the same bytes every time. More threads than one would not make small clips faster. The tree
# of macroblocks is off, because this part of x264 reads memory that nobody wrote, where a clip has B-frames.
_H264_OPTIONS = {"crf": "14", "preset": "veryfast", "threads": "1", "mbtree": "0"}


def shape_coverage(
    shape: str, centre: tuple[float, float], radius: float, size: int
) -> tuple[slice, slice, npt.NDArray[np.float32]]:
    """Return how much of each pixel a shape covers.

    Args:
        shape: one of `SHAPES`.
        centre: (x, y) as fractions of the frame's side.
        radius: half extent as a fraction of the frame's side.
        size: side of the frame in pixels.

    Returns:
        Row slice and column slice of a window, and the coverage in 0..1 inside it, (rows, columns). Outside of the
        window, the coverage is 0.

    Raises:
        ValueError: unknown shape.
    """
    columns, rows = (_window(position * size, radius * size, size) for position in centre)
    x = (_subpixel_centres(columns) / size - centre[0]) / radius
    y = (_subpixel_centres(rows) / size - centre[1])[:, None] / radius
    inside = _inside(shape, x, y)
    blocks = inside.reshape(rows.stop - rows.start, SUBPIXELS, columns.stop - columns.start, SUBPIXELS)
    return rows, columns, blocks.mean(axis=(1, 3), dtype=np.float32)


def empty_frames(num_frames: int, size: int) -> npt.NDArray[np.float32]:
    """Make frames to draw on, (num_frames, size, size, 3), with undefined content.

    Raises:
        ValueError: `size` is odd or less than 16 pixels.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be even and at least 16 pixels, got {size}.")
    return np.empty((num_frames, size, size, 3), dtype=np.float32)


def to_bytes(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Round drawn frames to uint8."""
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def render_scene(scene: Scene, size: int = DEFAULT_SIZE) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        size: side of the square frames in pixels, even and at least 16.

    Returns:
        Frames (num_frames, size, size, 3), uint8 RGB.

    Raises:
        ValueError: `size` is odd or too small.
    """
    frames = empty_frames(scene.num_frames, size)
    frames[:] = np.asarray(scene.background, dtype=np.float32)
    if scene.noise:
        # PCG64 and its normal() are stable across the numpy versions this package supports.
        grain = np.random.Generator(np.random.PCG64(scene.seed)).normal(0, scene.noise, (*frames.shape[:3], 1))
        frames += grain.astype(np.float32)
    for sprite in scene.sprites:
        draw_sprite(frames, sprite, size)
    return to_bytes(frames)


def render_audio(scene: Scene, sample_rate: int = SAMPLE_RATE) -> npt.NDArray[np.float32]:
    """Make the sound of a scene: its beeps, which all have the same pitch.

    Returns:
        Mono waveform (samples,) in -1..1, as long as the clip.
    """
    waveform = np.zeros(round(scene.duration * sample_rate), dtype=np.float32)
    length = round(BEEP_SECONDS * sample_rate)
    time = np.arange(length) / sample_rate
    # A short fade at both ends avoids clicks, which a model could hear as a second pitch.
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    beep = (0.5 * fade * np.sin(2 * np.pi * PITCH_HZ[scene.pitch] * time)).astype(np.float32)
    for time_of_beep in scene.beep_times:
        start = int(time_of_beep * len(waveform) - length / 2)
        waveform[start : start + length] += beep
    return waveform


def write_scene_mp4(
    scene: Scene, path: str | os.PathLike[str], with_audio: bool = True, size: int = DEFAULT_SIZE
) -> Path:
    """Draw a scene, and write it as an MP4 file. The file appears complete or not at all.

    Args:
        scene: what to draw.
        path: the file to write; its folder is made if it does not exist.
        with_audio: add the sound track.
        size: side of the frames in pixels.

    Returns:
        The path of the file.
    """
    waveform = render_audio(scene) if with_audio else None
    return write_clip(render_scene(scene, size), path, scene.fps, waveform)


def write_clip(
    frames: npt.NDArray[np.uint8],
    path: str | os.PathLike[str],
    fps: int,
    waveform: npt.NDArray[np.float32] | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Path:
    """Encode frames (T, H, W, 3) uint8 and an optional mono waveform (samples,) as an MP4 file, atomically.

    H and W must be even, because H.264 with 4:2:0 colour requires this.

    Raises:
        MissingBackend: there is sound to write, and PyAV is older than 17.1.
    """
    path = Path(path)
    if waveform is not None and not pyav_writes_sound_in_place():
        raise MissingBackend(
            f"{path}: this PyAV writes the sound of MP4 files one frame too late; run: pip install -U 'av>=17.1', or "
            "write clips without sound."
        )
    with atomic_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        _encode(container, frames, fps, waveform, sample_rate)
    return path


def _encode(
    container: av.container.OutputContainer,
    frames: npt.NDArray[np.uint8],
    fps: int,
    waveform: npt.NDArray[np.float32] | None,
    sample_rate: int,
) -> None:
    video = container.add_stream("libx264", rate=fps, options=_H264_OPTIONS)
    video.height, video.width = frames.shape[1:3]
    video.pix_fmt = "yuv420p"
    # All streams must be declared before the first packet, because the header is written then.
    audio = None
    if waveform is not None:
        audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        audio.bit_rate = 48_000
    for picture in frames:
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
    container.mux(video.encode(None))
    if audio is not None and waveform is not None:
        sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        sound.sample_rate = sample_rate
        sound.pts = 0
        sound.time_base = Fraction(1, sample_rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def draw_sprite(frames: npt.NDArray[np.float32], sprite: Sprite, size: int) -> None:
    """Draw a shape into the frames (T, size, size, 3) in which it is visible, in place."""
    colour = np.asarray(sprite.rgb, dtype=np.float32)
    previous = None
    for offset, centre in enumerate(sprite.centres):
        # The coverage of a shape that does not move is computed once.
        if centre != previous:
            rows, columns, coverage = shape_coverage(sprite.shape, centre, sprite.radius, size)
            weight = coverage[..., None]
            previous = centre
        window = frames[sprite.first_frame + offset, rows, columns]
        window += weight * (colour - window)


def _window(position: float, reach: float, size: int) -> slice:
    """Return the pixels from position - reach to position + reach that are inside the frame."""
    first = max(0, int(np.floor(position - reach)))
    return slice(first, max(first, min(size, int(np.ceil(position + reach)))))


def _subpixel_centres(window: slice) -> npt.NDArray[np.float64]:
    count = (window.stop - window.start) * SUBPIXELS
    return window.start + (np.arange(count) + 0.5) / SUBPIXELS


def _inside(shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell which points lie in a shape of half extent 1 around the origin; x is a row, y a column."""
    if shape == "circle":
        return x**2 + y**2 <= 0.98**2
    if shape == "square":
        return (np.abs(x) <= 0.86) & (np.abs(y) <= 0.86)
    if shape == "triangle":
        return (y <= 0.85) & (y >= -0.95 + 1.8 * np.abs(x))
    if shape == "cross":
        far, near = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return (far <= 0.98) & (near <= 0.3)
    if shape == "ring":
        distance = x**2 + y**2
        return (distance <= 0.98**2) & (distance >= 0.55**2)
    raise ValueError(f"Unknown shape {shape!r}.")
