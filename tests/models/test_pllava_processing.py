"""Frames and pixels of PLLaVA against the original, and the behaviour users meet."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tiny_checkpoint import make_config, make_processor
from transformers.video_utils import VideoMetadata

from hf_videollm import PllavaVideoProcessor, UnsafeURL, UnsupportedMedia, load_video
from hf_videollm.models.configuration_pllava import pllava_pooled_shape
from hf_videollm.models.media_video import ClipMetadata

# One uint8 level after normalisation: what Pillow releases differ by on some sizes (docs/designs/pllava.md#frames).
ONE_LEVEL = 0.0155
SMALL = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


@pytest.fixture(scope="module")
def reference(goldens: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    folder = goldens / "pllava" / "processing"
    meta = json.loads((folder / "meta.json").read_text())
    return meta, load_file(folder / "tensors.safetensors"), json.loads((folder / "frame_indices.json").read_text())


def whole(resize_mode: str, **kwargs: Any) -> PllavaVideoProcessor:
    """A processor that takes every frame."""
    return PllavaVideoProcessor(resize_mode=resize_mode, do_sample_frames=False, **kwargs)


# ---------------------------------------------------------------------------------------------- frame indices


@pytest.mark.parametrize("table", ["chat_get_index", "eval_get_index"])
def test_frame_indices_of_the_official_code(reference: Any, table: str) -> None:
    processor = PllavaVideoProcessor()
    for key, expected in reference[2][table].items():
        total, num_frames = map(int, key.split(","))
        metadata = VideoMetadata(total_num_frames=total)
        assert processor.sample_frames(metadata, num_frames=num_frames).tolist() == expected, key


def test_frame_indices_with_bounds_of_the_official_code(reference: Any) -> None:
    processor = PllavaVideoProcessor()
    for case in reference[2]["eval_get_index_bound"]:
        first, metadata = case["first_idx"], VideoMetadata(total_num_frames=case["max_frame"] + 1, fps=case["fps"])
        start, end = case["bound"] or (None, None)
        if first and case["bound"] is None:
            # File names that count from 1: our indices count from 0.
            metadata = VideoMetadata(total_num_frames=case["max_frame"], fps=case["fps"])
            indices = processor.sample_frames(metadata, num_frames=case["num_segments"]) + first
        else:
            indices = processor.sample_frames(metadata, num_frames=case["num_segments"], start=start, end=end)
        assert indices.tolist() == case["indices"], case


def test_default_is_16_frames_by_that_rule() -> None:
    metadata = VideoMetadata(total_num_frames=16)
    assert PllavaVideoProcessor().sample_frames(metadata).tolist() == [*range(9), *range(8, 15)]


@given(total=st.integers(1, 5000), num_frames=st.integers(1, 64))
@settings(deadline=None, max_examples=200)
def test_indices_are_sorted_in_range_and_reach_late_frames(total: int, num_frames: int) -> None:
    indices = PllavaVideoProcessor().sample_frames(VideoMetadata(total_num_frames=total), num_frames=num_frames)
    assert len(indices) == num_frames
    assert indices.min() >= 0
    assert indices.max() < total
    assert (np.diff(indices) >= 0).all()
    # A short video repeats frames evenly instead of losing the late ones, as the original's model code does.
    if 1 < total <= num_frames:
        assert indices.max() >= total - 2


def test_fps_beats_the_default_number_of_frames() -> None:
    metadata = VideoMetadata(total_num_frames=100, fps=25.0)
    processor = PllavaVideoProcessor()
    assert len(processor.sample_frames(metadata, fps=2)) == 8
    frames = np.zeros((100, 40, 40, 3), np.uint8)
    out = processor([frames], fps=2, video_metadata=[{"total_num_frames": 100, "fps": 25.0}])
    assert out["num_video_frames"].tolist() == [8]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 1.0}, "frame rate"),
        ({"fps": 2, "num_frames": 4}, "exclude"),
        ({"start": 9.0, "end": 8.0}, "end=8.0 is not after start=9.0"),
        ({"start": 1.0, "end": 1.0}, "not after"),
        ({"end": 0.0}, "not after"),
        ({"start": -1.0}, "start=-1.0"),
        ({"start": float("nan")}, "start=nan"),
        ({"end": float("inf")}, "end=inf"),
        ({"fps": 0}, "fps=0|positive"),
        ({"num_frames": 0}, "num_frames=0|positive"),
        ({"num_frames": -1}, "num_frames=-1|positive"),
        (
            {"start": 90.0, "video_metadata": [{"total_num_frames": 300, "fps": 30.0}]},
            r"<frames>: start=90 s .* 10\.00 s",
        ),
        ({"num_frames": 20_000}, "20,000 frames .* 16,384"),
        ({"num_frames": 4, "max_frames": 2}, "4 frames .* 2"),
        ({"fps": 1e9, "video_metadata": [{"total_num_frames": 300, "fps": 30.0}]}, "10,000,000,000 frames"),
    ],
)
def test_impossible_sampling_is_an_error(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PllavaVideoProcessor()([np.zeros((300, 40, 40, 3), np.uint8)], **options)


# ------------------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("name", ["48x64", "100x40", "32x32", "24x30", "90x160"])
def test_small_sizes_equal_the_original(reference: Any, name: str) -> None:
    tensors = reference[1]
    frames, expected = tensors[f"small_{name}.frames"], tensors[f"small_{name}.pixel_values"]
    ours = whole("pllava", **SMALL)([frames.numpy()])["pixel_values_videos"][0]
    difference = (ours - expected).abs()
    assert difference.max() <= (ONE_LEVEL if name == "100x40" else 1e-6)


def test_videos_of_one_prompt_are_sized_together(reference: Any) -> None:
    tensors = reference[1]
    videos = [tensors[f"multi_landscape_portrait.v{index}"].numpy() for index in (0, 1)]
    expected = tensors["multi_landscape_portrait.pixel_values"]
    processor = whole("pllava", **SMALL)
    together = processor(videos)["pixel_values_videos"].flatten(0, 1)
    assert (together - expected).abs().max() < 1e-6
    apart = processor(videos, videos_per_prompt=[1, 1])["pixel_values_videos"].flatten(0, 1)
    assert (apart - expected).abs().max() > ONE_LEVEL


def test_first_resize_sizes(reference: Any) -> None:
    """The size after the first resize, for single videos and for prompts with two."""
    from hf_videollm.models.video_processing_pllava import common_sides

    for case in [*reference[0]["small"], *reference[0]["full"]]:
        edge = case.get("clip_resolution", 336)
        short, _ = common_sides([tuple(case["hw"])], edge)
        assert short == min(case["after_longshort"]), case


def synthetic_frame(seed: int, height: int, width: int) -> np.ndarray:
    """The recipe in the reference's meta.json (`frame_generator`)."""
    random = np.random.RandomState(seed)
    base = random.randint(0, 256, (max(2, height // 7), max(2, width // 7), 3)).astype(np.uint8)
    large = np.asarray(Image.fromarray(base).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    return np.clip(large + random.randint(-12, 13, large.shape), 0, 255).astype(np.uint8)


def test_real_sizes_equal_the_original(reference: Any) -> None:
    """Mean, deviation and probe points of whole 336-pixel frames, 48x64 to 2160x3840."""
    processor = whole("pllava")
    for case in reference[0]["full"]:
        frame = synthetic_frame(case["seed"], *case["hw"])
        pixels = processor([frame[None]])["pixel_values_videos"][0, 0]
        torch.testing.assert_close(pixels.mean((1, 2)), torch.tensor(case["mean"]), atol=1e-4, rtol=0)
        torch.testing.assert_close(pixels.std((1, 2), correction=0), torch.tensor(case["std"]), atol=1e-4, rtol=0)
        for point, values in case["probe"].items():
            row, column = map(int, point.split(","))
            torch.testing.assert_close(pixels[:, row, column], torch.tensor(values), atol=1e-5, rtol=0)


def test_the_plain_resize_is_another_one(reference: Any) -> None:
    """Control of the tests above: one resize of a large video is not what the original does."""
    case = next(case for case in reference[0]["full"] if case["hw"] == [1080, 1920])
    frame = synthetic_frame(case["seed"], *case["hw"])[None]
    plain, original = (whole(mode)([frame])["pixel_values_videos"] for mode in ("plain", "pllava"))
    assert (plain - original).abs().max() > 5 * ONE_LEVEL


def test_unknown_resize_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="resize_mode"):
        whole("square", **SMALL)([np.zeros((2, 40, 40, 3), np.uint8)])


# ------------------------------------------------------------------------------------------- batches and counts


def test_videos_of_different_lengths_are_padded_and_counted() -> None:
    videos = [np.full((length, 40, 60, 3), 10 * length, np.uint8) for length in (2, 5, 1)]
    processor = whole("plain", **SMALL)
    batch = processor(videos)
    assert batch["pixel_values_videos"].shape == (3, 5, 3, 32, 32)
    assert batch["num_video_frames"].tolist() == [2, 5, 1]
    for index, video in enumerate(videos):
        alone = processor([video])["pixel_values_videos"][0]
        torch.testing.assert_close(batch["pixel_values_videos"][index, : len(video)], alone)


def test_pooled_shape_is_the_rule_of_the_paper() -> None:
    """Section 3.3: 16 x 12 x 12 = 2304 tokens a video, whatever its length; an image is one time step of it."""
    assert pllava_pooled_shape(16, (16, 12, 12)) == (16, 12, 12)
    assert pllava_pooled_shape(5, (16, 12, 12)) == (16, 12, 12)
    assert pllava_pooled_shape(1, (16, 12, 12)) == (1, 12, 12)
    with pytest.raises(ValueError, match="at least one frame"):
        pllava_pooled_shape(0, (16, 12, 12))


def test_announced_placeholders_equal_what_the_text_holds() -> None:
    processor = make_processor()
    videos = [np.zeros((length, 40, 60, 3), np.uint8) for length in (9, 1, 3)]
    image = Image.new("RGB", (50, 40))
    batch = processor(
        text=["<video> a <image> b <video>", "<video>"],
        videos=videos,
        images=[image],
        padding=True,
        return_tensors="pt",
    )
    is_video = batch["input_ids"] == processor.video_token_id
    is_image = batch["input_ids"] == processor.image_token_id
    assert is_video.sum(-1).tolist() == [2 * 16, 16]
    assert is_image.sum(-1).tolist() == [4, 0]
    config = make_config()
    assert [config.num_video_tokens(4), config.num_image_tokens()] == [16, 4]
    announced = processor._get_num_multimodal_tokens(image_sizes=[(40, 50)], video_sizes=[(4, 40, 60)])
    assert announced["num_video_tokens"] == [16]
    assert announced["num_image_tokens"] == [4]


def test_a_row_of_a_batch_is_processed_as_if_alone() -> None:
    """Also with the original's resize, which sizes the videos of a prompt together."""
    processor = make_processor()
    random = np.random.default_rng(0)
    videos = [random.integers(0, 255, (4, *size, 3), np.uint8) for size in ((48, 64), (80, 50), (40, 100))]
    rows = [("<video> <video> which", videos[:2]), ("<video> what", videos[2:])]
    batch = processor(
        text=[text for text, _ in rows], videos=videos, padding=True, return_tensors="pt", resize_mode="pllava"
    )
    nested = processor(
        text=[text for text, _ in rows],
        videos=[row for _, row in rows],
        padding=True,
        return_tensors="pt",
        resize_mode="pllava",
    )
    alone = [processor(text=text, videos=row, return_tensors="pt", resize_mode="pllava") for text, row in rows]
    expected = torch.cat([row["pixel_values_videos"] for row in alone])
    torch.testing.assert_close(batch["pixel_values_videos"], expected, rtol=0, atol=0)
    torch.testing.assert_close(nested["pixel_values_videos"], expected, rtol=0, atol=0)
    joined = processor.collate(alone, padding_side="right")
    assert next(iter(joined)) == "input_ids"
    torch.testing.assert_close(joined["pixel_values_videos"], expected, rtol=0, atol=0)
    assert joined["attention_mask"].tolist() == batch["attention_mask"].tolist()
    left = processor.collate(alone, padding_side="left")
    assert left["attention_mask"][1].tolist() == joined["attention_mask"][1].flip(0).tolist()


@pytest.mark.parametrize(
    ("text", "num_videos", "words"),
    [
        ("<video> <video>", 1, r"2 <video> and 1 videos"),
        ("no placeholder", 1, r"0 <video> and 1 videos"),
        ("<video>", 0, r"1 <video> and 0 videos"),
    ],
)
def test_wrong_number_of_placeholders_names_both(text: str, num_videos: int, words: str) -> None:
    videos = [np.zeros((4, 40, 40, 3), np.uint8)] * num_videos or None
    with pytest.raises(ValueError, match=words):
        make_processor()(text=text, videos=videos)


def test_sources_of_every_kind_give_the_same_pixels(clips: list[str], tmp_path: Path) -> None:
    processor = make_processor().video_processor
    path = Path(clips[0])
    expected = processor([str(path)])["pixel_values_videos"]
    frames, _ = load_video(path)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")
    with path.open("rb") as file:
        sources = [path, path.as_uri(), path.read_bytes(), file, frames, torch.from_numpy(frames), str(folder)]
        upload = tempfile.SpooledTemporaryFile(mode="w+b")  # noqa: SIM115 - what web frameworks hand over
        upload.write(path.read_bytes())
        sources += [upload, list(frames), [Image.fromarray(frame) for frame in frames]]
        for source in sources:
            torch.testing.assert_close(processor(source)["pixel_values_videos"], expected, rtol=0, atol=0)


def test_hosts_come_from_the_call_and_never_from_a_saved_file(tmp_path: Path) -> None:
    """A downloaded processor must not be able to open the network."""
    processor = PllavaVideoProcessor(**SMALL)
    processor.save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.json"))
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "allowed_hosts": ["example.com"]}))
    with pytest.raises(ValueError, match=r"example\.com"):
        PllavaVideoProcessor.from_pretrained(tmp_path)("https://example.com/clip.mp4")


def test_images_from_the_web_follow_the_same_rule() -> None:
    with pytest.raises(UnsafeURL, match=r"example\.com"):
        make_processor()(text="<image>", images="https://example.com/picture.png")
    chat = [{"role": "user", "content": [{"type": "image", "url": "https://example.com/picture.png"}]}]
    with pytest.raises(UnsafeURL, match=r"example\.com"):
        make_processor().apply_chat_template(chat, tokenize=True, return_dict=True)


def test_seconds_follow_the_timestamps_where_the_rate_varies() -> None:
    """Ten frames in the first second, one in each of the next nine: second 5 is frame 14, not half-way through."""
    metadata = ClipMetadata(total_num_frames=19, fps=1.9, duration=10.0)
    metadata.frame_times = np.concatenate([np.arange(10) / 10, np.arange(1, 10)])
    processor = PllavaVideoProcessor()
    assert processor.sample_frames(metadata, num_frames=1, start=5.0, end=5.2).tolist() == [14]
    assert processor.sample_frames(metadata, num_frames=4, start=5.0, end=9.0).tolist() == [14, 15, 16, 17]
    assert processor.sample_frames(metadata, fps=1).tolist() == [5, *range(10, 19)]
    # Control: the same numbers at a constant rate.
    steady = VideoMetadata(total_num_frames=19, fps=1.9)
    assert processor.sample_frames(steady, num_frames=1, start=5.0, end=5.2).tolist() == [10]


def test_nesting_says_which_prompt_a_video_belongs_to(clips: list[str]) -> None:
    """The totals agree, the rows do not: one video would silently go to the other prompt."""
    processor = make_processor()
    with pytest.raises(ValueError, match="Prompt 0 holds 2 <video> placeholders, but 1 videos"):
        processor(text=["<video><video> a", "b"], videos=[[clips[0]], [clips[1]]])
    image = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match="Prompt 0 holds 2 <image> placeholders, but 1 images"):
        processor(text=["<image> <image> a", "b"], images=[[image], [image]])


def test_prompts_without_media_may_have_none(clips: list[str]) -> None:
    processor = make_processor()
    image = Image.new("RGB", (40, 40))
    for empty in (None, []):
        batch = processor(
            text=["a", "<video> <image> b"], videos=[empty, [clips[0]]], images=[empty, [image]], padding=True
        )
        assert len(batch["num_video_frames"]) == 1
        assert len(batch["pixel_values"]) == 1


def test_a_folder_or_list_of_pictures_takes_the_frame_rate_it_is_told(tmp_path: Path) -> None:
    """TVQA's videos are folders of pictures at 3 frames a second."""
    for index in range(9):
        Image.new("RGB", (40, 40), (20 * index, 0, 0)).save(tmp_path / f"{index}.png")
    pictures = [Image.open(tmp_path / f"{index}.png") for index in range(9)]
    processor = PllavaVideoProcessor(**SMALL)
    for source in (str(tmp_path), pictures):
        out = processor(
            [source],
            start=1.0,
            end=2.0,
            num_frames=4,
            video_metadata=[{"total_num_frames": 9, "fps": 3.0}],
            return_metadata=True,
        )
        assert list(out["video_metadata"][0].frames_indices) == [3, 4, 5, 5]


def test_frames_of_floating_point_are_not_divided_by_255_again() -> None:
    frames = np.random.default_rng(0).random((4, 40, 40, 3), np.float32)
    processor = PllavaVideoProcessor(**SMALL)
    with pytest.raises(ValueError, match="do_rescale=False"):
        processor([frames])
    assert processor([frames], do_rescale=False)["pixel_values_videos"].abs().max() < 3


@pytest.mark.parametrize("wrong", [5, None, object()])
def test_what_is_no_video_is_a_typed_error(wrong: Any) -> None:
    with pytest.raises(UnsupportedMedia, match="Cannot read a video"):
        PllavaVideoProcessor()(wrong)


def test_empty_lists_of_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        make_processor()(text=[])


def test_sound_is_not_dropped_without_a_word(clips: list[str]) -> None:
    with pytest.warns(UserWarning, match="cannot hear"):
        make_processor()(text="<video>", videos=[clips[0]], audio=[np.zeros(1600, np.float32)])
