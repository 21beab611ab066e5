"""Which part of a sound is heard: the original's table of clips, and windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from hf_videollm.models.media_audio_windows import clip_windows, take_clips, window


@pytest.fixture(scope="module")
def meta(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "videollama2" / "audio_preprocess" / "meta.json").read_text())


def test_table_of_the_original(meta: dict[str, Any]) -> None:
    table = meta["process_audio_from_video"]["clip_table"]
    assert len(table) == 14
    for row in table:
        ours = clip_windows(row["samples"])
        assert len(ours) == row["n_clips"]
        assert [list(clip) for clip in ours] == row["sample_ranges(before clipping to length)"], row["seconds"]
        assert take_clips(np.zeros(row["samples"])).shape == (row["concatenated_samples"],)


def test_table_of_the_other_divisor(meta: dict[str, Any]) -> None:
    table = meta["clip_sampler_version_dependence"]["table_divisor_7"]
    assert len(table) == 7
    for row in table:
        ours = clip_windows(round(row["seconds"] * 16000), divisor=7)
        assert [list(clip) for clip in ours] == row["sample_ranges"], row["seconds"]


def test_clips_of_a_real_sound(goldens: Path) -> None:
    with safe_open(goldens / "videollama2" / "audio_preprocess" / "audio.safetensors", "np") as file:
        wave = file.get_tensor("video_syn5s.waveform")
    clips = take_clips(wave)
    assert clips.dtype == wave.dtype
    assert clips.shape == (256000,)
    for index in range(8):
        # 3 s to spare, an eighth of them from clip to clip.
        assert np.array_equal(clips[index * 32000 :][:32000], wave[index * 6000 :][:32000])


def test_short_sound_is_repeated() -> None:
    wave = np.arange(10)
    assert np.array_equal(take_clips(wave, 10), np.tile(wave, 8))
    assert np.array_equal(take_clips(wave, 5), np.tile(wave, 8))  # exactly 2 s


def test_last_clip_ends_before_or_with_the_sound() -> None:
    assert clip_windows(160000)[-1] == (112000, 144000)
    assert clip_windows(160000, divisor=7)[-1] == (128000, 160000)


def test_other_rates_and_counts() -> None:
    assert clip_windows(100, 10, clips=3, clip_seconds=0.5, divisor=2) == [(0, 5), (47, 52), (95, 100)]
    stereo = np.arange(40).reshape(2, 20)
    clips = take_clips(stereo, 10, clips=2, clip_seconds=1.0, divisor=1)
    assert np.array_equal(clips, stereo)


@given(num_samples=st.integers(0, 10**6), divisor=st.sampled_from([7, 8]))
def test_clips_are_in_order_and_inside(num_samples: int, divisor: int) -> None:
    windows = clip_windows(num_samples, divisor=divisor)
    assert windows == sorted(windows)
    assert windows[0] == (0, 32000)
    assert {end - start for start, end in windows} == {32000}
    assert windows[-1][1] <= max(num_samples, 32000)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_samples": -1},
        {"sampling_rate": 0},
        {"clips": 0},
        {"clip_seconds": 0},
        {"clip_seconds": float("nan")},
        {"divisor": 0},
    ],
)
def test_wrong_clips(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="all must be positive"):
        clip_windows(**{"num_samples": 100, **arguments})


def test_windows() -> None:
    wave = np.arange(100)
    assert np.array_equal(window(wave, 2.0, 10), wave[:20])
    assert np.array_equal(window(wave, 2.0, 10, "center"), wave[40:60])
    for where in ("start", "center", "random"):
        assert np.array_equal(window(wave, 10.0, 10, where), wave)
        assert np.array_equal(window(wave, 99.0, 10, where), wave)
    starts = {int(window(wave, 9.8, 10, "random", seed)[0]) for seed in range(50)}
    assert starts == {0, 1, 2}, "both ends are possible"
    assert np.array_equal(window(wave, 2.0, 10, "random", 3), window(wave, 2.0, 10, "random", 3))
    generator = np.random.default_rng(3)
    assert len({int(window(wave, 2.0, 10, "random", generator)[0]) for _ in range(20)}) > 5
    assert window(np.zeros((2, 100)), 2.0, 10).shape == (2, 20)
    with pytest.raises(ValueError, match="audio_window='middle': choose one of start, center, random"):
        window(wave, 2.0, 10, "middle")  # type: ignore[arg-type]
