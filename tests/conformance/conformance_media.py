"""Media that the test mixins ask of the Hub by URL, made here instead: nothing is downloaded."""

from fractions import Fraction
from pathlib import Path
from urllib.parse import urlparse

import av
import numpy as np
from fetch import CACHE
from PIL import Image

# The mixins expect 11 frames of their smallest video; the others are long enough to sample from.
NUM_FRAMES = {"tiny_video_320x240.mp4": 11}
FRAMES_PER_SECOND = 30
WIDTH, HEIGHT = 320, 240
SAMPLING_RATE, SECONDS = 16000, 2


def url_to_local_path(url: str) -> str:
    """Path of a file of our own that has the name and kind of the one at `url`; other addresses are returned as is."""
    name = Path(urlparse(url).path).name
    writer = {
        ".mp4": _write_video,
        ".png": _write_image,
        ".jpg": _write_image,
        ".mp3": _write_sound,
        ".wav": _write_sound,
    }.get(Path(name).suffix)
    if writer is None:
        return url
    file = CACHE / "media" / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_stem(f"partial_{file.stem}")
        writer(partial)
        partial.rename(file)
    return str(file)


def _picture(step: int) -> np.ndarray:
    """A colour gradient that moves with `step`."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows + step * 5, columns + step * 3, rows + columns], axis=-1).astype(np.uint8)


def _write_image(file: Path) -> None:
    Image.fromarray(_picture(0)).save(file)


def _write_video(file: Path) -> None:
    num_frames = NUM_FRAMES.get(file.name.removeprefix("partial_"), 60)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        # All streams before the first packet: with it, the container fixes what it holds.
        track = _add_track(container, "aac")
        for step in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(step), format="rgb24")))
        container.mux(stream.encode())
        _write_tone(container, track)


def _write_sound(file: Path) -> None:
    with av.open(str(file), "w") as container:
        _write_tone(container, _add_track(container, "libmp3lame" if file.suffix == ".mp3" else "pcm_s16le"))


def _add_track(container: av.container.OutputContainer, codec: str) -> av.AudioStream:
    return container.add_stream(codec, rate=SAMPLING_RATE, layout="mono")


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    """A tone that rises."""
    time = np.arange(SECONDS * SAMPLING_RATE) / SAMPLING_RATE
    tone = (0.5 * np.sin(2 * np.pi * (300 + 200 * time) * time) * 2**15).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = SAMPLING_RATE, Fraction(1, SAMPLING_RATE), 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
