"""Clips, sounds and pictures of the stand-ins, and questions about them that the bundled models can answer."""

from __future__ import annotations

import csv
import functools
import io
import json
import tempfile
import wave
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from ..render import SAMPLE_RATE, render_audio, render_scene, write_clip, write_scene_mp4
from ..scene import QA, SOUND_QUESTION_KINDS, SPLIT_SEEDS, VIDEO_QUESTION_KINDS, Scene, make_scene, questions_for

__all__ = [
    "PICTURE_QUESTION_KINDS",
    "Known",
    "known_questions",
    "write_frames",
    "write_json",
    "write_json_lines",
    "write_parquet",
    "write_picture",
    "write_scenes",
    "write_table",
    "write_video",
    "write_wav",
]

# What a picture shows as well as a clip.
PICTURE_QUESTION_KINDS = ("colour", "shape", "count")
# Two stand-ins with neighbouring seeds share no clip.
SCENES_PER_SEED = 10_000
# Formats of clips without sound, by their suffix: container and codec.
_CONTAINERS = {".avi": ("avi", "mpeg4"), ".mkv": ("matroska", "mpeg4"), ".webm": ("webm", "libvpx")}
# Encoders are told to keep colours: MPEG-4 by its quantisers, VP8 by its rate for 64 x 64 pixels.
# One thread, because the bytes of more depend on the number of cores.
_CODEC_OPTIONS = {
    "mpeg4": {"qmin": "1", "qmax": "2", "threads": "1"},
    "libvpx": {"crf": "4", "b": "2M", "deadline": "realtime", "threads": "1"},
}


class Known(NamedTuple):
    """A question with its answer, about the clip of a scene."""

    scene: Scene
    qa: QA

    @property
    def clip(self) -> str:
        """Name of the clip, without a suffix. Questions about the same scene share it."""
        return f"clip{self.scene.seed % SCENES_PER_SEED:04d}"


def known_questions(
    count: int,
    seed: int = 0,
    kinds: Collection[str] = VIDEO_QUESTION_KINDS,
    per_scene: int | None = None,
) -> list[Known]:
    """Questions about held-out scenes, of the kinds that the small checkpoints were trained to answer.

    Args:
        count: number of questions.
        seed: another one gives other scenes.
        kinds: of questions; `scene.QUESTION_KINDS` has all.
        per_scene: at most so many questions about one scene; all that there are when None.

    Raises:
        ValueError: `seed` leads out of the held-out scenes, or fewer than that many questions are there.
    """
    first = SPLIT_SEEDS["test"].start + seed * SCENES_PER_SEED
    scenes = range(first, first + SCENES_PER_SEED)
    if seed < 0 or scenes.stop > SPLIT_SEEDS["test"].stop:
        raise ValueError(f"seed must be from 0 to {len(SPLIT_SEEDS['test']) // SCENES_PER_SEED - 1}, got {seed}.")
    with_sound = any(kind in SOUND_QUESTION_KINDS for kind in kinds)
    found: list[Known] = []
    for scene_seed in scenes:
        scene = make_scene(scene_seed, entries=with_sound)
        asked = [qa for qa in questions_for(scene, sound=with_sound) if qa.kind in kinds]
        found += [Known(scene, qa) for qa in asked[:per_scene]]
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"{SCENES_PER_SEED} scenes answer fewer than {count} questions of the kinds {', '.join(kinds)}.")


def write_video(scene: Scene, path: Path) -> None:
    """Write the clip of a scene, with its sound where the format holds one.

    Args:
        path: ends with .mp4, .avi, .mkv, .webm or .gif.

    Raises:
        ValueError: another suffix.
    """
    _write_bytes(path, _clip_bytes(scene, path.suffix))


def write_scenes(scenes: Sequence[Scene], path: Path, fps: int) -> None:
    """Write scenes one after another as one video without sound.

    Args:
        path: ends with .mp4, .avi, .mkv or .webm.
        fps: frames per second; the scenes play faster or slower where it is not their own.
    """
    frames = np.concatenate([render_scene(scene) for scene in scenes])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        write_clip(frames, path, fps)
    else:
        _write_silent(frames, fps, path)


def write_frames(scenes: Sequence[Scene], folder: Path) -> None:
    """Write the frames of scenes, one after another, as pictures 00001.jpg, 00002.jpg, ..."""
    frames = np.concatenate([render_scene(scene) for scene in scenes])
    for number, frame in enumerate(frames, start=1):
        content = io.BytesIO()
        Image.fromarray(frame).save(content, format="JPEG", quality=95, subsampling=0)
        _write_bytes(folder / f"{number:05d}.jpg", content.getvalue())


def write_wav(scene: Scene, path: Path) -> None:
    """Write the beeps of a scene as a WAV file of 16 bits."""
    samples = np.clip(np.rint(render_audio(scene) * 32767), -32768, 32767).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    _write_bytes(path, content.getvalue())


def write_picture(scene: Scene, path: Path) -> None:
    """Write the middle frame of a scene as a picture, in the format that the suffix names."""
    frames = render_scene(scene)
    content = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix]
    Image.fromarray(frames[len(frames) // 2]).save(content, format=kind, quality=95)
    _write_bytes(path, content.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    _write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a file with one JSON value in each line."""
    _write_bytes(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a Parquet file with a column for each field."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), content)
    _write_bytes(path, content.getvalue())


def write_table(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> None:
    """Write a table; its header, where it has one, is the first row."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    _write_bytes(path, text.getvalue().encode())


def _write_bytes(path: Path, content: bytes) -> None:
    # Without waiting for the disk: a stand-in is quickly made again, and all its files are written each time.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# The stand-ins of many benchmarks show the same scenes. A clip has some kilobytes.
@functools.lru_cache(maxsize=512)
def _clip_bytes(scene: Scene, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        if suffix == ".mp4":
            write_scene_mp4(scene, path)
        elif suffix == ".gif":
            _write_gif(render_scene(scene), scene.fps, path)
        elif suffix in _CONTAINERS:
            _write_silent(render_scene(scene), scene.fps, path)
        else:
            raise ValueError(f"A clip ends with .mp4, .gif, {' or '.join(_CONTAINERS)}, not with {suffix!r}.")
        return path.read_bytes()


def _write_silent(frames: npt.NDArray[np.uint8], fps: int, path: Path) -> None:
    container_format, codec = _CONTAINERS[path.suffix]
    # The same bytes every time: without "bitexact", a Matroska file gets random numbers.
    with av.open(str(path), "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        # AVI has no place for the order of B-frames, and MPEG-4 writes none unless it is told to.
        stream: Any = container.add_stream(codec, rate=fps, options=_CODEC_OPTIONS[codec])
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def _write_gif(frames: npt.NDArray[np.uint8], fps: int, path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, format="GIF", save_all=True, append_images=others, duration=1000 // fps, loop=0)
