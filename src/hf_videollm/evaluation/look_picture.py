"""The picture of what a model looked at: bars over time, and frames with marks and heat maps."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..atomic import atomic_file
from .look import Look

__all__ = ["FORMATS", "check_picture", "draw_look", "heated", "marked", "write_look"]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
RED = (220, 30, 30)
STRENGTH = 0.5
TILE, GAP, COLUMNS, LINE, BARS, MARGIN = 224, 10, 4, 18, 80, 12
FONT_SIZE = 13
MOST_FRAMES = 12


def check_picture(path: Path) -> None:
    """Find out before a model is loaded whether the picture can be written.

    Raises:
        ValueError: the suffix is unknown.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"A picture is a file that ends with {', '.join(FORMATS)}, not {path.name!r}.")


def write_look(path: Path, look: Look, most_frames: int = MOST_FRAMES) -> None:
    """Write the picture, completely or not at all.

    Args:
        path: ends with one of `FORMATS`.
        look: what to draw.
        most_frames: of the frames, those with the highest bars are shown, in the order of time.

    Raises:
        ValueError: the suffix is unknown.
    """
    check_picture(path)
    picture = draw_look(look, most_frames)
    with atomic_file(path) as temporary:
        picture.save(temporary, format=FORMATS[path.suffix.lower()])


def draw_look(look: Look, most_frames: int = MOST_FRAMES) -> Image.Image:
    """The picture; see `write_look`."""
    shown = shown_frames(look.seen.frames, most_frames)
    columns = min(COLUMNS, len(shown))
    width = max(2 * MARGIN + COLUMNS * (TILE + GAP) - GAP, 400)
    lines = _lines(look, len(shown), width)
    rows = -(-len(shown) // columns)
    tiles = [_tile(look, frame) for frame in shown]
    tile_height = tiles[0].height + LINE + GAP
    top = MARGIN + LINE * len(lines)
    picture = Image.new("RGB", (width, top + BARS + 2 * GAP + rows * tile_height + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    font: Any = ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + LINE * number), line, fill="black", font=font)
    _draw_bars(pen, look.seen.frames, set(shown), (MARGIN, top, width - MARGIN, top + BARS))
    top += BARS + 2 * GAP
    for number, (frame, tile) in enumerate(zip(shown, tiles, strict=True)):
        x, y = MARGIN + number % columns * (TILE + GAP), top + number // columns * tile_height
        pen.text((x, y), _caption(look, frame), fill="black", font=font)
        picture.paste(tile, (x, y + LINE))
    return picture


def shown_frames(values: np.ndarray, most: int) -> list[int]:
    """Numbers of the frames with the highest values, in the order of time; of equal ones the first."""
    highest = np.argsort(-values, kind="stable")[:most]
    return sorted(int(number) for number in highest)


def marked(frame: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A frame whose chosen patches are red.

    Args:
        frame: `(height, width, 3)` uint8.
        chosen: `(rows, columns)` bool.
    """
    mask = _stretched(chosen.astype(float), frame.shape[:2])[..., None] * STRENGTH
    return (frame * (1 - mask) + np.array(RED) * mask).round().astype(np.uint8)


def heated(frame: np.ndarray, weights: np.ndarray, highest: float) -> np.ndarray:
    """A dimmed frame that is brighter and redder where weights are high.

    Args:
        frame: `(height, width, 3)` uint8.
        weights: `(rows, columns)`.
        highest: the weight that is drawn brightest, the same for all frames.
    """
    heat = _stretched(weights / highest if highest else weights, frame.shape[:2])[..., None]
    grey = frame.mean(-1, keepdims=True) * 0.35
    colour = np.concatenate([np.full_like(heat, 255.0), 230 * heat, 40 * heat], axis=-1)
    return (grey * (1 - heat) + colour * heat).round().astype(np.uint8)


def _stretched(grid: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A grid of patches as large as a frame; each pixel has the value of its patch."""
    rows, columns = (np.arange(length) * count // length for length, count in zip(size, grid.shape, strict=True))
    stretched: np.ndarray = grid[rows][:, columns]
    return stretched


def _tile(look: Look, frame: int) -> Image.Image:
    """A frame with marks, and below it its heat map; the bare frame where tokens have no place."""
    picture, seen = look.pictures[frame], look.seen
    parts = [picture if seen.chosen is None else marked(picture, seen.chosen[frame])]
    if seen.patches is not None:
        parts.append(heated(picture, seen.patches[frame], float(seen.patches.max())))
    height = max(1, round(TILE * picture.shape[0] / picture.shape[1]))
    tile = Image.new("RGB", (TILE, height * len(parts) + 2 * (len(parts) - 1)), "white")
    for number, part in enumerate(parts):
        scaled = Image.fromarray(part).resize((TILE, height), Image.Resampling.NEAREST)
        tile.paste(scaled, (0, number * (height + 2)))
    return tile


def _draw_bars(pen: Any, values: np.ndarray, shown: set[int], box: tuple[int, int, int, int]) -> None:
    """One bar for each frame; those of frames that are shown are red."""
    left, top, right, bottom = box
    pen.rectangle(box, outline="#cccccc")
    step = (right - left) / len(values)
    for number, value in enumerate(values):
        height = (bottom - top - 4) * float(value) / float(values.max() or 1.0)
        x = left + number * step
        colour = RED if number in shown else (150, 150, 150)
        pen.rectangle((x, bottom - height, max(x, x + step - 2), bottom), fill=colour)


def _lines(look: Look, num_shown: int, width: int) -> list[str]:
    """What stands above the picture."""
    count = len(look.seen.frames)
    part = "" if num_shown == count else f" The {num_shown} highest of {count} frames are shown."
    texts = [f"Question: {look.question}", f"Answer: {look.answer}", look.seen.meaning + part]
    per_line = width // 7
    return [line for text in texts for line in textwrap.wrap(text, per_line) or [""]]


def _caption(look: Look, frame: int) -> str:
    seconds = "" if look.seconds is None else f", {look.seconds[frame]:.1f} s"
    return f"frame {look.numbers[frame]}{seconds}: {look.seen.frames[frame]:.1%}"
