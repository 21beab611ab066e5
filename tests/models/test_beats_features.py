"""The fbank of BEATs against the original's, and what a caller may pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from hf_videollm.models.configuration_beats import BeatsConfig
from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor, kaldi_fbank, resample
from hf_videollm.models.media_audio_windows import clip_windows, take_clips
from hf_videollm.models.modeling_beats import BeatsModel

SILENCE = -15.942385  # log of float32's epsilon
ORIGINAL: dict[str, Any] = {"channel": "first"}  # what the defaults leave of the original
RATES = {"syn16k_mono_2s": 16000, "syn16k_stereo_2s": 16000, "syn8k_mono_1.5s": 8000, "syn44k_mono_2s": 44100}


@pytest.fixture(scope="module")
def sounds(goldens: Path) -> dict[str, torch.Tensor]:
    return load_file(goldens / "videollama2" / "audio_preprocess" / "audio.safetensors")


@pytest.fixture(scope="module")
def meta(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "videollama2" / "audio_preprocess" / "meta.json").read_text())


def pcm(sounds: dict[str, torch.Tensor], name: str) -> np.ndarray:
    """int16 (samples,) or (channels, samples); the file stores channels last."""
    return sounds[f"{name}.pcm16"].numpy().T


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples)


def features(extractor: BeatsFeatureExtractor, sound: Any, **options: Any) -> np.ndarray:
    """(frames, bins) of one sound."""
    return extractor(sound, **options)["input_features"][0]


def bfloat16_steps(ours: np.ndarray, theirs: torch.Tensor) -> tuple[int, int]:
    """How many values differ from bfloat16 ones, and by how many steps at most.

    Near zero, where steps are tiny, only differences above 1e-4 count as steps: the original's constants are float32.
    """
    rounded = torch.from_numpy(np.ascontiguousarray(ours)).to(torch.bfloat16)
    assert torch.equal(rounded.float(), torch.from_numpy(np.ascontiguousarray(ours, np.float32))), "not rounded"
    assert rounded.shape == theirs.shape
    # Neighbouring numbers of one sign have neighbouring bits.
    steps = (rounded.view(torch.int16).int() - theirs.view(torch.int16).int()).abs()
    apart = (rounded.float() - theirs.float()).abs() > 1e-4
    return int((steps > 0).sum()), int((steps * apart).max())


# --- the original's tensors ----------------------------------------------------------------------------------------


def test_window_and_fbank_of_one_sound(sounds: dict[str, torch.Tensor]) -> None:
    ours = window_function(400, "povey", periodic=False)
    assert np.abs(ours - sounds["povey_window_400"].numpy()).max() < 1e-6
    fbank = kaldi_fbank(sounds["plain.wave_int16scale_f32"].numpy())
    assert np.abs(fbank - sounds["plain.fbank_f64"].numpy()).max() < 1e-4
    assert np.abs(fbank - sounds["plain.fbank_f32"].numpy()).max() < 3e-4  # float32 itself is this far from float64


@pytest.mark.parametrize(
    ("name", "borderline"), [("syn16k_mono_2s", 1), ("syn16k_stereo_2s", 3), ("syn8k_mono_1.5s", 25)]
)
def test_fbank_of_files(sounds: dict[str, torch.Tensor], name: str, borderline: int) -> None:
    """Of 26,880 values, those near a rounding border may fall on its other side, by one step.

    There are more of these in the resampled sound, where many values lie near zero and bfloat16 is finer.
    """
    sound, rate = pcm(sounds, name), RATES[name]
    exact = features(BeatsFeatureExtractor(round_to_bfloat16=False, **ORIGINAL), sound, sampling_rate=rate)
    assert exact.shape == (2998, 128)
    assert np.abs(exact[:210] - sounds[f"{name}.fbank_f32"].numpy()).max() < 5e-4
    rounded = features(BeatsFeatureExtractor(**ORIGINAL), sound, sampling_rate=rate)
    differing, steps = bfloat16_steps(rounded[:210], sounds[f"{name}.fbank_bf16"])
    assert differing <= borderline
    assert steps <= 1


@pytest.mark.parametrize("name", RATES)
def test_rest_of_the_thirty_seconds(sounds: dict[str, torch.Tensor], meta: dict[str, Any], name: str) -> None:
    """Silence, and where the whole buffer was resampled, ringing that has come around from the beginning."""
    theirs = meta["process_audio_file"][name]
    options = {"sampling_rate": RATES[name]}
    tail = features(BeatsFeatureExtractor(round_to_bfloat16=False, **ORIGINAL), pcm(sounds, name), **options)[210:]
    assert tail.min() == pytest.approx(theirs["tail_min_max_f32"][0], abs=1e-5)
    assert tail.max() == pytest.approx(theirs["tail_min_max_f32"][1], abs=1e-4)
    rounded = features(BeatsFeatureExtractor(**ORIGINAL), pcm(sounds, name), **options)[210:]
    lowest = theirs["tail_unique_values(bf16)"][:5]
    assert np.unique(rounded)[: len(lowest)].tolist() == lowest


def test_resampling_is_that_of_the_original(sounds: dict[str, torch.Tensor]) -> None:
    padded = np.zeros(30 * 8000)
    sound = pcm(sounds, "syn8k_mono_1.5s") / 32768
    padded[: len(sound)] = sound
    theirs = sounds["syn8k_mono_1.5s.waveform16k_scaled"].numpy()
    ours = resample(padded, 480000)[: len(theirs)] * 32768
    assert np.abs(ours - theirs).max() < 2e-3  # stored as float32, whose steps are this wide here


def test_fbank_of_a_recording(sounds: dict[str, torch.Tensor]) -> None:
    wave = sounds["bird.waveform16k_first_3s_f32"].numpy()
    ours = features(BeatsFeatureExtractor(pad_with_silence=False), wave)[:200]
    differing, steps = bfloat16_steps(ours, sounds["bird.fbank_bf16_first200"])
    assert differing <= 3
    assert steps <= 1


def test_fbank_of_a_video(sounds: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """The original's clips of a real video; the first 3 s are at hand, which hold two of the eight clips."""
    wave = sounds["sample_demo_3.waveform16k_int16_first3s"].numpy()
    windows = clip_windows(meta["process_audio_from_video"]["sample_demo_3.mp4"]["decoded_samples"])
    at_hand = np.concatenate([wave[start:end] for start, end in windows if end <= len(wave)])
    assert len(at_hand) == 64000
    ours = features(BeatsFeatureExtractor(), at_hand)
    index = sounds["sample_demo_3.frame_index"]
    inside = index < BeatsFeatureExtractor().num_frames(len(at_hand))
    assert inside.sum() == 210
    differing, steps = bfloat16_steps(ours[index[inside].numpy()], sounds["sample_demo_3.fbank_bf16_rows"][inside])
    assert differing <= 3
    assert steps <= 1


def test_clips_of_five_seconds_then_silence(sounds: dict[str, torch.Tensor]) -> None:
    ours = features(BeatsFeatureExtractor(), take_clips(sounds["video_syn5s.waveform"].numpy()))
    assert ours.shape == (2998, 128)
    # The last frame that still touches the 16 s of sound begins at 15.99 s.
    assert ours[1598].max() > 0
    assert ours[1599].max() > -15.9
    assert (ours[1600:] == -15.9375).all()


def test_silence(meta: dict[str, Any]) -> None:
    exact = features(BeatsFeatureExtractor(round_to_bfloat16=False), np.zeros(160))
    assert exact == pytest.approx(SILENCE, abs=1e-5)
    theirs = meta["process_audio_from_video"]["video_without_audio_track(output_v_3V9tzjyr51I.mp4)"]
    ours = BeatsFeatureExtractor()(np.zeros(1), return_tensors="pt")["input_features"]
    assert list(ours.shape) == theirs["out_shape"]
    assert ours.unique().tolist() == theirs["unique_values"]


def test_empty_mel_filter(meta: dict[str, Any]) -> None:
    fbank = kaldi_fbank(noise(16000) * 32768)
    deaf = [bin for bin in range(128) if np.allclose(fbank[:, bin], SILENCE, atol=1e-6)]
    assert deaf == meta["mel_bank_all_zero_rows"] == [3]


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_fbank_is_that_of_transformers() -> None:
    """Another way to the same numbers, frame by frame."""
    wave = noise(16000) * 32768
    theirs = spectrogram(
        wave,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=mel_filter_bank(257, 128, 20, 8000, 16000, None, "kaldi", True),
        mel_floor=1.192092955078125e-07,
        log_mel="log",
        remove_dc_offset=True,
    ).T
    assert np.abs(kaldi_fbank(wave) - theirs).max() < 1e-4


# --- lengths and masks ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(2800, 40000))
def test_frames_and_mask_of_any_length(num_samples: int) -> None:
    batch = BeatsFeatureExtractor(pad_with_silence=False)(np.ones(num_samples))
    frames = 1 + (num_samples - 400) // 160
    assert BeatsFeatureExtractor().num_frames(num_samples) == frames
    assert batch["input_features"].shape == (1, frames, 128)
    whole = frames // 16 * 16
    assert batch["input_features_mask"].tolist() == [[1] * whole + [0] * (frames - whole)]


def test_silence_is_heard_by_default() -> None:
    batch = BeatsFeatureExtractor()([noise(16000), noise(480000), noise(600000)], return_tensors="pt")
    assert batch["input_features"].shape == (3, 2998, 128)
    assert batch["input_features"].dtype == torch.float32
    assert batch["input_features_mask"].dtype == torch.int64
    assert batch["input_features_mask"].sum(1).tolist() == [2992] * 3


@torch.no_grad()
def test_batch_of_lengths_equals_its_rows_in_the_model() -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    model = BeatsModel(BeatsConfig(**sizes, patch_embedding_dim=32, conv_pos_kernel=16, conv_pos_groups=4)).eval()
    extractor = BeatsFeatureExtractor(pad_with_silence=False)
    waves = [noise(length, seed=length) for length in (2800, 9000, 31000)]
    batch = extractor(waves, return_tensors="pt")
    assert (batch["input_features"][0, 16:] == 0).all()
    together = model(batch["input_features"], attention_mask=batch["input_features_mask"]).last_hidden_state
    for row, wave in enumerate(waves):
        alone = model(extractor(wave, return_tensors="pt")["input_features"]).last_hidden_state[0]
        tokens = model.config.num_audio_tokens(int(batch["input_features_mask"][row].sum()))
        assert len(alone) == tokens
        assert (together[row, :tokens] - alone).abs().max() < 2e-5


def test_longest_sound_that_is_heard() -> None:
    wave = noise(48000)
    extractor = BeatsFeatureExtractor(max_seconds=1.0, pad_with_silence=False)
    assert np.array_equal(features(extractor, wave), features(extractor, wave[:16000]))
    assert np.array_equal(features(extractor, wave, audio_window="center"), features(extractor, wave[16000:32000]))
    drawn = [features(extractor, wave, audio_window="random", seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    unseeded = [features(extractor, wave, audio_window="random") for _ in range(3)]
    assert not all(np.array_equal(unseeded[0], other) for other in unseeded[1:])
    two = extractor([wave, wave], audio_window="random", seed=1)["input_features"]
    assert not np.array_equal(two[0], two[1]), "each sound has a window of its own"
    saved = BeatsFeatureExtractor(max_seconds=1.0, pad_with_silence=False, audio_window="center")
    assert np.array_equal(features(saved, wave), features(extractor, wave, audio_window="center"))
    assert features(extractor, wave, pad_with_silence=True).shape == (98, 128)


# --- forms of the input --------------------------------------------------------------------------------------------


def test_number_types() -> None:
    whole = (noise(16000) * 32768).astype(np.int16)
    extractor = BeatsFeatureExtractor(pad_with_silence=False, round_to_bfloat16=False)
    expected = features(extractor, whole)
    for same in (
        whole / 32768,
        (whole / 32768).astype(np.float32),
        whole.astype(np.int32) * 65536,
        torch.from_numpy(whole),
        torch.from_numpy(whole / 32768),
        (whole / 32768).tolist(),
    ):
        assert np.abs(features(extractor, same) - expected).max() < 1e-5
    for half in (torch.from_numpy(whole / 32768).bfloat16(), (whole / 32768).astype(np.float16)):
        assert np.abs(features(extractor, half) - expected).mean() < 0.05


def test_channels() -> None:
    left, right = noise(16000, seed=1), noise(16000, seed=2)
    mean, first = (BeatsFeatureExtractor(pad_with_silence=False, channel=channel) for channel in ("mean", "first"))
    stereo = np.stack([left, right])
    assert np.array_equal(features(first, stereo), features(mean, left))
    assert np.array_equal(features(mean, stereo), features(mean, (left + right) / 2))
    whole = (stereo * 32768).astype(np.int16)
    assert np.array_equal(features(mean, whole), features(mean, whole.astype(np.float64).mean(0) / 32768))


def test_one_sound_or_several() -> None:
    extractor = BeatsFeatureExtractor(pad_with_silence=False)
    wave = noise(8000)
    one = extractor(wave)
    assert list(one) == extractor.model_input_names == ["input_features", "input_features_mask"]
    for several in ([wave, wave], (wave, torch.from_numpy(wave)), [wave.tolist(), np.stack([wave, wave])]):
        batch = extractor(several)
        assert np.array_equal(batch["input_features"][0], one["input_features"][0])
        assert np.array_equal(batch["input_features"][1], one["input_features"][0])


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_own_length_at_another_rate(rate: int) -> None:
    """Without silence the sound alone is resampled: the same tone at any rate sounds alike."""
    extractor = BeatsFeatureExtractor(pad_with_silence=False)
    at_16000, at_rate = (np.sin(2 * np.pi * 440 * np.arange(r) / r) for r in (16000, rate))
    ours = features(extractor, at_rate, sampling_rate=rate)
    expected = features(extractor, at_16000, sampling_rate=16000)
    assert ours.shape == expected.shape == (98, 128)
    assert np.array_equal(ours.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(ours.max(axis=1) - expected.max(axis=1)).max() < 0.1


@pytest.mark.parametrize("before", [7, 8])
@pytest.mark.parametrize("after", [4, 5, 7, 8, 9, 10, 16, 21])
def test_resampling_keeps_the_spectrum(before: int, after: int) -> None:
    """The spectrum, both signs of the frequency written out, is cut or filled with zeros around its middle."""
    wave = noise(before, seed=before)
    spectrum = np.fft.fft(wave)
    target = np.zeros(after, complex)
    for frequency in range(-(before // 2), before // 2 + 1):
        # The highest of an even length stands for its negative as well: half of it goes to either.
        share = 0.5 if 2 * abs(frequency) == before else 1.0
        if 2 * abs(frequency) <= after:
            target[frequency % after] += share * spectrum[frequency % before]
    expected = np.fft.ifft(target).real * after / before
    assert np.abs(resample(wave, after) - expected).max() < 1e-12


def test_what_processors_pass_changes_nothing() -> None:
    extractor, wave = BeatsFeatureExtractor(pad_with_silence=False), noise(8000)
    passed = {"padding": "max_length", "truncation": True, "max_length": 20, "return_attention_mask": False}
    assert np.array_equal(features(extractor, wave, **passed), features(extractor, wave))
    with pytest.raises(TypeError, match="no option 'hop'"):
        extractor(wave, hop=1)


def test_saved_is_loaded(tmp_path: Path) -> None:
    options = {
        "max_seconds": 2.0,
        "pad_with_silence": False,
        "round_to_bfloat16": False,
        "audio_window": "center",
        "channel": "first",
    }
    extractor = BeatsFeatureExtractor(**options)
    extractor.save_pretrained(tmp_path)
    loaded = BeatsFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert {name: getattr(loaded, name) for name in options} == options
    sound = np.stack([noise(48000), np.zeros(48000)])
    assert np.array_equal(features(loaded, sound), features(extractor, sound))


def test_fewer_bins_and_smaller_patches() -> None:
    extractor = BeatsFeatureExtractor(num_mel_bins=64, patch_size=8, pad_with_silence=False)
    batch = extractor(noise(400 + 22 * 160))
    assert batch["input_features"].shape == (1, 23, 64)
    assert batch["input_features_mask"].sum() == 16
    assert extractor.feature_size == 64


@pytest.mark.parametrize(
    ("sound", "options", "error", "message"),
    [
        (np.zeros(0), {}, ValueError, "sound 0 is empty"),
        ([np.zeros(9), np.zeros((2, 0))], {}, ValueError, "sound 1 is empty"),
        ([], {}, ValueError, "no sound in the list"),
        (np.array([0.0, np.nan]), {}, ValueError, "sound 0 holds NaN or infinity"),
        (np.array([[0.0, 1.0], [0.0, np.inf]]), {}, ValueError, "sound 0 holds NaN or infinity"),
        (np.zeros((1, 2, 3)), {}, ValueError, r"sound 0 of shape \(1, 2, 3\)"),
        (np.float64(1.0), {}, ValueError, r"sound 0 of shape \(\)"),
        (np.zeros(9, np.uint8), {}, TypeError, "sound 0 of type uint8: give floats"),
        ("speech.wav", {}, TypeError, "sound 0 of type <U10: give floats"),
        (np.zeros(2799), {"pad_with_silence": False}, ValueError, r"0\.175 s is shorter than one patch \(0\.175 s\)"),
        (np.zeros(9), {"sampling_rate": 0}, ValueError, "sampling_rate=0"),
        (np.zeros(9), {"audio_window": "end"}, ValueError, "audio_window='end': choose one of start, center, random"),
    ],
)
def test_wrong_sounds(sound: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BeatsFeatureExtractor()(sound, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": "left"}, "channel='left'"),
        ({"audio_window": "end"}, "audio_window='end'"),
        ({"max_seconds": 0.1}, r"max_seconds=0\.1 is shorter than one patch of 16 frames; give at least 0\.175 s"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeatsFeatureExtractor(**options)
