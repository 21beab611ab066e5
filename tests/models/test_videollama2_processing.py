"""Frames and pixels of VideoLLaMA2 against the original."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, LlavaImageProcessor
from transformers.video_utils import VideoMetadata

from hf_videollm.models.media_video import ClipMetadata
from hf_videollm.models.video_processing_videollama2 import VideoLlama2VideoProcessor

SIGLIP = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_center_crop": False,
}
CLIP = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
TOWERS = {"clip336": CLIP, "siglip384": SIGLIP}
PIXELS = [f"{tower}.{shape}.{mode}" for tower in TOWERS for shape in ("wide", "tall") for mode in ("pad", "none")]
# Two levels of 255, divided by the smallest deviation.
TWO_LEVELS = 2 / 255 / 0.26 + 1e-3
SMALL = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}


@pytest.fixture(scope="module")
def frames(goldens: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = goldens / "videollama2" / "frames"
    return json.loads((folder / "meta.json").read_text()), load_file(folder / "frames.safetensors")


def sampled(total: int, rate: float | None = None, **wishes: Any) -> list[int]:
    metadata = VideoMetadata(total_num_frames=total, fps=rate)
    return VideoLlama2VideoProcessor().sample_frames(metadata, **wishes).tolist()


# ---------------------------------------------------------------------------------------------- frame indices


def test_uniform_indices_of_the_official_code(frames: Any) -> None:
    cases = frames[0]["uniform"]
    assert len(cases) == 110
    for case in cases:
        if case["duration"] == 0:
            # The original answers with frames that do not exist.
            with pytest.raises(ValueError, match="no frames"):
                sampled(0, num_frames=case["num_frames"])
        else:
            assert sampled(case["duration"], num_frames=case["num_frames"]) == case["indices"], case


def test_one_frame_per_second_as_in_the_official_code(frames: Any) -> None:
    seen = set()
    for case in frames[0]["fps"]:
        indices, expected = sampled(case["duration"], case["fps"], fps=1), case["indices"]
        if isinstance(expected, str):
            # The original divides by zero where a video has less than one frame per second; here it gives them all.
            assert "ZeroDivisionError" in expected
            assert indices == list(range(case["duration"]))
        elif isinstance(expected, dict):
            assert [len(indices), indices[:5], indices[-5:]] == [expected["len"], expected["first"], expected["last"]]
        else:
            assert indices == expected, case
        seen.add(type(expected))
    assert seen == {str, dict, list}


def test_clips_of_the_official_code(frames: Any) -> None:
    """40 pictures at 3 a second, cut at seconds `s` and `e`."""
    refused = []
    for case in frames[0]["process_video_frame_directory_40_frames(fps fixed 3)"]:
        start, end, expected = case["s"], case["e"], case["frame_indices"]
        wishes = {"num_frames": case["num_frames"]} if case["num_frames"] else {"fps": 1}
        if start is not None and end is not None and (start < 0 or start >= end):
            # The original repairs such a clip without a word: it swaps the two, adds a second, or starts at zero.
            with pytest.raises(ValueError, match="start="):
                sampled(40, 3.0, start=start, end=end, **wishes)
            refused.append((start, end))
            start, end = max(0, min(start, end)), max(start, end) if start != end else end + 1
        indices = sampled(40, 3.0, start=start, end=end, **wishes)
        if isinstance(expected, str):
            # The original finds an empty clip, and fails; here a clip has at least one frame.
            assert "Error" in expected
            assert set(indices) == {0}
        else:
            assert indices == expected, case
    assert set(refused) == {(4, 2), (3, 3), (-1, 2)}


def test_clips_of_real_videos(frames: Any) -> None:
    for video in frames[0]["real_mp4(decord)"].values():
        for case in video["rows"]:
            wishes = {"num_frames": case["num_frames"]} if case["num_frames"] else {"fps": 1}
            indices = sampled(video["n_frames"], video["avg_fps"], start=case["s"], end=case["e"], **wishes)
            assert indices == case["requested"], case


@given(total=st.integers(1, 5000), num_frames=st.integers(1, 64))
@settings(deadline=None, max_examples=200)
def test_uniform_indices_are_sorted_even_and_in_range(total: int, num_frames: int) -> None:
    indices = np.array(sampled(total, num_frames=num_frames))
    assert len(indices) == num_frames
    assert indices.min() >= 0
    assert indices.max() < total
    steps = np.diff(indices)
    assert (steps >= 0).all()
    assert not len(steps) or steps.max() - steps.min() <= 1


@given(
    total=st.integers(1, 3000),
    rate=st.floats(0.2, 120),
    fps=st.none() | st.floats(0.05, 60),
    cut=st.tuples(st.floats(0, 0.99), st.floats(0.01, 2)),
)
@settings(deadline=None, max_examples=200)
def test_any_clip_has_frames_and_all_are_its_own(
    total: int, rate: float, fps: float | None, cut: tuple[float, float]
) -> None:
    start = cut[0] * total / rate
    end = start + cut[1] * total / rate
    indices = np.array(sampled(total, rate, fps=fps, start=start, end=end))
    assert len(indices) == 16 if fps is None else len(indices) >= 1
    assert (np.diff(indices) >= 0).all()
    # The original's rounding: a frame early on both sides.
    assert indices.min() >= max(0, int(start * rate) - 1)
    assert indices.max() <= min(total - 1, max(int(end * rate) - 1, int(start * rate)))


def test_where_the_rate_varies_the_timestamps_count() -> None:
    """Ten frames in the first second, one in each of the next nine: second 5 is frame 14, not half-way through."""
    metadata = ClipMetadata(total_num_frames=19, fps=1.9, duration=10.0)
    metadata.frame_times = np.concatenate([np.arange(10) / 10, np.arange(1, 10)])
    processor = VideoLlama2VideoProcessor()
    assert processor.sample_frames(metadata, num_frames=1, start=5.0, end=5.2).tolist() == [14]
    assert processor.sample_frames(metadata, fps=1).tolist() == [5, *range(10, 19)]
    # Without a clip the original's own rule needs no times.
    assert processor.sample_frames(metadata, num_frames=4).tolist() == sampled(19, num_frames=4)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"start": 4.0, "num_frames": 2}, r"4 s .* 4\.00 s"),
        ({"fps": 1, "rate": None}, "frame rate"),
        ({"start": 2.0, "end": 1.0}, "end=1.0 is not after start=2.0"),
        ({"num_frames": 0}, "num_frames"),
        ({"fps": 1e-9, "start": -1.0}, "start=-1.0"),
    ],
)
def test_impossible_sampling_is_an_error(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampled(40, **{"rate": 10.0, **wishes})


def test_lists_of_frames_are_sampled_and_repeated(frames: Any) -> None:
    """Departures: the original cuts a list to 32 frames and fills a short one with black frames of another size."""
    cases = {case["case"]: case for case in frames[0]["padding_cases"]}
    processor = VideoLlama2VideoProcessor(num_frames=8, do_resize=False, do_center_crop=False, do_normalize=False)

    def numbers(count: int) -> list[int]:
        video = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None].repeat(6, 1).repeat(10, 2).repeat(3, 3)
        pixels = processor([video])["pixel_values_videos"][0]
        assert pixels.shape == (8, 3, 6, 10)
        return (pixels[:, 0, 3, 5] * 255).round().int().tolist()

    assert (
        len(cases["ndarray 40 frames, num_frames 8 (no resampling!)"]["centre_pixel_R(1-based frame no., 0=black pad)"])
        == 32
    )
    assert numbers(40) == [index + 1 for index in sampled(40, num_frames=8)]
    assert 0 in cases["ndarray 5 frames 6x10 (HxW)"]["centre_pixel_R(1-based frame no., 0=black pad)"]
    assert numbers(5) == [1, 2, 2, 3, 3, 4, 4, 5]
    # Where the original does sample (a GIF whose frame i shows 10 * i), the frames are the same.
    gif = cases["gif 20 frames (pixel=10*(i+1))"]["centre_pixel_R(1-based frame no., 0=black pad)"]
    assert [10 * number for number in numbers(20)] == gif


# ------------------------------------------------------------------------------------------------------ pixels


def frame_of(key: str, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return tensors["frame_wide_45x70" if ".wide." in key else "frame_tall_45x30"].numpy()


def check_pixels(pixels: torch.Tensor, key: str, frames: Any, goldens: Path) -> None:
    """Against the official output: sums over all pixels, every 16th pixel, and the whole picture before scaling."""
    facts, sample = frames[0]["preprocess"][key], frames[1].get(f"{key}.pixel_values_every16")
    picture = goldens / "videollama2" / "frames" / f"{key}.resized_uint8.png"
    assert list(pixels.shape) == facts["pixel_values_shape"][1:]
    assert pixels.double().sum().item() == pytest.approx(facts["sum"], abs=0.05)
    assert pixels.double().abs().sum().item() == pytest.approx(facts["abs_sum"], abs=0.05)
    if sample is not None:
        torch.testing.assert_close(pixels[:, ::16, ::16], sample, rtol=0, atol=1e-6)
    if picture.exists():
        options = TOWERS[key.split(".")[0]]
        mean, deviation = (
            torch.tensor(options.get(name, default)).view(3, 1, 1)
            for name, default in (
                ("image_mean", VideoLlama2VideoProcessor.image_mean),
                ("image_std", VideoLlama2VideoProcessor.image_std),
            )
        )
        levels = ((pixels * deviation + mean) * 255).round().to(torch.uint8)
        assert torch.equal(levels.permute(1, 2, 0), torch.from_numpy(np.array(Image.open(picture))))


@pytest.mark.parametrize("key", PIXELS)
def test_pixels_of_frames_equal_the_original(frames: Any, goldens: Path, key: str) -> None:
    tower, _, mode = key.split(".")
    frame = frame_of(key, frames[1])
    processor = VideoLlama2VideoProcessor(**TOWERS[tower], padding_mode=mode, num_frames=2)
    pixels = processor([frame[None]])["pixel_values_videos"][0]
    assert len(pixels) == 2
    for picture in pixels:
        check_pixels(picture, key, frames, goldens)
    # The fast way is near, but not the same.
    fast = processor([frame[None]], resize_backend="torchvision")["pixel_values_videos"][0]
    assert 0 < (fast - pixels).abs().max() <= TWO_LEVELS
    other = processor([frame[None]], padding_mode="none" if mode == "pad" else "pad")["pixel_values_videos"][0]
    assert (other - pixels).abs().max() > 0.5


@pytest.mark.parametrize("key", PIXELS)
def test_pixels_of_images_equal_the_original(frames: Any, goldens: Path, key: str, tmp_path: Path) -> None:
    """`LlavaImageProcessor` serves: exact with its PIL backend, near with torchvision."""
    tower, _, mode = key.split(".")
    LlavaImageProcessor(**{"do_pad": mode == "pad", **TOWERS[tower]}).save_pretrained(tmp_path)
    image = Image.fromarray(frame_of(key, frames[1]))
    exact = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image, return_tensors="pt")["pixel_values"][0]
    check_pixels(exact, key, frames, goldens)
    fast = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    assert (fast - exact).abs().max() <= TWO_LEVELS


@pytest.mark.parametrize("key", ["clip336.tall", "clip336.wide", "siglip384.tall", "siglip384.wide"])
def test_squares_of_the_mean_colour_equal_the_original(frames: Any, key: str) -> None:
    tower = TOWERS[key.split(".")[0]]
    side = frames[1][f"expand2square.{key}"].shape[0]
    processor = VideoLlama2VideoProcessor(**{**tower, "size": {"height": side, "width": side}}, padding_mode="pad")
    frame = frame_of(f"{key}.pad", frames[1])
    pixels = processor(
        [frame[None]], do_center_crop=False, do_normalize=False, do_rescale=False, do_sample_frames=False
    )["pixel_values_videos"][0, 0]
    assert torch.equal(pixels.permute(1, 2, 0).to(torch.uint8), frames[1][f"expand2square.{key}"])


def test_frames_of_floating_point_get_the_mean_colour_too() -> None:
    video = np.random.default_rng(0).random((3, 20, 40, 3), np.float32)
    options = {"padding_mode": "pad", "do_rescale": False, "do_sample_frames": False, **SMALL}
    pixels = VideoLlama2VideoProcessor(**options)([video])["pixel_values_videos"][0]
    assert pixels.shape == (3, 3, 16, 16)
    # The mean colour is zero after normalisation: the upper and the lower edge.
    assert pixels[:, :, [0, -1]].abs().max() < 1e-5
    assert pixels[:, :, 8].abs().max() > 0.1


def test_cached_frames_are_not_padded_again() -> None:
    """Frames from a `FrameCache` were padded and resized; a tower may also take pictures that are no squares."""
    processor = VideoLlama2VideoProcessor(**SMALL, padding_mode="pad")
    video = np.random.default_rng(0).integers(0, 255, (4, 20, 40, 3), np.uint8)
    kept = processor([video], do_resize=False, do_center_crop=False)["pixel_values_videos"]
    assert kept.shape == (1, 16, 3, 20, 40)


@pytest.mark.parametrize("option", ["padding_mode", "resize_backend"])
def test_unknown_modes_are_errors(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of .*'square'"):
        VideoLlama2VideoProcessor(**SMALL)([np.zeros((2, 40, 40, 3), np.uint8)], **{option: "square"})
