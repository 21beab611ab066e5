"""Sound: rate, channels, level, and the clock it shares with the pictures."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from media_corpus import loudest_frequency, number_picture, sine, write_sound, write_video

from hf_videollm.models.media_audio_mix import MonoMixer
from hf_videollm.models.media_video import (
    CorruptMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    NoAudioStream,
    UnsupportedMedia,
    load_audio,
    load_video,
)

FORMATS = {
    "a.wav": ("pcm_s16le", 22050),
    "a.flac": ("flac", 44100),
    "a.m4a": ("aac", 44100),
    "a.mp3": ("libmp3lame", 44100),
    "a.ogg": ("libopus", 48000),
    "low.wav": ("pcm_s16le", 8000),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(tmp_path: Path, name: str, channels: int) -> None:
    codec, rate = FORMATS[name]
    if channels == 6 and codec in ("libmp3lame", "pcm_s16le"):
        channels = 2
    path = write_sound(tmp_path / name, sine(1.5, 440, rate, channels), rate, codec)
    wave = load_audio(path)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert len(wave) == pytest.approx(24000, abs=1100)
    assert loudest_frequency(wave) == pytest.approx(440, abs=1)
    assert 0.4 < np.abs(wave[2000:20000]).max() < 0.6  # the mean of the channels keeps the level


def test_level_never_leaves_the_range(tmp_path: Path) -> None:
    loud = np.sign(sine(1.0, 300, level=1.0, channels=2)).astype(np.float32)
    wave = load_audio(write_sound(tmp_path / "loud.m4a", loud))
    assert np.abs(wave).max() <= 1.0


def test_opposite_channels_cancel(tmp_path: Path) -> None:
    wave = sine(0.5, 440, channels=2)
    wave[1] *= -1
    assert np.abs(load_audio(write_sound(tmp_path / "a.flac", wave, codec="flac"))).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_sampling_rate(tmp_path: Path, rate: int) -> None:
    path = write_sound(tmp_path / "a.wav", sine(1.0, 440), codec="pcm_s16le")
    wave = load_audio(path, sampling_rate=rate)
    assert len(wave) == pytest.approx(rate, abs=2)
    assert loudest_frequency(wave, rate) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("name", FORMATS)
def test_start_and_end(tmp_path: Path, name: str) -> None:
    codec, rate = FORMATS[name]
    sound = np.concatenate([sine(1.0, 300, rate), sine(1.0, 600, rate), sine(1.0, 900, rate)], axis=1)
    path = write_sound(tmp_path / name, sound, rate, codec)
    full = load_audio(path)
    part = load_audio(path, start=1.25, end=1.75)
    assert len(part) == 8000
    assert loudest_frequency(part) == pytest.approx(600, abs=3)
    assert np.abs(full[20000:28000] - part).max() < 0.06  # half a sample of 600 Hz
    assert len(load_audio(path, start=2.5)) == pytest.approx(8000, abs=1100)
    with pytest.raises(MediaError, match="no sound after"):
        load_audio(path, start=50.0)


@pytest.mark.skipif(
    tuple(map(int, av.__version__.split(".")[:2])) < (17, 1),
    reason="PyAV before 17.1 writes sound a frame late into MP4",
)
def test_sound_and_pictures_share_a_clock(tmp_path: Path) -> None:
    """A beep at the moment of a flash is found at the same time in both."""
    pictures = [number_picture(255 if 25 <= i < 35 else 0) for i in range(50)]
    sound = np.zeros((1, 88200), np.float32)
    sound[:, 44100 : 44100 + 17640] = sine(0.4, 1000)
    for name in ("a.mp4", "a.mkv", "a.ts"):
        path = write_video(tmp_path / name, pictures, sound=sound)
        frames, metadata = load_video(path)
        wave = load_audio(path)
        flash = int(np.argmax(frames.mean(axis=(1, 2, 3)) > 128)) / metadata.fps
        beep = int(np.argmax(np.abs(wave) > 0.2)) / 16000
        assert flash == pytest.approx(1.0, abs=0.001)
        # A transport stream starts its sound earlier than its pictures, by the delay of the B-frames.
        assert beep == pytest.approx(flash, abs=0.1 if name == "a.ts" else 0.01)
        clipped = load_audio(path, start=0.9, end=1.2)
        assert int(np.argmax(np.abs(clipped) > 0.2)) / 16000 == pytest.approx(beep - 0.9, abs=0.01)


def test_forms_of_the_source(tmp_path: Path) -> None:
    path = write_video(tmp_path / "both.webm", 25, codec="libvpx-vp9", sound=sine(1.0, 440, 48000), sound_rate=48000)
    expected = load_audio(path)
    data = path.read_bytes()
    for source in (str(path), path.as_uri(), data, io.BytesIO(data)):
        np.testing.assert_array_equal(load_audio(source), expected)


def test_silent_and_soundless(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", 25, sound=np.zeros((2, 44100), np.float32))
    assert np.abs(load_audio(silent)).max() < 1e-4
    mute = write_video(tmp_path / "mute.mp4", 25)
    with pytest.raises(NoAudioStream, match=r"mute\.mp4: there is no sound"):
        load_audio(mute)


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.m4a", "aac"), ("a.mp4", "h264")])
@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_first_channel_or_the_mean(tmp_path: Path, name: str, codec: str, rate: int, channels: int) -> None:
    """In a file of sound alone and in a video, at other rates than the one asked for."""
    sound = sine(1.5, 440, rate, channels)
    if channels == 2:
        sound[1] = sine(1.5, 1000, rate)[0] / 2
    if name == "a.mp4":
        path = write_video(tmp_path / name, 38, sound=sound, sound_rate=rate)
    else:
        path = write_sound(tmp_path / name, sound, rate, codec)
    first, mean = load_audio(path, channel="first"), load_audio(path)
    assert first.dtype == np.float32
    assert len(first) == len(mean) == pytest.approx(24000, abs=2100)
    spectra = [np.abs(np.fft.rfft(wave[4000:20000])) / 8000 for wave in (first, mean)]
    # 16,000 samples: one bin for each Hz.
    (first_440, first_1000), (mean_440, mean_1000) = [(spectrum[440], spectrum[1000]) for spectrum in spectra]
    assert first_440 == pytest.approx(0.5, abs=0.05)
    assert first_1000 < 0.01
    assert mean_440 == pytest.approx(0.5 if channels == 1 else 0.25, abs=0.05)
    assert mean_1000 == pytest.approx(0.0 if channels == 1 else 0.125, abs=0.02)


def test_file_of_neither_pictures_nor_sound(tmp_path: Path) -> None:
    """An MP4 whose header lists no track: no policy for videos without sound shall take it for one."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    header = struct.pack(">IIIIIIH10x9i24xI", 0, 0, 0, 1000, 0, 1 << 16, 1 << 8, *np.eye(3, dtype=int).ravel(), 1)
    path = tmp_path / "hollow.mp4"
    path.write_bytes(box(b"ftyp", b"isom\0\0\2\0isommp41") + box(b"moov", box(b"mvhd", header)) + box(b"mdat", b""))
    with pytest.raises(UnsupportedMedia, match=r"hollow\.mp4: there are neither pictures nor sound") as caught:
        load_audio(path)
    assert not isinstance(caught.value, NoAudioStream)


def test_seconds_of_sound_are_counted_while_decoding(tmp_path: Path) -> None:
    """Also where the header does not tell the length."""
    path = write_sound(tmp_path / "a.wav", sine(3.0, 440), codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)  # a stream of unknown length
    limits = MediaLimits(max_audio_seconds=2.0)
    for channel in ("mean", "first"):
        for source in (path, bytes(data)):
            with pytest.raises(MediaTooLarge, match="the sound is longer than the limit of 2 s"):
                load_audio(source, limits=limits, channel=channel)
        assert len(load_audio(path, limits=limits, end=1.5, channel=channel)) == 24000


def test_wrong_arguments(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", sine(0.2, 440), codec="pcm_s16le")
    for arguments in (
        {"sampling_rate": 0},
        {"start": -1},
        {"end": float("inf")},
        {"start": 2, "end": 1},
        {"on_decode_error": "skip"},
        {"channel": "left"},
    ):
        with pytest.raises(ValueError, match=next(reversed(arguments))):
            load_audio(path, **arguments)
    with pytest.raises(UnsupportedMedia, match="no sound"):
        load_audio([np.zeros((8, 8, 3), np.uint8)])


def test_truncated_sound(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", 100, sound=sine(4.0, 440, channels=2), container_options={"movflags": "faststart"}
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(CorruptMedia, match=r"cut\.mp4: the sound"):
        load_audio(cut)
    with pytest.warns(UserWarning, match="the sound is damaged"):
        wave = load_audio(cut, on_decode_error="truncate")
    assert 8000 < len(wave) < 60000
    for name, data in {"text": b"no sound " * 50, "empty": b""}.items():
        with pytest.raises(MediaError, match=r"<bytes>: ") as caught:
            load_audio(data)
        assert isinstance(caught.value, CorruptMedia if name == "empty" else UnsupportedMedia)


@pytest.mark.parametrize("sample_format", ["fltp", "flt", "s16", "s16p", "s32p", "dbl"])
@pytest.mark.parametrize("channel", ["mean", "first"])
def test_mixing_before_resampling_is_mixing_after_it(sample_format: str, channel: str) -> None:
    """Both steps are linear. Here each frame is resampled with all channels, and then mixed."""
    random = np.random.default_rng(0)
    sound = random.uniform(-0.9, 0.9, (3, 22050)).astype(np.float32)
    frames = []
    for start in range(0, sound.shape[1], 1000):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1000]), "fltp", "2.1")
        frame.sample_rate = 22050
        frames += av.AudioResampler(format=sample_format, layout="2.1", rate=22050).resample(frame)
    resampler = av.AudioResampler(format="flt", layout="2.1", rate=16000)
    parts = [part.to_ndarray().reshape(-1, 3) for frame in [*frames, None] for part in resampler.resample(frame)]
    for frame in frames:
        frame.pts = None
    right = np.concatenate(parts)
    right = right[:, 0] if channel == "first" else right.mean(axis=1)
    mixer = MonoMixer(frames[0], 16000, channel)
    blocks: list[np.ndarray] = []
    for frame in frames:
        mixer.add(frame)
        if mixer.is_full:
            blocks += mixer.pending()
    mixed = np.concatenate([*blocks, *mixer.end()])
    assert len(mixed) == len(right)
    assert np.abs(mixed - right).max() < 1e-6
    assert np.abs(mixed[1:] - right[:-1]).max() > 0.1  # control: one sample late
