"""Small pictures of what a model saw, as data URLs: the frames that a run has recorded, read from the video again."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["Strip", "Thumbnails"]

WIDTH = 128
QUALITY = 70
# Of the frames of one video, evenly chosen where there are more.
MOST_FRAMES = 8


@dataclass(frozen=True)
class Strip:
    """The pictures of one medium.

    Attributes:
        caption: what they are.
        urls: data URLs, in the order of the frames.
    """

    caption: str
    urls: tuple[str, ...] = ()


@dataclass
class Thumbnails:
    """Reads frames of videos, and remembers those of the last ones: several questions are about one video.

    Attributes:
        num_missing: media whose file is not there any more.
        num_damaged: media that cannot be read.
    """

    num_missing: int = 0
    num_damaged: int = 0
    _kept: dict[tuple[Any, ...], Strip] = field(default_factory=dict)

    def strip(self, medium: Mapping[str, Any]) -> Strip:
        """The pictures of a medium.

        Args:
            medium: as the records hold it: `type`, `path`, and the `frames` that the model saw.
        """
        frames = medium.get("frames")
        key = (medium["type"], medium["path"], None if frames is None else tuple(frames), part_text(medium))
        if key not in self._kept:
            while len(self._kept) >= MOST_FRAMES:
                del self._kept[next(iter(self._kept))]
            strip = self._read(medium)
            self._kept[key] = replace(strip, caption=strip.caption + part_text(medium))
        return self._kept[key]

    def _read(self, medium: Mapping[str, Any]) -> Strip:
        from ...models.errors import MediaError, one_line

        path = Path(str(medium["path"]))
        name, kind, frames = path.name, medium["type"], medium.get("frames")
        if kind == "audio":
            return Strip(f"{name} (sound)")
        if not path.exists():
            self.num_missing += 1
            return Strip(f"{name}: the file is not there any more")
        if kind == "video" and not frames:
            return Strip(f"{name}: no frames were read")
        try:
            if kind == "image":
                return Strip(name, (_jpeg(_picture(path)),))
            chosen = _chosen(frames or ())
            return Strip(_caption(name, chosen, frames or ()), tuple(map(_jpeg, _frames(path, chosen))))
        except (MediaError, ValueError, OSError) as error:
            self.num_damaged += 1
            return Strip(f"{name}: cannot be read ({one_line(error)})")


def part_text(medium: Mapping[str, Any]) -> str:
    """The part of a video that is asked about, and where the file is not as its annotation says; often empty.

    Example:
        >>> part_text({"start": 1.0, "end": 9.0, "ends": 2.5})
        '; asked about 1 to 9 s; the file ends at 2.5 s'
    """
    words = []
    if "start" in medium or "end" in medium:
        end = f"{medium['end']:g} s" if "end" in medium else "the end"
        words.append(f"asked about {medium.get('start', 0):g} to {end}")
    if "ends" in medium:
        words.append(f"the file ends at {medium['ends']:g} s")
    for name, value in medium.get("stated", {}).items():
        words.append(f"annotated with {value:g} {name}, found {medium['found'][name]:g}")
    return "".join(f"; {word}" for word in words)


def _chosen(frames: Sequence[int]) -> list[int]:
    """At most `MOST_FRAMES` of the frames, from the first to the last.

    Example:
        >>> _chosen(range(0, 160, 10))
        [0, 20, 40, 60, 90, 110, 130, 150]
    """
    if len(frames) <= MOST_FRAMES:
        return list(frames)
    return [frames[round(place * (len(frames) - 1) / (MOST_FRAMES - 1))] for place in range(MOST_FRAMES)]


def _caption(name: str, chosen: Sequence[int], frames: Sequence[int]) -> str:
    number = f"{len(chosen)} of {len(frames)} frames" if len(chosen) < len(frames) else f"{len(frames)} frames"
    return f"{name}, {number}: {', '.join(map(str, chosen))}"


def _frames(path: Path, indices: list[int]) -> Sequence[Any]:
    from ...models.media_video import load_video

    # Shrinking each frame as it is decoded keeps a long video out of the memory.
    frames, _ = load_video(str(path), sample_indices_fn=lambda metadata: indices, frame_fn=partial(_small, width=WIDTH))
    return list(frames)


def _picture(path: Path) -> Any:
    from ...models.media_video import load_video

    frames, _ = load_video([str(path)], frame_fn=partial(_small, width=WIDTH))
    return frames[0]


def _small(frame: Any, width: int) -> Any:
    """A frame `(H, W, 3)` of at most this width."""
    import numpy as np
    from PIL import Image

    height = max(1, round(frame.shape[0] * min(1.0, width / frame.shape[1])))
    return np.asarray(Image.fromarray(frame).resize((min(width, frame.shape[1]), height)))


def _jpeg(frame: Any) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
