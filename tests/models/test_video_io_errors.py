"""Bad input: each kind gives one typed error, one line that names the file and the mend; budgets hold."""

from __future__ import annotations

import io
import os
import re
import time
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from backends import BACKENDS
from media_corpus import (
    claim_size,
    lie_about_duration,
    number_picture,
    read_numbers,
    sine,
    write_sound,
    write_video,
)
from PIL import Image

from hf_videollm.models import media_video
from hf_videollm.models.errors import MediaWarning
from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor
from hf_videollm.models.media_audio_inputs import as_waveform, sound_of_video
from hf_videollm.models.media_video import (
    CorruptMedia,
    MediaError,
    MediaLimits,
    MediaNotFound,
    MediaTooLarge,
    NoVideoStream,
    UnsafeURL,
    UnsupportedMedia,
    load_audio,
    load_video,
    probe_video,
)
from hf_videollm.models.video_processing_pllava import PllavaVideoProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of bad files."""
    folder = tmp_path_factory.mktemp("bad")
    whole = write_video(folder / "whole.mp4", 60, options={"bf": "3", "g": "20", "crf": "10"})
    early = write_video(folder / "early.mp4", 60, container_options={"movflags": "faststart"})
    matroska = write_video(folder / "whole.mkv", 60)
    write_sound(folder / "sound.m4a", sine(1.0, 440))
    write_sound(folder / "sound.wav", sine(1.0, 440), codec="pcm_s16le")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    Image.fromarray(number_picture(3)).save(folder / "picture.png")
    (folder / "png_as.mp4").write_bytes((folder / "picture.png").read_bytes())
    Image.fromarray(number_picture(3)).save(folder / "jpeg_as.mkv", format="jpeg")
    (folder / "cut_no_index.mp4").write_bytes(whole.read_bytes()[:-1000])
    (folder / "cut.mp4").write_bytes(early.read_bytes()[:-1000])
    (folder / "cut.mkv").write_bytes(matroska.read_bytes()[: matroska.stat().st_size * 2 // 3])
    (folder / "noise.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(range(256)) * 20)
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{whole}\n#EXT-X-ENDLIST\n")
    (folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{whole}'\n")
    return folder


BAD = {
    "empty.mp4": (CorruptMedia, "empty"),
    "text.mp4": (UnsupportedMedia, "not a video"),
    "png_as.mp4": (UnsupportedMedia, "PNG picture"),
    "jpeg_as.mkv": (UnsupportedMedia, "JPEG picture"),
    "cut_no_index.mp4": (CorruptMedia, "too early"),
    "cut.mp4": (CorruptMedia, "too early"),
    "cut.mkv": (CorruptMedia, "too early"),
    "noise.mp4": (CorruptMedia, "damaged"),
    "sound.m4a": (NoVideoStream, "no video"),
    "sound.wav": (NoVideoStream, "no video"),
    "list.m3u8": (UnsupportedMedia, "not a video"),
    "list.ffconcat": (UnsupportedMedia, "not a video"),
    "absent.mp4": (MediaNotFound, "no such file"),
    "whole.mp4/x": (MediaNotFound, "no such file"),
}


def assert_helpful(error: BaseException, name: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert name in text
    assert not re.search(r"0x[0-9a-f]{4}|Errno|Invalid data", text)
    assert text.endswith(".")
    assert error.__cause__ is None  # no decoder dump below it


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_files(folder: Path, name: str, backend: str) -> None:
    kind, words = BAD[name]
    with pytest.raises(kind, match=words) as caught:
        load_video(folder / name, num_frames=4, backend=backend)
    assert type(caught.value) is kind
    assert_helpful(caught.value, str(folder / name))
    with pytest.raises(kind):
        probe_video(folder / name, backend=backend)


@pytest.mark.parametrize("name", [n for n, (kind, _) in BAD.items() if kind is not MediaNotFound])
def test_bad_bytes_and_file_objects(folder: Path, name: str) -> None:
    kind, _ = BAD[name]
    data = (folder / name).read_bytes()
    with pytest.raises(kind) as caught:
        load_video(data)
    assert_helpful(caught.value, "<bytes>")
    with pytest.raises(kind) as caught:
        load_video(io.BytesIO(data))
    assert_helpful(caught.value, "<file object>")


def test_missing_files_are_also_file_not_found_errors(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.mp4: no such file"):
        load_video(folder / "absent.mp4")
    with pytest.raises(MediaNotFound, match=r"absent\.wav"):
        load_audio(folder / "absent.wav")


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (None, UnsupportedMedia, "NoneType is no video source"),
        ("", MediaNotFound, "the path is an empty string"),
        (7, UnsupportedMedia, "int is no video source"),
        ([], UnsupportedMedia, "no frames"),
        ([None], UnsupportedMedia, "NoneType"),
        (np.zeros((4, 8, 8, 3), np.float32), UnsupportedMedia, "float32"),
        (np.zeros((8, 8, 3), np.uint8), UnsupportedMedia, r"shape \(8, 8, 3\)"),
        (torch.zeros(2, 5, 8, 8, dtype=torch.uint8), UnsupportedMedia, "shape"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], UnsupportedMedia, "frame 1 is 9x8"),
        (["absent.png"], MediaNotFound, "absent.png"),
        (io.StringIO("text"), UnsupportedMedia, "binary mode"),
        ("data:video/mp4,abc", UnsupportedMedia, "base64"),
        ("data:video/mp4;base64,abc!", CorruptMedia, "base64"),
        ("rtsp://camera/stream", UnsafeURL, "rtsp"),
        ("file://elsewhere/clip.mp4", UnsafeURL, "this machine"),
        ("a\0b.mp4", MediaError, "valid path"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_objects(source: object, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        load_video(source)
    assert "\n" not in str(caught.value)


def test_bad_folders_and_special_files(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="holds no pictures"):
        load_video(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(CorruptMedia, match=r"1\.png"):
        load_video(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(UnsupportedMedia, match="regular file"):  # opening it would wait for ever
            load_video(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="no times"):
        load_video([number_picture(1)], start=1.0)


def test_names_in_messages_hide_credentials_and_stay_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsafeURL) as caught:
        load_video("https://user:secret@example.org/clip.mp4?token=secret#secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(MediaNotFound) as caught:
        load_video(str(tmp_path / "two\nlines.mp4"))
    assert "\n" not in str(caught.value)


def test_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    cover = io.BytesIO()
    Image.fromarray(number_picture(9)).save(cover, format="jpeg")
    write_sound(tmp_path / "plain.mp3", sine(0.5, 440), codec="libmp3lame")
    picture = b"\x00image/jpeg\x00\x03\x00" + cover.getvalue()
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\x00\x00" + picture
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\x00\x00" + size + frame + (tmp_path / "plain.mp3").read_bytes())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(NoVideoStream):
        load_video(path)
    assert len(load_audio(path)) > 7000


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_truncate_returns_what_can_be_read(folder: Path, name: str, backend: str) -> None:
    with pytest.warns(UserWarning, match=f"{name}: the video is damaged") as caught:
        frames, metadata = load_video(folder / name, backend=backend, on_decode_error="truncate")
    count = metadata.total_num_frames
    assert 10 < count < 60
    assert read_numbers(frames) == metadata.frames_indices == list(range(count))
    assert f"{count} frames can be read" in str(caught[0].message)
    with pytest.warns(UserWarning, match="damaged"):
        frames, metadata = load_video(folder / name, num_frames=8, backend=backend, on_decode_error="truncate")
    assert len(frames) == 8
    assert read_numbers(frames) == metadata.frames_indices


def test_warnings_name_the_line_of_the_caller(folder: Path, tmp_path: Path) -> None:
    """However many of our functions, or of transformers', lie between."""
    sound = tmp_path / "cut.wav"
    sound.write_bytes((folder / "sound.wav").read_bytes()[:-1000])
    tolerant = {"on_decode_error": "truncate"}
    processor = PllavaVideoProcessor(num_frames=4, size={"height": 8, "width": 8}, crop_size={"height": 8, "width": 8})
    calls = [
        lambda: load_video(folder / "cut.mp4", **tolerant),
        lambda: load_video(folder / "cut.mkv", num_frames=3, **tolerant),
        lambda: load_audio(sound, **tolerant),
        lambda: sound_of_video(sound, 16000, "error", **tolerant),
        lambda: as_waveform(sound, 16000, BeatsFeatureExtractor(), **tolerant),
        lambda: processor(str(folder / "cut.mp4"), **tolerant),
    ]

    for call in calls:
        with pytest.warns(MediaWarning, match="damaged") as caught:
            call()
        line = call.__code__.co_firstlineno
        assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_damage_in_the_middle(folder: Path, tmp_path: Path, backend: str) -> None:
    """Packets 30 to 39 are zeros: the index is whole, so only decoding finds out."""
    path = folder / "whole.mp4"
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[30:40]:
        data[position : position + size] = bytes(size)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with pytest.raises(CorruptMedia, match=r"broken\.mp4"):
        load_video(broken, backend=backend)
    with pytest.warns(UserWarning, match="damaged"):
        frames, metadata = load_video(broken, backend=backend, on_decode_error="truncate")
    assert 20 <= len(frames) <= 31
    assert read_numbers(frames) == metadata.frames_indices == list(range(len(frames)))
    assert metadata.total_num_frames == len(frames)
    # Frames before the damage can be had without any fuss.
    assert read_numbers(load_video(broken, end=0.4, backend=backend)[0]) == list(range(10))


def test_every_cut_and_every_flip_ends_in_a_result_or_a_typed_error(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("whole.mp4", "whole.mkv"):
        data = (folder / name).read_bytes()
        for _ in range(12):
            cut = data[: random.integers(1, len(data))]
            flipped = bytearray(data)
            for place in random.integers(0, len(data), 20):
                flipped[place] = random.integers(256)
            for broken in (cut, bytes(flipped)):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        frames, _ = load_video(broken, num_frames=4, on_decode_error="truncate")
                    assert 1 <= len(frames) <= 4
                except MediaError as error:
                    assert_helpful(error, "<bytes>")


def test_hidden_frames_are_not_counted(tmp_path: Path) -> None:
    """VP8 has packets that carry no picture to show; the clip is counted again and sampled again."""
    source = write_video(tmp_path / "shown.webm", 20, codec="libvpx", options={"deadline": "realtime", "crf": "10"})
    path = tmp_path / "hidden.webm"
    with av.open(str(source)) as given, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.size == 0:
                continue
            data = bytearray(bytes(packet))
            if number in (5, 11):
                data[0] &= ~0x10  # the bit that says "show this frame"
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            target.mux(copy)
    shown = [i for i in range(20) if i not in (5, 11)]
    for backend in BACKENDS:
        frames, metadata = load_video(path, backend=backend)
        assert read_numbers(frames) == shown
        assert metadata.total_num_frames == 18


# --- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_bytes": 1000}, "max_bytes"),
        ({"max_duration": 1.0}, "max_duration"),
        ({"max_frames": 59}, "max_frames"),
        ({"max_pixels": 64 * 48 - 1}, "max_pixels"),
        ({"max_decoded_bytes": 60 * 64 * 48 * 3 - 1}, "max_decoded_bytes"),
        ({"timeout": 0.0}, "timeout"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_limits(folder: Path, limits: dict, words: str, backend: str) -> None:
    with pytest.raises(MediaTooLarge, match=words) as caught:
        load_video(folder / "whole.mp4", limits=MediaLimits(**limits), backend=backend)
    assert_helpful(caught.value, "whole.mp4")


def test_limits_that_are_just_met(folder: Path) -> None:
    limits = MediaLimits(
        max_bytes=(folder / "whole.mp4").stat().st_size,
        max_duration=2.41,
        max_frames=60,
        max_pixels=64 * 48,
        max_decoded_bytes=60 * 64 * 48 * 3,
    )
    assert len(load_video(folder / "whole.mp4", limits=limits)[0]) == 60
    few = MediaLimits(max_frames=4)
    assert len(load_video(folder / "whole.mp4", num_frames=4, limits=few)[0]) == 4


def test_limits_of_pictures(tmp_path: Path) -> None:
    pictures = [number_picture(i) for i in range(5)]
    with pytest.raises(MediaTooLarge, match="max_frames"):
        load_video(pictures, limits=MediaLimits(max_frames=4))
    with pytest.raises(MediaTooLarge, match="max_pixels"):
        load_video(pictures, limits=MediaLimits(max_pixels=100))
    Image.new("RGB", (4000, 4000)).save(tmp_path / "big.png")
    started = time.monotonic()
    with pytest.raises(MediaTooLarge, match=r"big\.png"):
        load_video(tmp_path, limits=MediaLimits(max_pixels=4000))
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_lying_duration(folder: Path, tmp_path: Path, backend: str) -> None:
    """The header claims a hundred times the length, or next to nothing; the timestamps decide."""
    path = lie_about_duration(folder / "whole.mp4", tmp_path / "long.mp4", 100)
    frames, metadata = load_video(path, num_frames=3, backend=backend, limits=MediaLimits(max_duration=10))
    assert read_numbers(frames) == [10, 30, 50]
    assert metadata.duration == pytest.approx(2.4, abs=0.05)
    path = lie_about_duration(folder / "whole.mp4", tmp_path / "short.mp4", 0)
    with pytest.raises(MediaTooLarge, match="max_duration"):
        load_video(path, limits=MediaLimits(max_duration=1.0), backend=backend)


def test_huge_size_in_the_header(folder: Path, tmp_path: Path) -> None:
    path = claim_size(folder / "whole.mp4", tmp_path / "huge.mp4", 60000, 60000)
    try:
        frames, metadata = load_video(path, num_frames=2)
    except MediaError as error:
        assert_helpful(error, "huge.mp4")
    else:  # the codec's own header is what counts
        assert (metadata.width, metadata.height) == (64, 48)
        assert read_numbers(frames) == [15, 45]


def test_size_that_grows_while_decoding(tmp_path: Path) -> None:
    """A stream may change its size; the pixel budget is checked on each frame, and the result keeps the first size."""
    small = write_video(tmp_path / "small.ts", 10, options={"bf": "0", "g": "10"})
    large = write_video(tmp_path / "large.ts", [number_picture(i, 256, 192) for i in range(10)], options={"bf": "0"})
    path = tmp_path / "grows.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(MediaError):
        load_video(path, limits=MediaLimits(max_pixels=64 * 48))


def test_audio_limits_hold_while_decoding(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "long.mka", np.zeros((1, 48000 * 60), np.float32), 48000, "libopus")
    assert path.stat().st_size < 100_000
    with pytest.raises(MediaTooLarge, match="max_audio_seconds"):
        load_audio(path, limits=MediaLimits(max_audio_seconds=5))
    assert len(load_audio(path, start=10, end=14, limits=MediaLimits(max_audio_seconds=5))) == 4 * 16000
    with pytest.raises(MediaTooLarge, match="max_bytes"):
        load_audio(path, limits=MediaLimits(max_bytes=100))
    with pytest.raises(MediaTooLarge, match="timeout"):
        load_audio(path, limits=MediaLimits(timeout=0.0))


def test_the_public_names() -> None:
    for name in media_video.__all__:
        assert hasattr(media_video, name)
    for kind in (CorruptMedia, MediaNotFound, MediaTooLarge, NoVideoStream, UnsafeURL, UnsupportedMedia):
        assert issubclass(kind, MediaError)
        assert issubclass(kind, ValueError)


@pytest.mark.parametrize("place", ["everywhere", "forward"])
def test_a_file_that_cannot_be_sought_in(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Damaged indices make FFmpeg's seek fail with errors of the operating system; the frames can be had still."""

    class Unseekable:
        def __init__(self, container: object) -> None:
            self._container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self._container, name)

        def seek(self, offset: int, **options: object) -> None:
            if place == "everywhere" or offset > 0:
                raise PermissionError(1, "Operation not permitted")
            self._container.seek(offset, **options)

    monkeypatch.setattr(
        "hf_videollm.models.media_pyav.open_container", lambda handle: Unseekable(av.open(handle.for_pyav()))
    )
    for wanted in ([10, 30, 50], [59], [0]):
        frames, _ = load_video(folder / "whole.mp4", sample_indices_fn=lambda metadata, w=wanted: w, backend="pyav")
        assert read_numbers(frames) == wanted


def test_more_frames_than_the_limit_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    """The list of 200 million numbers alone would take gigabytes."""
    with pytest.raises(MediaTooLarge, match="200,000,000 frames"):
        load_video(tmp_path / "never_opened.mp4", num_frames=200_000_000)
