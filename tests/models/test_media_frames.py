"""Frame i is one picture, whatever else is asked for and whichever backend reads it; and what is intact is read."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from backends import BACKENDS, read, record_decoded
from media_corpus import read_numbers, sine, write_sound
from media_oddities import FILES, HEADLESS, plain_decode, plain_frames, write

from hf_videollm.models import media_backends, media_list_cache
from hf_videollm.models.errors import CorruptMedia, Deadline, MediaLimits, MissingBackend
from hf_videollm.models.media_pyav import PyAVReader
from hf_videollm.models.media_source import open_media
from hf_videollm.models.media_video import available_backends, load_audio, load_video, probe_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oddities")


def requests(count: int) -> list[list[int]]:
    """Frame numbers to ask for: all, single ones, ranges, and any of them in any order."""
    random = np.random.default_rng(count)
    third = count // 3
    return [
        list(range(count)),
        [0],
        [3, 1],
        [count - 1],
        [third, third],
        list(range(third, 2 * third)),
        sorted(random.integers(0, count, 4).tolist()),
        random.permutation(count)[:5].tolist(),
    ]


def differences(path: Path, backend: str, right: np.ndarray) -> list[str]:
    """Where the answers to some requests differ from the right frames of the file: nowhere, is the property."""
    count = len(right)
    found = [] if probe_video(path, backend=backend).total_num_frames == count else ["probe"]
    for wanted in requests(count):
        frames, metadata = load_video(path, backend=backend, sample_indices_fn=lambda metadata, w=wanted: w)
        if metadata.total_num_frames != count or metadata.frames_indices != wanted:
            found.append(f"{wanted}: counts {metadata.total_num_frames}")
        if not np.array_equal(frames, right[wanted]):
            found.append(f"{wanted}: shows {read_numbers(frames)}, right is {read_numbers(right[wanted])}")
    sampled, metadata = load_video(path, backend=backend, num_frames=5)
    if not np.array_equal(sampled, right[metadata.frames_indices]):
        found.append("num_frames=5")
    return found


@pytest.mark.parametrize("name", FILES)
def test_frame_i_is_one_picture(folder: Path, name: str) -> None:
    path = FILES[name](folder)
    right = plain_frames(path, name in HEADLESS)
    for backend in BACKENDS:
        assert differences(path, backend, right) == []
    _, facts, frames = read(str(path), trusts_index=False)
    assert np.array_equal(frames, right)
    media_list_cache.forget()
    _, facts_of_index, frames = read(str(path))
    assert facts_of_index == facts
    assert np.array_equal(frames, right)


def steps_of_packets(path: Path) -> np.ndarray:
    """Seconds between the frames of a file by its own times; by its rate where it has none, or has them twice."""
    with av.open(str(path)) as container:
        tick = float(container.streams.video[0].time_base)
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [packet.pts for packet in packets]
        if container.format.name == "avi" or None in times or len(set(times)) < len(times):
            return np.full(len(times) - 1, 0.04)
    return np.diff(np.sort(times)) * tick


@pytest.mark.parametrize("name", HEADLESS)
def test_frames_before_the_first_picture_show_it_and_have_their_times(folder: Path, name: str) -> None:
    path = FILES[name](folder)
    frames, metadata = load_video(path)
    first = len(frames) - len(plain_decode(path))
    assert first >= 2
    assert (frames[:first] == frames[first]).all()
    assert np.any(frames[first] != frames[first + 1])  # control
    assert np.array_equal(metadata.frame_times, probe_video(path).frame_times)
    assert np.diff(metadata.frame_times) == pytest.approx(steps_of_packets(path), abs=0.0011)
    moment = metadata.frame_times[first - 1]
    shown, about = load_video(path, start=max(0.0, moment), end=moment + 0.01)
    assert about.frames_indices == [first - 1]
    assert np.array_equal(shown[0], frames[first])


def test_the_files_are_what_they_are_called(folder: Path) -> None:
    """Control: the corpus does hold files in which packets and pictures differ, and joined ones of two parts."""
    for name in HEADLESS:
        assert read_numbers(plain_decode(FILES[name](folder)))[0] != 5, name
    for name in ("joined", "joined, clock far ahead", "joined, clock set back", "h264 twice"):
        assert read_numbers(plain_decode(FILES[name](folder))) == [*range(20), *range(20)], name


@pytest.mark.skipif("decord" not in BACKENDS, reason="the decord extra is not installed")
def test_other_decoders_do_differ_on_such_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: were decord given every file, the property above would not hold."""
    monkeypatch.setattr(PyAVReader, "unsuited_for", lambda self, backend: None)
    wrong = [
        name
        for name in ("intra refresh mkv", "cut h264 mkv", "cut h264 mp4", "joined")
        if differences(path := FILES[name](folder), "decord", plain_frames(path, name in HEADLESS))
    ]
    assert wrong


@pytest.mark.parametrize("name", ["plain mp4", "plain mkv", "webm"])
def test_plain_files_still_go_to_the_backend_that_was_named(folder: Path, name: str) -> None:
    path = FILES[name](folder)
    for backend in BACKENDS:
        assert load_video(path, num_frames=2, backend=backend)[1].video_backend == backend


def test_seeks_are_used_where_decoding_may_begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is safe is not what is slow: from the keyframe before, in plain files and in those cut between keyframes."""
    decoded = record_decoded(monkeypatch)
    for name in ("plain mp4", "cut h264 mkv", "open groups mkv"):
        path = FILES[name](folder)
        total = probe_video(path).total_num_frames
        decoded.clear()
        load_video(path, sample_indices_fn=lambda metadata, last=total - 1: [last], backend="pyav")
        assert len(decoded) < total / 2, name


def test_no_thread_of_the_decoder_is_at_work_when_it_is_freed(tmp_path: Path) -> None:
    """Else a thread that logs an error and the interpreter may wait for each other forever."""
    path = write(tmp_path, "large.mp4", [np.full((320, 400, 3), 5 * i, np.uint8) for i in range(40)])
    limits = MediaLimits()
    with open_media(str(path), limits, (), Deadline(60)) as handle:
        reader = PyAVReader(handle, limits, Deadline(60), False)
        next(reader.frames([0, 1]))
        stream = reader._stream
        assert stream.codec_context.thread_count == min(4, os.cpu_count() or 1)
        reader.close()
    with pytest.raises(EOFError):
        stream.decode(None)


# --- what is intact is read; what is not is named ------------------------------------------------------------------

SOUNDS = {
    "bare.aac": "aac",
    "bare.ac3": "ac3",
    "bare.mp2": "mp2",
    "bare.mp3": "libmp3lame",
    "a.flac": "flac",
    "a.wav": "pcm_s16le",
    "a.ts": "aac",
    "a.mpg": "mp2",
    "a.avi": "libmp3lame",
    "a.flv": "aac",
    "a.mka": "aac",
    "a.nut": "aac",
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_of_every_container_and_of_two_files_joined(tmp_path: Path, name: str) -> None:
    path = write_sound(tmp_path / name, sine(1.0, 440), 44100, SOUNDS[name])
    once = load_audio(path)
    assert len(once) == pytest.approx(16000, abs=1300)
    part = load_audio(path, start=0.5, end=0.75)
    assert len(part) == 4000
    assert np.sqrt(np.mean(part**2)) == pytest.approx(0.35, abs=0.05)
    if name.startswith("bare") or name == "a.ts":
        (tmp_path / f"double_{name}").write_bytes(path.read_bytes() * 2)
        assert len(load_audio(tmp_path / f"double_{name}")) == pytest.approx(2 * len(once), abs=2500)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_loss_in_a_transport_stream_is_damage_where_the_decoder_says_so(tmp_path: Path, codec: str) -> None:
    """The mark of a gap alone is none: see "counted anew". Here packets are gone."""
    random = np.random.default_rng(0)
    grainy = [random.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(12)]
    path = write(tmp_path, "whole.ts", grainy, codec=codec, options={"g": "12", "bf": "2"})
    data, verdicts = path.read_bytes(), set()
    for place in range(len(data) // 564, len(data) // 188 - 2, len(data) // 188 // 9):
        (tmp_path / "lost.ts").write_bytes(data[: place * 188] + data[place * 188 + 188 :])
        with av.open(str(tmp_path / "lost.ts")) as container:
            is_damaged = any(frame.is_corrupt for frame in container.decode(video=0))
        verdicts.add(is_damaged)
        if not is_damaged:
            assert len(load_video(tmp_path / "lost.ts")[0]) >= 11
            continue
        with pytest.raises(CorruptMedia, match=r"lost\.ts: the video"):
            load_video(tmp_path / "lost.ts")
        with pytest.warns(UserWarning, match="damaged"):
            frames, metadata = load_video(tmp_path / "lost.ts", on_decode_error="truncate")
        assert 1 <= len(frames) == metadata.total_num_frames < 12
    assert True in verdicts  # control: some losses do show


# --- private signals, and packages of another's name ---------------------------------------------------------------


class Stumbling:
    """A decoder that agrees about the file and then fails."""

    backend = "torchcodec"

    def __init__(self, handle, limits, deadline, clip) -> None:
        self.count, self.clip = len(clip), clip

    def frames(self, indices):
        raise CorruptMedia("stumbled.")
        yield

    def close(self) -> None:
        pass


@pytest.mark.parametrize("changes", [0, 1, 2, 100])
def test_a_recount_never_reaches_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
    """PyAV stands in for a decoder that stumbled, and then finds other frames than it had counted, or never agrees."""
    monkeypatch.setitem(media_backends._PROBES, "torchcodec", lambda: None)
    monkeypatch.setitem(media_backends._OTHER_READERS, "torchcodec", Stumbling)
    original, left = PyAVReader.frames, [changes]

    def recounting(self, indices):
        if left[0]:
            left[0] -= 1
            from hf_videollm.models.media_clip import FrameCountChanged

            raise FrameCountChanged
        return original(self, indices)

    monkeypatch.setattr(PyAVReader, "frames", recounting)
    path = FILES["plain mp4"](folder)
    for backend in ("torchcodec", "pyav"):
        left[0] = changes
        if changes < 2:
            assert read_numbers(load_video(path, backend=backend)[0]) == list(range(40))
        else:
            with pytest.raises(CorruptMedia, match=r"plain\.mp4: .*each time it is decoded"):
                load_video(path, backend=backend)


def test_a_package_of_another_name_is_not_taken_for_decord(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decord2 installs a module `decord`, which returned wrong frames without an error."""
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord" / "__init__.py").write_text("raise AssertionError('this must not be imported')\n")
    about = tmp_path / "decord2-3.4.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: decord2\nVersion: 3.4.0\n")
    (about / "RECORD").write_text("decord/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    assert "decord" not in available_backends()
    with pytest.raises(MissingBackend, match=r"not that of the package decord .*pip install") as caught:
        load_video(FILES["plain mp4"](folder), backend="decord")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("decord" not in BACKENDS, reason="the decord extra is not installed")
def test_files_of_decord_that_another_package_wrote_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages may be installed; the one that came last wrote the files."""
    package = importlib.metadata.distribution("decord")
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord" / "__init__.py").write_text("")

    class Overwritten:
        files = package.files

        def locate_file(self, path):
            return tmp_path / path

    assert "decord" in available_backends()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Overwritten())
    assert "decord" not in available_backends()
