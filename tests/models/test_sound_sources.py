"""Sound from anywhere: every number of channels and sample format, no number that is none, and every budget."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
import ready_python
import torch
from media_corpus import write_video
from sound_files import WAV_FORMATS, caf, channel_tones, encode, wav

from hf_videollm.models.errors import MAX_SAMPLING_RATE
from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor
from hf_videollm.models.media_audio_inputs import as_waveform, sound_of_video
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

# PyAV's planes end the process from 8 channels on; 64 is the most that FFmpeg resamples.
CHANNELS = [*range(1, 13), 16, 24, 31, 32, 48, 63, 64]


@pytest.mark.parametrize("sample_format", WAV_FORMATS)
def test_any_number_of_channels_in_any_sample_format(sample_format: str) -> None:
    """The mean is that of all channels, the first is the first; at the file's rate and at another."""
    exact = 1 / 200 if sample_format == "u8" else 1e-4
    for channels in CHANNELS:
        sound = channel_tones(channels)
        for rate in (16000, 8000):
            data = wav(sound, sample_format, rate=16000)
            mean, first = (load_audio(data, sampling_rate=rate, channel=channel) for channel in ("mean", "first"))
            for wave, expected in ((mean, sound.mean(axis=0)), (first, sound[0])):
                assert wave.dtype == np.float32
                expected = expected[:: 16000 // rate]
                assert len(wave) == len(expected)
                # The resampler rings at both ends.
                inner = slice(None) if rate == 16000 else slice(50, -50)
                assert np.abs(wave - expected)[inner].max() < (exact if rate == 16000 else exact + 1e-3), channels
    # The control: another channel, or the mean of other channels, would be seen.
    assert np.abs(sound[1] - sound[0]).max() > 2 * exact
    assert np.abs(sound[:-1].mean(axis=0) - sound.mean(axis=0)).max() > exact / 2


ENCODED = [
    # Planar in the decoder, and interleaved.
    ("flac", "flac", "s16", 8, "7.1"),
    ("matroska", "flac", "s32", 8, "7.1"),
    ("matroska", "wavpack", "s16p", 9, None),
    ("matroska", "wavpack", "s32p", 12, None),
    ("matroska", "wavpack", "fltp", 16, None),
    ("mp4", "alac", "s16p", 8, "7.1(wide)"),
    ("matroska", "alac", "s32p", 8, "7.1(wide)"),
    ("matroska", "tta", "s16", 11, None),
    ("nut", "pcm_s16le_planar", "s16p", 4, None),
    ("nut", "pcm_f64le", "dbl", 24, None),
    ("au", "pcm_s16be", "s16", 10, None),
    ("aiff", "pcm_f64be", "dbl", 9, None),
    ("caf", "pcm_s32le", "s32", 12, None),
    ("w64", "pcm_s24le", "s32", 33, None),
    ("mov", "pcm_s24be", "s32", 17, None),
    ("matroska", "pcm_f32le", "flt", 64, None),
]


@pytest.mark.parametrize(("container", "codec", "sample_format", "channels", "layout"), ENCODED)
def test_any_container_with_many_channels(
    container: str, codec: str, sample_format: str, channels: int, layout: str | None
) -> None:
    sound = channel_tones(channels)
    data = encode(container, codec, sample_format, sound, layout=layout)
    assert np.abs(load_audio(data) - sound.mean(axis=0)).max() < 2e-4
    assert np.abs(load_audio(data, channel="first") - sound[0]).max() < 2e-4


@pytest.mark.parametrize("codec", ["aac", "libopus"])
def test_lossy_surround(codec: str) -> None:
    rate = 48000
    sound = channel_tones(8, 9600, rate)
    data = encode("mp4" if codec == "aac" else "ogg", codec, "fltp" if codec == "aac" else "flt", sound, rate, "7.1")
    first = load_audio(data, channel="first", sampling_rate=rate)
    assert np.abs(first[2000:7000]).max() == pytest.approx(1 / 9, abs=0.02)
    # The fourth channel of 7.1 is for low tones only, so the mean may lack it.
    assert 0.4 < np.abs(load_audio(data, sampling_rate=rate)[2000:7000]).max() < 0.52


# Reads each file in a folder with both values of `channel`, and stores the waves beside it.
READ_FOLDER = """
import pathlib, sys
import numpy as np
from hf_videollm import load_audio
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    np.save(f"{path}.npy", [load_audio(path, channel=channel) for channel in ("mean", "first")])
"""
# Reads one file as `load_audio` did before it replaced custom orders.
READ_PLAINLY = """
import sys
import av
with av.open(sys.argv[1]) as container:
    for frame in container.decode(container.streams.audio[0]):
        frame.layout.name
"""
SURROUND = [
    # FFmpeg's writer describes these in an order of its own: CAF and AIFF with a number, MOV with a set of bits.
    ("caf", "pcm_s16le", "s16", "7.1"),
    ("caf", "alac", "s16p", "7.1(wide)"),
    ("mov", "pcm_s16le", "s16", "7.1"),
    ("aiff", "pcm_s16be", "s16", "7.1"),
]


def test_any_order_of_channels(tmp_path) -> None:
    """CAF files that describe their channels in any order, or not at all. A crash of the child process fails this."""
    sounds = {}
    for channels in CHANNELS:
        labels = [1 + i % 18 for i in range(channels)]
        for order, described in (("none", None), ("native", labels), ("custom", labels[::-1])):
            for sample_format in ("s16", "s32", "flt", "dbl"):
                sounds[f"{channels}_{order}_{sample_format}"] = channel_tones(channels, 400)
                data = caf(channel_tones(channels, 400), sample_format, described)
                (tmp_path / f"{channels}_{order}_{sample_format}").write_bytes(data)
    for container, codec, sample_format, layout in SURROUND:
        sounds[f"{codec}.{container}"] = channel_tones(8)
        data = encode(container, codec, sample_format, channel_tones(8), layout=layout)
        (tmp_path / f"{codec}.{container}").write_bytes(data)
    child = ready_python.run("-c", READ_FOLDER, tmp_path)
    assert child.returncode == 0, child.stderr[-500:]
    for name, sound in sounds.items():
        for wave, expected in zip(np.load(tmp_path / f"{name}.npy"), (sound.mean(axis=0), sound[0]), strict=True):
            assert np.abs(wave - expected).max() < 2e-4, name


def test_custom_orders_are_what_crashes(tmp_path) -> None:
    """A control of the test above: PyAV alone ends the process, in the releases that have the fault (18.1 has it)."""
    for order, labels in (("native", [1, 2, 3]), ("custom", [3, 2, 1])):
        path = tmp_path / f"{order}.caf"
        path.write_bytes(caf(channel_tones(3, 16000), labels=labels))
        child = subprocess.run([sys.executable, "-c", READ_PLAINLY, path], capture_output=True, text=True)
        if order == "custom" and child.returncode == 0:
            pytest.skip("this PyAV reads custom orders of channels")
        assert (child.returncode == 0) == (order == "native")


def test_more_channels_than_can_be_resampled() -> None:
    with pytest.raises(UnsupportedMedia, match="65 channels; at most 64"):
        load_audio(wav(channel_tones(65)))


NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("sample_format", ["flt", "dbl"])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_samples_that_are_no_numbers(value: float, sample_format: str, rate: int) -> None:
    """One of them anywhere is damage; with "truncate" what comes before it is returned."""
    for place in (0, 700, 1599):
        sound = channel_tones(2)
        sound[:, place] = value
        data = wav(sound, sample_format)
        with pytest.raises(CorruptMedia, match="NaN or infinity"):
            load_audio(data, sampling_rate=rate)
    sound = channel_tones(2, 16000)
    sound[:, 12000] = value
    with pytest.warns(UserWarning, match="damaged"):
        wave = load_audio(wav(sound, sample_format), sampling_rate=rate, on_decode_error="truncate")
    assert 0 < len(wave) <= 12000 * rate / 16000
    assert np.isfinite(wave).all()
    # What lies behind the part asked for does not count; finite samples, however loud, are cut to the range.
    assert len(load_audio(wav(sound, sample_format), sampling_rate=rate, end=0.2)) == rate // 5
    sound[:, 12000] = 1e30
    assert np.abs(load_audio(wav(sound, sample_format), sampling_rate=rate)).max() == 1.0


def test_numbers_too_large_for_a_float_are_infinite() -> None:
    with pytest.raises(CorruptMedia, match="NaN or infinity"):
        load_audio(wav(np.full((1, 800), 1e300), "dbl"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's warnings about inf - inf
        opposite = np.array([[math.inf], [-math.inf]]) * np.ones(800)
        with pytest.raises(CorruptMedia):
            load_audio(wav(opposite, "flt"))


ABSURD = [-1, -1e-9, math.nan, math.inf, -math.inf, 10**400, Fraction(10**400), "1", True, 1j, [1]]


def test_absurd_arguments_are_value_errors() -> None:
    data = wav(channel_tones(1))
    extractor = BeatsFeatureExtractor()
    samples = np.zeros(1600, np.float32)
    rates = [*ABSURD, 0, 0.5, 16000.5, MAX_SAMPLING_RATE + 1, 2**31, 2**63, 1e300, None]
    calls = [
        *(lambda value=value: load_audio(data, start=value) for value in ABSURD),
        *(lambda value=value: load_audio(data, end=value) for value in [*ABSURD, 0]),
        *(lambda value=value: load_audio(data, sampling_rate=value) for value in rates),
        *(lambda value=value: as_waveform(samples, value, extractor) for value in rates),
        *(lambda value=value: as_waveform(samples, 16000, extractor, start=value) for value in ABSURD),
        *(lambda value=value: as_waveform(samples, 16000, extractor, end=value) for value in [*ABSURD, 0]),
        *(lambda value=value: extractor(samples, sampling_rate=value) for value in rates if value is not None),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"give seconds|give samples|is not after") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("late", [1e6, 1e15, 1e300, 1.7e308])
def test_any_late_start_is_behind_the_end(late: float) -> None:
    for sound_format in ("s16", "flt"):
        with pytest.raises(NoAudioStream, match="no sound after start="):
            load_audio(wav(channel_tones(1), sound_format), start=late)
    with pytest.raises(MediaError, match="start="):
        as_waveform(np.zeros(1600), 16000, BeatsFeatureExtractor(), start=late)
    # A late end is the end of the sound.
    assert len(load_audio(wav(channel_tones(1)), end=late)) == 1600
    assert len(as_waveform(np.zeros(1600), 16000, BeatsFeatureExtractor(), end=late)) == 1600


@pytest.mark.parametrize("rate", [1, 7, 1000, 8000, 44100, 192000, 1_000_000, 2**24, 2**31 - 1, 2**32 - 1])
def test_any_rate_in_a_header(rate: int) -> None:
    """A sound of the right length, or a typed error; never gigabytes."""
    data, limits = wav(channel_tones(1, 16000), rate=rate), MediaLimits(max_decoded_bytes=30_000_000)
    if 100 < rate <= MAX_SAMPLING_RATE:
        assert len(load_audio(data, limits=limits)) == pytest.approx(16000 * 16000 / rate, abs=2)
    else:
        with pytest.raises(MediaError) as caught:
            load_audio(data, limits=limits)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("samples", [1, 2, 5, 20, 60, 100])
def test_very_short_sounds_are_intact(samples: int) -> None:
    """Shorter than the filter of the resampler, in every form of a frame, and heard at the level that they have."""
    for rate in (8000, 16000, 44100, 192000):
        for channels in (1, 9):
            wave = load_audio(wav(np.full((channels, samples), 0.5), "flt", rate=rate))
            assert abs(len(wave) - samples * 16000 / rate) <= 1.5, (rate, channels)
            assert 0.0 < np.abs(wave).max() < 0.8
    flac = load_audio(encode("flac", "flac", "s16", np.full((2, samples), 0.5), rate=48000, layout="stereo"))
    assert abs(len(flac) - samples / 3) <= 1.5


@pytest.mark.parametrize("start", [None, 0.0, 0.03, 0.09])
@pytest.mark.parametrize("length", [1e-9, 1e-5, 1 / 16000, 1e-3, 1.0])
def test_any_interval_with_sound_holds_a_sample(start: float | None, length: float) -> None:
    end = (start or 0.0) + length
    expected = max(1, round(min(length, 0.1 - (start or 0.0)) * 16000))
    sound = channel_tones(1)
    extractor = BeatsFeatureExtractor()
    for wave in (
        load_audio(wav(sound), start=start, end=end),
        as_waveform(wav(sound), 16000, extractor, start=start, end=end),
        as_waveform(sound, 16000, extractor, start=start, end=end),
    ):
        assert len(wave) == expected


def empty_track(container: str, codec: str, with_pictures: bool) -> bytes:
    """A whole file whose track of sound holds no packet."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        if with_pictures:
            pictures = target.add_stream("mpeg4", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = target.add_stream(codec, rate=16000, layout="mono")
        target.start_encoding()
        assert sound.index == int(with_pictures)
        for _ in range(5 if with_pictures else 0):
            target.mux(pictures.encode(av.VideoFrame(64, 48, "yuv420p")))
        if with_pictures:
            target.mux(pictures.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("tolerance", ["raise", "truncate"])
@pytest.mark.parametrize("start", [None, 0.0, 0.1])
def test_an_empty_track_is_no_sound_and_no_damage(start: float | None, tolerance: str) -> None:
    files = [
        wav(np.zeros((1, 0))),
        empty_track("wav", "pcm_s16le", False),
        empty_track("matroska", "pcm_s16le", True),
        empty_track("matroska", "aac", True),
        empty_track("avi", "pcm_s16le", True),
        empty_track("mp4", "aac", True),
    ]
    options = {"start": start, "on_decode_error": tolerance}
    for file in files:
        with pytest.raises(NoAudioStream, match=r"track of sound is empty|there is no sound"):
            load_audio(file, **options)
        assert sound_of_video(file, 16000, "skip", **options) is None
    for file in files[2:]:
        silence = sound_of_video(file, 16000, "silence", **options)
        assert len(silence) == round((0.2 - (start or 0.0)) * 16000)


@pytest.mark.parametrize("tolerance", ["raise", "truncate"])
def test_a_track_that_cannot_be_decoded_is_damage(tolerance: str) -> None:
    """A control of the test above."""
    data = bytearray(encode("flac", "flac", "s16", channel_tones(1)))
    begin = data.index(b"\xff\xf8")
    for byte in range(begin + 4, len(data)):
        data[byte] = 0x55
    for broken in (bytes(data), wav(channel_tones(1))[:44]):
        with pytest.raises(CorruptMedia):
            load_audio(broken, on_decode_error=tolerance)


# --- arrays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_arrays_of_samples(make) -> None:
    """Floats as they are, integers by the range of their type; everything else is refused by name."""
    extractor = BeatsFeatureExtractor()
    levels = np.array([-0.5, 0.0, 0.25])
    kinds = [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32]
    for kind in kinds:
        samples = (levels * (1 + np.iinfo(kind).max) if np.issubdtype(kind, np.integer) else levels).astype(kind)
        np.testing.assert_array_equal(as_waveform(make(samples), 16000, extractor), levels)
    for kind in (np.uint8, np.uint16, np.uint32, np.int64, np.uint64, bool, np.complex64):
        with pytest.raises(UnsupportedMedia, match="give floats in") as caught:
            as_waveform(make(np.ones(100, kind)), 16000, extractor)
        assert isinstance(caught.value, TypeError)  # as NumPy's own functions would raise
    for samples in (np.array(["a", "b"]), np.array([None, 1]), np.array([np.datetime64("2020-01-01")])):
        with pytest.raises(UnsupportedMedia, match="give floats in"):
            as_waveform(samples, 16000, extractor)
    for value in [*NOT_FINITE, 1e5, -17.0]:
        for shape in ((100,), (2, 100)):
            samples = np.zeros(shape)
            samples[..., 50] = value
            for channel in ("mean", "first"):
                with pytest.raises(ValueError, match=r"NaN or infinity|floats lie in"):
                    as_waveform(make(samples), 16000, BeatsFeatureExtractor(channel=channel))


def test_a_nan_in_a_channel_that_is_not_heard_is_refused_too() -> None:
    samples = np.zeros((2, 100))
    samples[1, 50] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        BeatsFeatureExtractor(channel="first").to_mono(samples)


def test_budgets_of_arrays() -> None:
    extractor = BeatsFeatureExtractor()
    samples = np.zeros(1000)
    with pytest.raises(MediaTooLarge, match="max_decoded_bytes"):
        as_waveform(samples, 1, extractor, limits=MediaLimits(max_decoded_bytes=10**6))
    with pytest.raises(MediaTooLarge, match="max_audio_seconds"):
        as_waveform(samples, 100, extractor, limits=MediaLimits(max_audio_seconds=9.9))
    assert len(as_waveform(samples, 100, extractor, limits=MediaLimits(max_audio_seconds=10))) == 160_000


@pytest.mark.parametrize("name", ["start", "end", "channel", "sampling_rates", "video"])
def test_no_key_of_a_dict_is_ignored(name: str) -> None:
    extractor = BeatsFeatureExtractor()
    sounds = [
        {"array": np.zeros(1600), "sampling_rate": 16000, "path": "a.wav"},
        {"bytes": wav(channel_tones(1)), "path": None},
    ]
    for sound in sounds:
        with pytest.raises(TypeError, match=f"has no option '{name}'") as caught:
            as_waveform({**sound, name: 0.05}, 16000, extractor)
        assert "\n" not in str(caught.value)
        # A control; and None is a key that Arrow fills in.
        assert len(as_waveform({**sound, name: None}, 16000, extractor)) == 1600


def test_files_tell_their_own_rate(tmp_path) -> None:
    """Another one beside them would be ignored; it counts for bare samples alone."""
    path = tmp_path / "a.wav"
    path.write_bytes(wav(channel_tones(1)))
    for stored in ({"bytes": path.read_bytes()}, {"path": str(path)}):
        with pytest.raises(ValueError, match="sampling_rate is that of bare samples"):
            as_waveform({**stored, "sampling_rate": 8000}, 16000, BeatsFeatureExtractor())
    samples = {"array": np.zeros(1600), "sampling_rate": 8000}
    assert len(as_waveform({**samples, "path": str(path)}, 16000, BeatsFeatureExtractor())) == 3200


# --- budgets of files ----------------------------------------------------------------------------------------------


def test_every_budget_counts_for_sound() -> None:
    data = wav(channel_tones(2, 32000))
    size = len(data)
    for over, just in (
        ({"max_bytes": size - 1}, {"max_bytes": size}),
        ({"max_audio_seconds": 1.9}, {"max_audio_seconds": 2.0}),
        ({"max_decoded_bytes": 4 * 32000 - 1}, {"max_decoded_bytes": 4 * 32000}),
        ({"timeout": 0.0}, {"timeout": math.inf}),
    ):
        with pytest.raises(MediaTooLarge, match=next(iter(over))):
            load_audio(data, limits=MediaLimits(**over))
        assert len(load_audio(data, limits=MediaLimits(**just))) == 32000
    # A low rate makes much of little; and the silence before a late track counts as well.
    with pytest.raises(MediaTooLarge, match="max_decoded_bytes"):
        load_audio(wav(channel_tones(1, 600), rate=1), limits=MediaLimits(max_decoded_bytes=10**6))
    with pytest.raises(MediaTooLarge, match="max_decoded_bytes"):
        load_audio(data, sampling_rate=MAX_SAMPLING_RATE, limits=MediaLimits(max_decoded_bytes=10**6))


@pytest.mark.parametrize("value", [-1, math.nan, None, "1", True])
def test_limits_are_numbers(value: object) -> None:
    """A NaN would never be passed."""
    for name in MediaLimits.__dataclass_fields__:
        with pytest.raises(ValueError, match=f"{name}="):
            MediaLimits(**{name: value})


@pytest.mark.parametrize("missing", range(4))
def test_a_wav_may_lack_its_last_byte_of_padding(missing: int) -> None:
    """The length in the header counts it where the block is odd; any byte more that is missing is damage."""
    samples = wav(channel_tones(1, 801), "u8")
    odd = samples[: samples.index(b"data") + 8 + 801]
    odd = odd[:4] + (len(odd) + 1 - 8).to_bytes(4, "little") + odd[8:]
    data = (odd + b"\0")[: len(odd) + 1 - missing]
    if missing <= 1:
        assert len(load_audio(data)) == 801
    else:
        with pytest.raises(CorruptMedia, match="ends too early"):
            load_audio(data)
    with pytest.raises(CorruptMedia, match="ends too early"):
        load_audio(wav(channel_tones(1, 801))[: -1 - missing])


@pytest.mark.parametrize("no_limit", [2**31 - 1, 2**31, 10**20, math.inf, 1e6])
def test_any_limit_of_pixels_that_is_not_passed(no_limit: float, tmp_path) -> None:
    path = write_video(tmp_path / "a.mp4", 3)
    assert len(load_video(path, limits=MediaLimits(max_pixels=no_limit))[0]) == 3
    with pytest.raises(MediaTooLarge):
        load_video(path, limits=MediaLimits(max_pixels=64))


def test_no_limit(tmp_path) -> None:
    unlimited = MediaLimits(**dict.fromkeys(MediaLimits.__dataclass_fields__, math.inf))
    assert len(load_audio(wav(channel_tones(1)), limits=unlimited)) == 1600
    assert len(load_video([np.zeros((4, 4, 3), np.uint8)], limits=unlimited)[0]) == 1
    path = write_video(tmp_path / "a.mp4", 3, sound=channel_tones(1, 8000).astype(np.float32))
    assert len(load_video(path, limits=unlimited)[0]) == 3
    assert len(load_audio(path, limits=unlimited)) > 1
