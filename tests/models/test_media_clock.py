"""Seconds are those of the file, in every way in: the frame chosen for a time is the one the file shows then, and the
sound that goes with it is the one that is heard then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_corpus import number_picture
from media_oddities import FILES, HEADLESS, UNEVEN, plain_frames
from transformers import pipeline
from transformers.video_utils import VideoMetadata

from hf_videollm import (
    FtfvVideoProcessor,
    IvaVideoProcessor,
    LinVTVideoProcessor,
    PllavaVideoProcessor,
    VideoLlama2VideoProcessor,
)
from hf_videollm.models.media_audio import load_audio
from hf_videollm.models.media_audio_inputs import sound_of_video
from hf_videollm.models.media_video import available_backends, load_video, probe_video

PROCESSORS = (
    PllavaVideoProcessor,
    VideoLlama2VideoProcessor,
    FtfvVideoProcessor,
    IvaVideoProcessor,
    LinVTVideoProcessor,
)
WRITES_LATE = (
    "PyAV before 17.1 writes compressed sound a frame late"
    if tuple(map(int, av.__version__.split(".")[:2])) < (17, 1)
    else ""
)
STEP = 0.04
DELAY = 1024 / 44100  # of AAC: there the sound begins before the pictures


def even(begin: float = 0.0, count: int = 40) -> np.ndarray:
    return begin + STEP * np.arange(count)


# What the files of the corpus show when: seconds of each frame.
TIMES: dict[str, Sequence[float] | np.ndarray] = {
    "plain mp4": even(),
    "plain mkv": even(),
    "open groups mkv": even(),
    "intra refresh ts": even(),
    "fragments of one frame": even(),
    "edit list": even(count=23),
    "cut h264 mp4": even(count=35),
    "h264": even(),
    "hevc": even(),
    "mpeg2": even(),
    "h264 twice": even(),
    "mpeg program twice": even(),
    "joined": even(),
    "joined, clock far ahead": even(),
    "joined, clock set back": even(),
    "clock that wraps": even(count=20),
    "counted anew": even(count=20),
    "negative mkv": even(),
    "negative mp4": even(count=35),
    "negative ts": even(),
    "late mp4": even(2.0),
    "late mkv": even(2.0),
    "late ts": even(2.0 + DELAY),
    "uneven mp4": np.array(UNEVEN) / 1000,
    "uneven mkv": np.array(UNEVEN) / 1000,
    "flv": even(DELAY),
    "avi": even(),
    "avi h264": even(),
    "gif": even(),
    "webm": even(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clock")


def shown_at(times: np.ndarray, seconds: float) -> int:
    return max(0, int(np.searchsorted(times, seconds + 0.001, side="right")) - 1)


@pytest.mark.parametrize("name", TIMES)
def test_the_frame_for_a_time_is_the_one_shown_then(folder: Path, name: str) -> None:
    if WRITES_LATE and name.startswith("late"):
        pytest.skip(WRITES_LATE)
    path, right = FILES[name](folder), np.sort(TIMES[name])
    metadata = probe_video(path)
    assert metadata.frame_times == pytest.approx(right, abs=0.0011)
    pictures = plain_frames(path, name in HEADLESS)
    processors = [kind() for kind in PROCESSORS]
    for number in range(0, len(right), 5):
        # In the middle of what a frame is shown for, which every rounding agrees about; the frame then is the answer.
        begin, end = right[number], right[number + 1] if number + 1 < len(right) else right[number] + STEP
        if end - begin < STEP / 2:
            continue
        wanted = shown_at(right, begin)
        frames, _ = load_video(path, start=max(0.0, begin), end=begin + 0.01)
        np.testing.assert_array_equal(frames, pictures[wanted : wanted + 1])
        for processor in processors:
            chosen = processor.sample_frames(metadata, num_frames=1, start=max(0.0, begin + 0.001), end=begin + 0.01)
            # VideoLLaMA2's original begins, and ends, a frame early.
            early = int(isinstance(processor, VideoLlama2VideoProcessor) and is_even(right))
            assert chosen.tolist() == [max(0, wanted - early)], type(processor)


def is_even(times: np.ndarray) -> bool:
    return bool(np.allclose(np.diff(times), STEP, atol=0.002))


def test_without_the_times_of_frames_the_answers_are_others(folder: Path) -> None:
    """Control: by the rate alone, which is all that other decoders tell, late pictures are two seconds off."""
    metadata = probe_video(FILES["late mp4"](folder))
    by_rate = VideoMetadata(total_num_frames=40, fps=25.0, duration=1.6)
    for kind in PROCESSORS:
        right, wrong = (kind().sample_frames(of, num_frames=1, end=2.4).item() for of in (metadata, by_rate))
        assert abs(right - wrong) > 5, kind


@pytest.mark.parametrize("name", ["late mp4", "late mkv", "late ts", "uneven mp4", "negative mkv"])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_fps_takes_frames_by_the_clock(folder: Path, name: str, kind: type) -> None:
    if WRITES_LATE and name.startswith("late"):
        pytest.skip(WRITES_LATE)
    path, times = FILES[name](folder), np.sort(TIMES[name])
    begin, end = times[0] + 0.4, times[0] + 1.4
    frames, metadata = kind().decode(path, None, start=begin, end=end, fps=5.0)
    chosen = times[metadata.frames_indices]
    assert chosen.min() >= times[shown_at(times, begin)] - STEP - 0.001
    assert chosen.max() <= end + STEP + 0.001
    assert len(frames) == pytest.approx(5, abs=1)
    assert metadata.timestamps == pytest.approx(chosen, abs=0.0011)


@pytest.mark.parametrize("backend", available_backends())
def test_all_backends_tell_the_same_time(folder: Path, backend: str) -> None:
    for name in ("plain mp4", "cut h264 mp4", "uneven mkv", "joined", "negative mkv"):
        about = probe_video(FILES[name](folder), backend=backend)
        assert about.frame_times == pytest.approx(np.sort(TIMES[name]), abs=0.0011)


# --- the sound -----------------------------------------------------------------------------------------------------

RATE = 48_000


def write_both(
    path: Path, pictures_at: float, sounds_at: float, *, pause: float = 0.0, options: dict[str, str] | None = None
) -> Path:
    """Four seconds of pictures and five of sound, which begin when they are told to.

    At second 3 there is a flash of a fifth of a second, and a beep. The sound may stop at second 4 for a while; half a
    second after that there is another beep.
    """
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "2", "crf": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        codec = {".mkv": "flac", ".mov": "pcm_s16le", ".ts": "mp2", ".mpg": "mp2", ".avi": "pcm_s16le"}
        track = container.add_stream(codec.get(path.suffix, "aac"), rate=RATE, layout="mono")
        packets = []
        for number in range(100):
            seconds = pictures_at + number / 25
            picture = number_picture(255 if 3.0 - 1e-6 <= seconds < 3.2 - 1e-6 else 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        packets += _sound_packets(track, sounds_at, pause)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _sound_packets(track, begin: float, pause: float) -> list:
    seconds = begin + np.arange(5 * RATE) / RATE
    seconds[seconds >= 4.0] += pause
    heard = ((seconds >= 3.0) & (seconds < 3.2)) | ((seconds >= 4.5 + pause) & (seconds < 4.7 + pause))
    wave = np.where(heard, 0.5 * np.sin(2 * np.pi * 1000 * seconds), 0).astype(np.float32)
    packets = []
    layout, packed = "mono", track.codec_context.format.name.startswith("s16")
    for start in range(0, len(wave), 480):
        block = wave[None, start : start + 480]
        block = (block * 32767).astype(np.int16) if packed else block
        frame = av.AudioFrame.from_ndarray(block, format=track.codec_context.format.name, layout=layout)
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = round(seconds[start] * RATE)
        packets += track.encode(frame)
    return packets + track.encode()


def beeps(wave: np.ndarray) -> list[float]:
    """Where beeps begin, in seconds, of sound at 16 kHz."""
    loud = np.flatnonzero(np.abs(wave) > 0.2)
    return [loud[i] / 16000 for i in range(len(loud)) if i == 0 or loud[i] - loud[i - 1] > 1600]


def flash(path: Path, **kwargs) -> float:
    frames, metadata = load_video(path, **kwargs)
    return metadata.timestamps[int(np.argmax(frames.mean(axis=(1, 2, 3)) > 128))]


BOTH: dict[str, Callable[[Path], Path]] = {
    "together.mp4": lambda path: write_both(path, 0.0, 0.0),
    "late_pictures.mp4": lambda path: write_both(path, 2.0, 0.0),
    "late_pictures.mkv": lambda path: write_both(path, 2.0, 0.0),
    "late_pictures.ts": lambda path: write_both(path, 2.0, 0.0),
    "late_pictures.mov": lambda path: write_both(path, 2.0, 0.0),
    "late_pictures.flv": lambda path: write_both(path, 2.0, 0.0),
    "late_sound.mp4": lambda path: write_both(path, 0.0, 1.0),
    "late_sound.mkv": lambda path: write_both(path, 0.0, 1.0),
    "late_sound.ts": lambda path: write_both(path, 0.0, 1.0),
    "late_both.mkv": lambda path: write_both(path, 2.5, 1.0),
    "late_both.ts": lambda path: write_both(path, 2.5, 1.0),
    "early_pictures.mkv": lambda path: write_both(path, -0.4, 0.0, options={"avoid_negative_ts": "disabled"}),
    "pause.mkv": lambda path: write_both(path, 0.0, 0.0, pause=2.0),
    "pause.ts": lambda path: write_both(path, 0.0, 0.0, pause=2.0),
    "pause.mp4": lambda path: write_both(path, 0.0, 0.0, pause=2.0),
}


@pytest.mark.parametrize("name", BOTH)
def test_flash_and_beep_come_at_the_same_second(tmp_path: Path, name: str) -> None:
    if WRITES_LATE and not name.endswith((".mkv", ".mov")):
        pytest.skip(WRITES_LATE)
    path = BOTH[name](tmp_path / name)
    seen, whole = flash(path), load_audio(path)
    heard = beeps(whole)
    assert heard[0] == pytest.approx(seen, abs=0.03)
    begins = {"late_both": 2.0, "early_pictures": 3.4}.get(name.split(".")[0], 3.0)
    assert seen == pytest.approx(begins, abs=0.06)
    assert heard[1] - heard[0] == pytest.approx(3.5 if "pause" in name else 1.5, abs=0.03)
    for start in (0.3, 1.7, seen - 0.1):
        assert flash(path, start=start) == pytest.approx(seen, abs=1e-6)
        part = load_audio(path, start=start, end=seen + 0.15)
        assert beeps(part)[0] + start == pytest.approx(heard[0], abs=0.005)
        track = sound_of_video(path, 16000, "error", start=start, end=seen + 0.15)
        np.testing.assert_array_equal(track, part)
        for kind in (PllavaVideoProcessor, VideoLlama2VideoProcessor):
            _, metadata = kind().decode(path, None, start=seen + 0.02, end=seen + 0.18, num_frames=3)
            assert all(abs(time - seen) < 0.25 for time in metadata.timestamps)
    with pytest.raises(ValueError, match="after the end of the video"):
        load_video(path, start=100.0)


def test_silence_in_place_of_sound_is_as_long_as_the_clip(folder: Path) -> None:
    path = FILES["plain mp4"](folder)
    assert len(sound_of_video(path, 16000, "silence")) == 16000 * 1.6
    assert len(sound_of_video(path, 16000, "silence", start=1.0)) == pytest.approx(16000 * 0.6)
    assert len(sound_of_video(path, 16000, "silence", start=0.5, end=0.75)) == 4000


def test_command_line_and_pipeline_hand_on_the_same_seconds(
    folder: Path, cli: Any, tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, chosen = str(FILES["late mp4"](folder)), []
    decode = PllavaVideoProcessor.decode

    def watched(self, *args, **kwargs):
        frames, metadata = decode(self, *args, **kwargs)
        chosen.append(metadata.frames_indices)
        return frames, metadata

    monkeypatch.setattr(PllavaVideoProcessor, "decode", watched)
    code, _, _ = cli(
        *("ask", path, "What moves?", "--model", tiny_checkpoint, "--max-new-tokens", "1"),
        *("--start", "2.4", "--end", "2.6"),
    )
    assert code == 0
    pipe = pipeline("video-text-to-text", model=tiny_checkpoint)
    pipe(path, text="What moves?", start=2.4, end=2.6, max_new_tokens=1)
    assert len(chosen) == 2
    for indices in chosen:
        assert set(indices) <= set(range(10, 16))
