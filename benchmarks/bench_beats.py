"""Compares the speed of BEATs and its features with other implementations.

python benchmarks/bench_beats.py --help
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from bench_tools import record, seconds_by_turns, with_ratios
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from hf_videollm.models.configuration_beats import BeatsConfig
from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor, kaldi_fbank
from hf_videollm.models.modeling_beats import BeatsModel

QUICK = ("--layers", "1", "--repeats", "1")
RATE = 16000
PEER = "transformers_spectrogram"


def transformers_fbank(wave: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """The same features with the function of transformers, which processes frame by frame."""
    return spectrogram(
        wave,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        mel_floor=1.192092955078125e-07,
        log_mel="log",
        remove_dc_offset=True,
    ).T


def bench_features(repeats: int) -> dict[str, float]:
    """30 s of sound to fbank, in seconds.

    kaldi-native-fbank is no peer: it refuses 128 bins, because one of them lies between two frequencies.
    """
    sound = 0.1 * np.random.default_rng(0).standard_normal(30 * RATE)
    wave = sound * 2**15
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        filters = mel_filter_bank(257, 128, 20, 8000, RATE, None, "kaldi", True)
    calls: dict[str, Callable[[], Any]] = {
        "kaldi_fbank": lambda: kaldi_fbank(wave),
        PEER: lambda: transformers_fbank(wave, filters),
    }
    if np.abs(calls["kaldi_fbank"]() - calls[PEER]()).max() > 1e-4:
        raise RuntimeError("The features differ, so their times cannot be compared.")
    extractor = BeatsFeatureExtractor()
    at_44100 = 0.1 * np.random.default_rng(0).standard_normal(30 * 44100)
    calls["whole_extractor"] = lambda: extractor(sound)
    calls["whole_extractor_from_44100"] = lambda: extractor(at_44100, sampling_rate=44100)
    return seconds_by_turns(calls, repeats)


def bench_encoder(layers: int, repeats: int) -> dict[str, float]:
    """One sound of 30 s through layers of the real width, in seconds; WavLM has the same layers but for the gate."""
    torch.manual_seed(0)
    ours = BeatsModel(BeatsConfig(num_hidden_layers=layers)).eval()
    peer = transformers.WavLMModel(transformers.WavLMConfig(num_hidden_layers=layers)).eval()
    tokens = torch.randn(1, ours.config.num_audio_tokens(2998), ours.config.hidden_size)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    eager = BeatsModel(BeatsConfig(num_hidden_layers=layers)).eval()
    eager.set_attn_implementation("eager")
    calls = {
        "sdpa": lambda: ours.encoder(tokens, None, False, False),
        "sdpa_masked": lambda: ours.encoder(tokens, mask, False, False),
        "eager": lambda: eager.encoder(tokens, None, False, False),
        "transformers_wavlm": lambda: peer.encoder(tokens),
    }
    return seconds_by_turns(calls, repeats)


def bench_silence(layers: int, repeats: int) -> dict[str, float]:
    """A sound of 5 s, padded with silence to 30 s as in the original, and at its own length, in seconds."""
    model = BeatsModel(BeatsConfig(num_hidden_layers=layers)).eval()
    sound = 0.1 * np.random.default_rng(0).standard_normal(5 * RATE)

    def hear(pad_with_silence: bool) -> torch.Tensor:
        batch = BeatsFeatureExtractor(pad_with_silence=pad_with_silence)(sound, return_tensors="pt")
        return model(batch["input_features"], attention_mask=batch["input_features_mask"]).last_hidden_state

    return seconds_by_turns({"with_silence": lambda: hear(True), "own_length": lambda: hear(False)}, repeats)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    layers: Annotated[int, typer.Option(help="Layers of the encoders; the real BEATs has 12.")] = 12,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 3,
) -> None:
    """Compare BEATs with other implementations. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_beats.py --layers 1 --repeats 1

      python benchmarks/bench_beats.py --out benchmarks/results/beats_cpu.json --machine "2 shared cores"
    """
    with torch.inference_mode():
        results = {
            "fbank_30s": with_ratios(bench_features(repeats), PEER),
            f"encoder_30s_{layers}_layers": with_ratios(bench_encoder(layers, repeats), "transformers_wavlm"),
            f"sound_of_5s_{layers}_layers": with_ratios(bench_silence(layers, repeats), "with_silence"),
        }
    record(results, out, machine, versions={"numpy": np.__version__})


if __name__ == "__main__":
    typer.run(main)
