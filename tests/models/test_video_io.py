"""Decoding: the right frames, in every container and backend, and the sampling around them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import borrowed_ffmpeg
import numpy as np
import pytest
import ready_python
import torch
from backends import BACKENDS, record_decoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_corpus import (
    ROTATIONS,
    number_picture,
    read_number,
    read_numbers,
    rotate_mp4,
    sine,
    write_video,
)
from PIL import Image

import hf_videollm
from hf_videollm.models.media_video import (
    MissingBackend,
    available_backends,
    load_audio,
    load_video,
    probe_video,
)

CLIPS = {
    "long_gop.mp4": {"pictures": 200},  # three B-frames, one keyframe in 250
    "many_keys.mp4": {"pictures": 90, "options": {"bf": "3", "g": "12", "crf": "10"}},
    "open_gop.mp4": {"pictures": 90, "options": {"bf": "3", "g": "20", "x264-params": "open-gop=1", "crf": "10"}},
    "intra.mp4": {"pictures": 40, "options": {"g": "1", "crf": "10"}},
    "fragmented.mp4": {"pictures": 60, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "no_count.mkv": {"pictures": 60, "options": {"bf": "3", "g": "25", "crf": "10"}},
    "vp9.webm": {"pictures": 40, "codec": "libvpx-vp9", "options": {"deadline": "realtime", "crf": "10"}},
    "vp8.webm": {"pictures": 60, "codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "stream.ts": {"pictures": 60, "options": {"bf": "3", "g": "20", "crf": "10"}},
    "mpeg4.avi": {"pictures": 60, "codec": "mpeg4", "options": {"bf": "2", "qscale": "2"}},
    "h264.avi": {"pictures": 60, "options": {"bf": "3", "g": "20", "crf": "10"}},
    "hevc.mp4": {"pictures": 60, "codec": "libx265", "options": {"x265-params": "log-level=none:keyint=20"}},
    "late.mkv": {"pictures": 60, "times": [i * 40 + 3000 for i in range(60)]},
}

# The models folder imported by itself, as a checkpoint's remote code is; the whole package takes seconds to import.
ALONE = f"""
import sys
sys.path.insert(0, {str(Path(hf_videollm.__file__).parent)!r})
from models.media_video import available_backends, load_video
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_video(folder / name, **kwargs) for name, kwargs in CLIPS.items()}


@pytest.fixture(scope="module")
def clip(clips: dict[str, Path]) -> Path:
    return clips["many_keys.mp4"]


def pick(*indices: int):
    return lambda metadata: list(indices)


# --- the right frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_carry_their_own_number(clips: dict[str, Path], name: str, backend: str) -> None:
    path, total = clips[name], CLIPS[name]["pictures"]
    everything, metadata = load_video(path, backend=backend)
    assert read_numbers(everything) == list(range(total))
    assert metadata.total_num_frames == total
    assert metadata.fps == pytest.approx(25.0)
    assert metadata.duration == pytest.approx(total / 25, abs=0.002)
    assert metadata.frames_indices == list(range(total))
    for wanted in ([0], [total - 1], [total // 2], [5, 6, 7, 30], [33, 4, 4, total - 2, 0]):
        frames, metadata = load_video(path, sample_indices_fn=pick(*wanted), backend=backend)
        assert metadata.frames_indices == wanted
        np.testing.assert_array_equal(frames, everything[wanted])


@pytest.mark.parametrize("name", CLIPS)
def test_backends_give_identical_pixels(clips: dict[str, Path], name: str) -> None:
    reference, metadata = load_video(clips[name], num_frames=9, backend="pyav")
    for backend in BACKENDS[1:]:
        frames, other = load_video(clips[name], num_frames=9, backend=backend)
        np.testing.assert_array_equal(frames, reference)
        other.video_backend = metadata.video_backend
        assert other == metadata


@pytest.mark.parametrize("name", ["long_gop.mp4", "no_count.mkv", "hevc.mp4", "stream.ts"])
def test_seeking_equals_decoding_everything_with_plain_pyav(clips: dict[str, Path], name: str) -> None:
    with av.open(str(clips[name])) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames, metadata = load_video(clips[name], num_frames=7, backend="pyav")
    np.testing.assert_array_equal(frames, plain[metadata.frames_indices])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, 89), min_size=1, max_size=12))
def test_any_indices_in_any_order(clip: Path, indices: list[int]) -> None:
    frames, metadata = load_video(clip, sample_indices_fn=lambda metadata: np.array(indices))
    assert read_numbers(frames) == indices == metadata.frames_indices


def test_only_the_needed_part_is_decoded(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = record_decoded(monkeypatch)
    load_video(clips["no_count.mkv"], sample_indices_fn=pick(52), backend="pyav")
    assert len(decoded) <= 1 + 8  # the first frame, then from keyframe 50 on


def test_edit_list_hides_frames(tmp_path: Path) -> None:
    """Frames before the cut of an edit list are packets, but they are not shown and not counted."""
    path = write_video(tmp_path / "full.mp4", 50, options={"bf": "0", "g": "50", "crf": "10"})
    data = bytearray(path.read_bytes())
    place = data.find(b"elst") + 4
    assert int.from_bytes(data[place + 4 : place + 8], "big") == 1
    with av.open(str(path)) as container:
        ticks = int(container.streams.video[0].duration * 20 / 50)
    data[place + 8 : place + 12] = (1200).to_bytes(4, "big")  # 1.2 s, in the movie's clock of 1000
    data[place + 12 : place + 16] = ticks.to_bytes(4, "big")
    (tmp_path / "cut.mp4").write_bytes(data)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        plain = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert plain[0] == 20
    for backend in BACKENDS:
        frames, metadata = load_video(tmp_path / "cut.mp4", backend=backend)
        assert read_numbers(frames) == plain
        assert metadata.total_num_frames == len(plain)
        one, _ = load_video(tmp_path / "cut.mp4", sample_indices_fn=pick(10), backend=backend)
        assert read_numbers(one) == [30]


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_before_time_zero_are_not_shown(tmp_path: Path, backend: str) -> None:
    path = write_video(tmp_path / "negative.mp4", 60, times=[i * 40 - 200 for i in range(60)])
    frames, metadata = load_video(path, backend=backend)
    assert read_numbers(frames) == list(range(5, 60))
    assert (metadata.total_num_frames, metadata.fps) == (55, 25.0)
    assert read_numbers(load_video(path, sample_indices_fn=pick(54, 0), backend=backend)[0]) == [59, 5]


# --- sampling ------------------------------------------------------------------------------------------------------


def test_num_frames_takes_the_middle_of_equal_parts(clip: Path) -> None:
    frames, metadata = load_video(clip, num_frames=3)
    assert metadata.frames_indices == [15, 45, 75] == read_numbers(frames)


@pytest.mark.parametrize("backend", BACKENDS)
def test_short_clips_repeat_frames(tmp_path: Path, backend: str) -> None:
    path = write_video(tmp_path / "short.mp4", 3)
    frames, metadata = load_video(path, num_frames=8, backend=backend)
    assert metadata.frames_indices == [0, 0, 0, 1, 1, 2, 2, 2] == read_numbers(frames)
    single = write_video(tmp_path / "one.mp4", 1)
    frames, metadata = load_video(single, num_frames=4, backend=backend)
    assert (metadata.total_num_frames, metadata.frames_indices) == (1, [0, 0, 0, 0])
    assert metadata.fps == 25.0
    assert metadata.duration == pytest.approx(0.04)


def test_start_and_end_make_a_clip_of_their_own(clip: Path) -> None:
    frames, metadata = load_video(clip, num_frames=5, start=1.0, end=2.0)
    assert metadata.frames_indices == [27, 32, 37, 42, 47] == read_numbers(frames)
    assert metadata.total_num_frames == 90
    seen = {}

    def sampler(metadata):
        seen.update(total=metadata.total_num_frames, fps=metadata.fps, duration=metadata.duration)
        return [0, metadata.total_num_frames - 1]

    frames, metadata = load_video(clip, sample_indices_fn=sampler, start=1.0, end=2.0)
    assert seen == {"total": 25, "fps": 25.0, "duration": pytest.approx(1.0)}
    assert read_numbers(frames) == [25, 49] == metadata.frames_indices
    assert read_numbers(load_video(clip, start=3.4)[0]) == [85, 86, 87, 88, 89]
    assert read_numbers(load_video(clip, start=3.41, end=3.42)[0]) == [85]  # the frame on screen then
    assert read_numbers(load_video(clip, end=0.01)[0]) == [0]
    assert len(load_video(clip, start=3.5, end=100.0)[0]) == 2


def test_sampler_may_use_file_numbers_and_the_whole_metadata(clip: Path) -> None:
    def between(metadata):
        first, last = round(1.2 * metadata.fps), min(round(2.4 * metadata.fps), metadata.total_num_frames - 1)
        return np.linspace(first, last, 4).astype(int)

    _, metadata = load_video(clip, sample_indices_fn=between)
    assert metadata.frames_indices == [30, 40, 50, 60]
    assert metadata.timestamps == [1.2, 1.6, 2.0, 2.4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_frame_rate_goes_by_timestamps(tmp_path: Path, backend: str) -> None:
    times = [0, 40, 80, 120, 1000, 1500, 2000, 2040, 2080, 3000]
    for name in ("vfr.mp4", "vfr.mkv"):
        path = write_video(tmp_path / name, 10, times=times)
        frames, metadata = load_video(path, start=1.0, end=2.05, backend=backend)
        assert read_numbers(frames) == [4, 5, 6, 7] == metadata.frames_indices
        assert metadata.fps == pytest.approx(9 / 3.0, rel=0.02)
        assert 3.0 <= metadata.duration <= 3.95
        assert metadata.timestamps == pytest.approx([1.0, 1.5, 2.0, 2.04])
        assert len(replace(metadata).timestamps) == 4  # by the rate
    still = load_video(tmp_path / "vfr.mp4", start=0.5, end=0.9, backend=backend)[0]
    assert read_numbers(still) == [3]  # shown from 0.12 s to 1 s


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"start": -1.0}, "start=-1"),
        ({"start": float("nan")}, "start=nan"),
        ({"start": 2.0, "end": 2.0}, "end=2.0 is not after"),
        ({"start": 50.0}, "is after the end"),
        ({"backend": "opencv"}, "unknown"),
        ({"on_decode_error": "skip"}, "unknown"),
        ({"sample_indices_fn": pick(90)}, "go from 0 to 89"),
        ({"sample_indices_fn": pick(-1, 3)}, "-1 to 3"),
        ({"sample_indices_fn": pick()}, "no frames"),
        *(({"num_frames": value}, "num_frames=") for value in (4.0, "4", True, [4], np.float32(4))),
        *(
            ({"sample_indices_fn": pick(*value)}, "sample_indices_fn must")
            for value in ("12", [None], [np.nan], [[1], []])
        ),
        ({"sample_indices_fn": pick(True, False, True)}, "flatnonzero"),
        ({"sample_indices_fn": 5}, "sample_indices_fn=5"),
        ({"sample_indices_fn": pick(1), "num_frames": 2}, "pass only one of them"),
        ({"frame_fn": "resize"}, "frame_fn='resize'"),
        ({"allowed_hosts": 5}, "allowed_hosts=5"),
        ({"allowed_hosts": [5]}, "allowed_hosts holds 5"),
    ],
)
def test_wrong_arguments_are_named(clip: Path, arguments: dict, words: str) -> None:
    """For every source, whether or not it would have been looked at, and by every function that takes the argument."""
    given, pictures = set(arguments), list(np.zeros((90, 8, 8, 3), np.uint8))
    of_files = {"start", "end"}
    for source in (clip, pictures) if not given & of_files else (clip,):
        with pytest.raises(ValueError, match=words) as caught:
            load_video(source, **arguments)
        assert "\n" not in str(caught.value)
        if given <= {"backend", "on_decode_error", "allowed_hosts"}:
            with pytest.raises(ValueError, match=words):
                probe_video(source, **arguments)
    if given <= {"on_decode_error", "allowed_hosts"}:
        with pytest.raises(ValueError, match=words):
            load_audio(clip, **arguments)


@pytest.mark.parametrize("number", [4, np.int64(4), np.uint8(4)])
def test_whole_numbers_of_every_type(clip: Path, number: Any) -> None:
    """A control of the test above; numbers of frames may be floats, as many samplers return them."""
    frames = load_video(clip, num_frames=number)[0]
    assert len(frames) == 4
    for sampler in (pick(number), pick(4.0), lambda metadata: torch.tensor([4]), lambda metadata: np.array([4])):
        assert read_numbers(load_video(clip, sample_indices_fn=sampler, allowed_hosts=("example.org",))[0]) == [4]


# --- pictures as shown ---------------------------------------------------------------------------------------------


def corner_picture() -> np.ndarray:
    """Four corners of different grey on 64x48: any turn or mirror moves them."""
    picture = np.full((48, 64, 3), 20, dtype=np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = 230, 160, 90, 20
    return picture


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda p: p),
        (ROTATIONS[90], lambda p: np.rot90(p, -1)),
        (ROTATIONS[180], lambda p: np.rot90(p, 2)),
        (ROTATIONS[270], lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    ],
    ids=["upright", "90", "180", "270", "mirrored", "transposed"],
)
def test_rotation_is_honoured(tmp_path: Path, backend: str, matrix: tuple[int, ...], turn) -> None:
    upright = write_video(tmp_path / "upright.mp4", [corner_picture()] * 4)
    path = rotate_mp4(upright, tmp_path / "turned.mp4", matrix)
    stored = load_video(upright, backend="pyav")[0][0]
    frames, metadata = load_video(path, backend=backend)
    assert frames.shape[1:] == turn(stored).shape == (metadata.height, metadata.width, 3)
    np.testing.assert_array_equal(frames[2], turn(stored))
    probed = probe_video(path)
    assert (probed.width, probed.height) == (metadata.width, metadata.height)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(33, 47), (35, 18), (2, 2)])
def test_odd_sizes(tmp_path: Path, backend: str, size: tuple[int, int]) -> None:
    width, height = size
    pictures = [np.full((height, width, 3), value, dtype=np.uint8) for value in (30, 200)]
    path = write_video(tmp_path / "odd.mkv", pictures, codec="ffv1", pix_fmt="bgr0", options={})
    frames, metadata = load_video(path, backend=backend)
    assert (metadata.width, metadata.height) == size
    np.testing.assert_array_equal(frames, np.stack(pictures))


def test_gif_matches_pil(tmp_path: Path) -> None:
    pictures = [Image.fromarray(number_picture(i)) for i in range(12)]
    path = tmp_path / "moving.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100] * 6 + [300] * 6, loop=0)
    with Image.open(path) as gif:
        expected = []
        for i in range(gif.n_frames):
            gif.seek(i)
            expected.append(np.asarray(gif.convert("RGB")))
    for backend in BACKENDS:
        frames, metadata = load_video(path, backend=backend)
        np.testing.assert_array_equal(frames, np.stack(expected))
        assert metadata.duration == pytest.approx(2.4, abs=0.21)
        late, _ = load_video(path, sample_indices_fn=pick(11, 7), backend=backend)
        np.testing.assert_array_equal(late, np.stack(expected)[[11, 7]])


# --- sources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_form_of_a_file(clip: Path, backend: str) -> None:
    import base64

    data = clip.read_bytes()
    expected = load_video(clip, num_frames=4)[0]
    buffer = io.BytesIO(data)
    buffer.seek(0, os.SEEK_END)
    reading, writing = os.pipe()
    sources = [
        str(clip),
        clip.as_uri(),
        data,
        bytearray(data),
        memoryview(data),
        buffer,
        "data:video/mp4;base64," + base64.b64encode(data).decode(),
    ]
    for source in sources:
        np.testing.assert_array_equal(load_video(source, num_frames=4, backend=backend)[0], expected)
    assert not buffer.closed
    small = write_video(clip.parent / "piped.mkv", 3).read_bytes()
    os.write(writing, small)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert read_numbers(load_video(pipe, backend=backend)[0]) == [0, 1, 2]


def test_paths_that_look_like_protocols(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "a b#c?d.mp4", "-x.mp4", "ümläut 日本.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        for backend in BACKENDS:
            assert read_numbers(load_video(name, num_frames=1, backend=backend)[0]) == [45]


def test_lists_arrays_and_tensors() -> None:
    array = np.stack([number_picture(i) for i in range(10)])
    tensor = torch.from_numpy(array)
    sources = [
        array,
        array.transpose(0, 3, 1, 2),
        tensor,
        tensor.permute(0, 3, 1, 2),
        list(array),
        tuple(tensor),
        [frame.permute(2, 0, 1) for frame in tensor],
        [Image.fromarray(frame) for frame in array],
        [Image.fromarray(frame).convert("RGBA") for frame in array],
    ]
    for source in sources:
        frames, metadata = load_video(source, sample_indices_fn=pick(7, 2, 2))
        assert read_numbers(frames) == [7, 2, 2] == metadata.frames_indices
        assert (metadata.total_num_frames, metadata.width, metadata.height) == (10, 64, 48)
        assert metadata.fps is None
        assert frames.flags.c_contiguous
        assert frames.dtype == np.uint8
    assert load_video([array[0]], num_frames=4)[0].shape == (4, 48, 64, 3)
    grey = load_video([array[1][:, :, 0], array[2][:, :, :1]])[0]
    assert read_numbers(grey) == [1, 2]


def test_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    for number in range(12):
        suffix = ("png", "jpg", "webp")[number % 3]
        Image.fromarray(number_picture(number)).save(tmp_path / f"frame_{number}.{suffix}", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    for source in (tmp_path, str(tmp_path)):
        frames, metadata = load_video(source)
        assert read_numbers(frames) == list(range(12))
        assert metadata.total_num_frames == probe_video(source).total_num_frames == 12
    paths = [tmp_path / "frame_3.png", str(tmp_path / "frame_1.jpg")]
    assert read_numbers(load_video(paths)[0]) == [3, 1]


def test_files_are_closed(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:-500])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for path in (clip, broken):
            for backend in BACKENDS:
                try:
                    load_video(path, num_frames=2, backend=backend)
                    load_video(path, sample_indices_fn=pick(1000), backend=backend)
                except ValueError:
                    pass
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


# --- backends ------------------------------------------------------------------------------------------------------


def test_probe_needs_no_frames(clip: Path) -> None:
    metadata = probe_video(clip)
    assert (metadata.total_num_frames, metadata.fps, metadata.frames_indices) == (90, 25.0, None)
    assert metadata.video_backend == available_backends()[0] == "pyav"


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_missing_backend_names_the_mend(clip: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    assert backend not in available_backends()
    with pytest.raises(MissingBackend, match="pip install") as caught:
        load_video(clip, backend=backend)
    assert isinstance(caught.value, ImportError)
    assert f'"hf-videollm[{backend}]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_numbers(load_video(clip, num_frames=1)[0]) == [45]


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_other_backends_work_without_pyav(clips: dict[str, Path], backend: str) -> None:
    """A checkpoint's code may run where PyAV is absent."""
    script = f"""
import sys
sys.modules["av"] = None
{ALONE}
assert "pyav" not in available_backends()
for name in ("long_gop.mp4", "no_count.mkv"):
    frames, metadata = load_video({str(clips["long_gop.mp4"].parent)!r} + "/" + name, num_frames=4)
    print(metadata.video_backend, metadata.frames_indices, frames.shape, metadata.fps, round(metadata.duration, 2))
"""
    answer = ready_python.run("-c", script)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        f"{backend} [25, 75, 125, 175] (4, 48, 64, 3) 25.0 8.0",
        f"{backend} [7, 22, 37, 52] (4, 48, 64, 3) 25.0 2.4",
    ]


def test_torchcodec_on_the_libraries_of_pyav(clips: dict[str, Path], tmp_path: Path) -> None:
    """torchcodec finds FFmpeg by soname; PyAV brings the libraries under other names."""
    environment = borrowed_ffmpeg.environment(tmp_path)
    turned = rotate_mp4(clips["many_keys.mp4"], clips["many_keys.mp4"].parent / "turned.mp4", ROTATIONS[90])
    paths = [*map(str, clips.values()), str(turned)]
    script = f"""
{ALONE}
assert "torchcodec" in available_backends(), available_backends()
used = set()
for path in {paths!r}:
    for source in (path, open(path, "rb")):
        for arguments in ({{"num_frames": 6}}, {{"sample_indices_fn": lambda metadata: [33, 4, 4, 39, 0]}}):
            one, about_one = load_video(source, backend="pyav", **arguments)
            two, about_two = load_video(source, backend="torchcodec", **arguments)
            assert about_one.frames_indices == about_two.frames_indices and about_one.fps == about_two.fps
            assert (one == two).all(), path
            used.add(about_two.video_backend)
assert used == {{"torchcodec", "pyav"}}, used
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)


def test_sound_does_not_disturb_the_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "both.mp4", 50, sound=sine(2.0, 440), rate=Fraction(30000, 1001))
    frames, metadata = load_video(path, num_frames=5)
    assert read_numbers(frames) == [5, 15, 25, 35, 45]
    assert metadata.fps == pytest.approx(30000 / 1001)
