"""Columns of `datasets` through readers, processors, pipeline and trainer: with and without a torchcodec that decodes.

Where torchcodec finds no FFmpeg, `datasets` cannot give a single row of a `Video` column; what we read ourselves works
all the same. The last test runs this file again in a process that borrows the FFmpeg of PyAV's wheel.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from borrowed_ffmpeg import environment
from datasets import Audio, Dataset, Features, Image, List, Value, Video
from transformers import pipeline
from trl import SFTConfig

from hf_videollm.models.media_dataset_columns import without_decoding
from hf_videollm.models.media_video import (
    CorruptMedia,
    UnsafeURL,
    UnsupportedMedia,
    available_backends,
    load_audio,
    load_video,
)
from hf_videollm.models.transformers_compat import rename_checkpointing
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.sft import DEFAULT_ARGUMENTS, FIXED_ARGUMENTS
from hf_videollm.training.trainer import PartwiseSFTTrainer

SMALL = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}
DECODES = "torchcodec" in available_backends()
QUESTION = "What colour is the shape?"


def columns(clips: list[str]) -> dict[str, Dataset]:
    """The same clips in every form of a column."""
    data = [Path(clip).read_bytes() for clip in clips]
    by_name = Dataset.from_dict({"video": clips, "text": [QUESTION] * len(clips)})
    by_bytes = Dataset.from_dict({"video": [{"bytes": entry, "path": None} for entry in data], "text": [QUESTION] * 3})
    return {
        "names": by_name,
        "decoded": by_name.cast_column("video", Video()),
        "decoded, another layout": by_name.cast_column("video", Video(dimension_order="NHWC")),
        "not decoded": by_name.cast_column("video", Video(decode=False)),
        "bytes, decoded": by_bytes.cast_column("video", Video()),
        "bytes, not decoded": by_bytes.cast_column("video", Video(decode=False)),
        "plain bytes": Dataset.from_dict({"video": data, "text": [QUESTION] * 3}),
    }


def readable_rows(dataset: Dataset) -> list[Any]:
    """The rows themselves where `datasets` can give them, else those of the file behind them."""
    return list((dataset if DECODES else without_decoding(dataset))["video"])


@pytest.fixture(scope="module")
def tiny() -> Any:
    return build_tiny_pllava(**SMALL)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: str) -> Any:
    return pipeline("video-text-to-text", model=tiny_checkpoint)


def test_readers_take_what_a_column_holds(clips: list[str]) -> None:
    expected, sound = load_video(clips[0], num_frames=4)[0], load_audio(clips[0])
    for kind, dataset in columns(clips).items():
        source = readable_rows(dataset)[0]
        np.testing.assert_array_equal(load_video(source, num_frames=4)[0], expected, err_msg=kind)
        np.testing.assert_array_equal(load_audio(source), sound, err_msg=kind)
    assert not np.array_equal(load_video(clips[1], num_frames=4)[0], expected)  # the control
    with pytest.raises(UnsupportedMedia):
        load_video({"bytes": None, "path": None})
    with pytest.raises(UnsafeURL):
        load_video({"bytes": None, "path": "http://example.org/clip.mp4"})


def test_processors_take_rows_and_whole_columns(tiny: Any, clips: list[str]) -> None:
    processor = tiny[1]
    texts = [f"{processor.video_token} {QUESTION}"] * 3
    expected = processor(text=texts, videos=clips, return_tensors="pt")
    for kind, dataset in columns(clips).items():
        for videos in (readable_rows(dataset), dataset["video"], [[row] for row in readable_rows(dataset)]):
            got = processor(text=texts, videos=videos, return_tensors="pt")
            assert torch.equal(got["pixel_values_videos"], expected["pixel_values_videos"]), kind
        one = processor.video_processor(readable_rows(dataset)[1], return_tensors="pt")["pixel_values_videos"]
        assert torch.equal(one[0], expected["pixel_values_videos"][1])


def test_the_pipeline_reads_datasets_by_itself(pipe: Any, clips: list[str]) -> None:
    expected = [pipe(clip, text=QUESTION, max_new_tokens=2) for clip in clips]
    datasets = columns(clips)
    for kind in ("decoded", "bytes, decoded", "not decoded"):
        assert list(pipe(datasets[kind], max_new_tokens=2)) == expected, kind
    row = readable_rows(datasets["decoded"])[0]
    assert pipe(row, text=QUESTION, max_new_tokens=2) == expected[0]
    assert list(pipe(datasets["decoded"].to_iterable_dataset(), max_new_tokens=2)) == expected
    assert pipe(datasets["decoded"]["video"], text=[QUESTION] * 3, max_new_tokens=2) == expected


def test_a_column_of_pictures_is_a_video(tiny: Any, clips: list[str]) -> None:
    from PIL import Image as Pictures

    frames = [Pictures.fromarray(frame) for frame in load_video(clips[0], num_frames=4)[0]]
    expected = tiny[1].video_processor(frames, return_tensors="pt")["pixel_values_videos"]
    for feature in (Image(), Image(decode=False)):
        dataset = Dataset.from_dict({"frames": [frames]}, features=Features({"frames": List(feature)}))
        got = tiny[1].video_processor(dataset[0]["frames"], return_tensors="pt")["pixel_values_videos"]
        assert torch.equal(got, expected)


def test_a_column_of_images_is_images(tiny: Any, clips: list[str]) -> None:
    from PIL import Image as Pictures

    pictures = [Pictures.fromarray(frame) for frame in load_video(clips[0], num_frames=2)[0]]
    texts = [f"{tiny[1].image_token} {QUESTION}"] * 2
    expected = tiny[1](text=texts, images=pictures, return_tensors="pt")["pixel_values"]
    for feature in (Image(), Image(decode=False)):
        dataset = Dataset.from_dict({"image": pictures}, features=Features({"image": feature}))
        for images in (dataset["image"], list(dataset["image"])):
            assert torch.equal(tiny[1](text=texts, images=images, return_tensors="pt")["pixel_values"], expected)


def chat(video: Any, key: str = "video") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [{"type": "video", key: video}, {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]


def test_the_collator_takes_rows(tiny: Any, clips: list[str]) -> None:
    collator = VideoDataCollator(tiny[1])
    expected = collator([{"id": str(number), "messages": chat(clip, "path")} for number, clip in enumerate(clips)])
    for kind, dataset in columns(clips).items():
        rows = [{"id": str(number), "messages": chat(row)} for number, row in enumerate(readable_rows(dataset))]
        got = collator(rows)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected), kind


def test_the_trainer_reads_datasets_by_itself(tiny: Any, clips: list[str], tmp_path: Path) -> None:
    """Videos inside of messages, which `datasets` would decode with every row."""
    model, processor = tiny
    text = {"type": Value("string"), "text": Value("string"), "video": Video()}
    features = Features({"messages": List({"role": Value("string"), "content": List(text)})})
    dataset = Dataset.from_dict({"messages": [chat(clip) for clip in clips[:2]]}, features=features)
    collator = VideoDataCollator(processor)
    arguments = {"output_dir": str(tmp_path), "per_device_train_batch_size": 2, "use_cpu": True}
    trainer = PartwiseSFTTrainer(
        model=model,
        args=SFTConfig(**arguments, **rename_checkpointing(DEFAULT_ARGUMENTS), **FIXED_ARGUMENTS),
        train_dataset=dataset,
        eval_dataset={"same": dataset},
        data_collator=collator,
        processing_class=processor,
    )
    expected = collator([{"messages": chat(clip, "path")} for clip in clips[:2]])["pixel_values_videos"]
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader("same")):
        (batch,) = list(loader)
        assert sorted(map(float, batch["pixel_values_videos"].sum((1, 2, 3, 4)))) == pytest.approx(
            sorted(map(float, expected.sum((1, 2, 3, 4))))
        )


def test_sound_of_columns(clips: list[str]) -> None:
    from tiny_av_checkpoint import make_av_processor

    processor = make_av_processor()
    expected = processor(text="<video>", videos=clips[0], return_tensors="pt")["input_features"]
    of_its_own = processor(text="<audio>", audio=clips[0], return_tensors="pt")["input_features"]
    for kind, dataset in columns(clips).items():
        got = processor(text="<video>", videos=readable_rows(dataset)[0], return_tensors="pt")["input_features"]
        assert torch.equal(got, expected), kind
    sounds = Dataset.from_dict({"audio": clips[:1]}).cast_column("audio", Audio(decode=False))
    forms = [sounds[0]["audio"], [sounds[0]["audio"]], sounds["audio"], sounds.cast_column("audio", Audio())["audio"]]
    if DECODES:
        forms.append(sounds.cast_column("audio", Audio())[0]["audio"])
    for form in forms:
        got = processor(text="<audio>", audio=form, return_tensors="pt")["input_features"]
        torch.testing.assert_close(got, of_its_own)


def test_what_is_left_alone(clips: list[str]) -> None:
    dataset = columns(clips)["decoded"]
    assert without_decoding(dataset).features["video"] == Video(decode=False)
    assert dataset.features["video"] == Video()  # the user's own is not changed
    plain = columns(clips)["names"]
    assert without_decoding(plain) is plain
    own = dataset.with_transform(lambda rows: rows)
    assert without_decoding(own) is own
    for other in (None, "clip.mp4", clips, {}, {"video": clips[0]}, np.zeros(3)):
        assert without_decoding(other) is other


class _Decoder:
    """A decoder as torchcodec's are used, of a file that breaks off."""

    metadata = None

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index > 1:
            raise RuntimeError("two\nlines")
        return torch.full((3, 8, 8), index, dtype=torch.uint8)

    get_frames_at = __getitem__


def test_decoders_that_fail_are_typed() -> None:
    assert load_video(_Decoder(), sample_indices_fn=lambda metadata: [1, 0])[0][:, 0, 0, 0].tolist() == [1, 0]
    with pytest.raises(CorruptMedia) as caught:
        load_video(_Decoder())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not DECODES, reason="torchcodec finds no FFmpeg here; the last test borrows one")
def test_decoders_of_the_users_own(tiny: Any, clips: list[str]) -> None:
    """They carry no file: frames by number are theirs, sound they have none."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    expected = load_video(clips[0], num_frames=4)[0]
    for order in ("NCHW", "NHWC"):
        frames, metadata = load_video(VideoDecoder(clips[0], dimension_order=order), num_frames=4)
        np.testing.assert_array_equal(frames, expected)
        assert metadata.fps == load_video(clips[0], num_frames=1)[1].fps
    with pytest.raises(UnsupportedMedia, match="no sound"):
        load_audio(VideoDecoder(clips[0]))
    one = tiny[1].video_processor(VideoDecoder(clips[0]), return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(one, tiny[1].video_processor(clips[0], return_tensors="pt")["pixel_values_videos"])
    from tiny_av_checkpoint import make_av_processor

    processor = make_av_processor()
    got, by_name = (
        processor(text="<audio>", audio=sound, return_tensors="pt")["input_features"]
        for sound in (AudioDecoder(clips[0]), clips[0])
    )
    assert got.shape == by_name.shape


@pytest.mark.skipif(DECODES, reason="torchcodec finds its FFmpeg, so the tests above have seen decoders")
def test_all_of_this_with_decoders(tmp_path: Path) -> None:
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base"), __file__]
    arguments += ["-k", "not trainer"]  # it never sees a decoder
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    child = subprocess.run(
        [sys.executable, *arguments], env=environment(libraries), capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stdout[-3000:]
    if "PyAV before 17.1" in child.stdout:
        pytest.skip("PyAV before 17.1 writes sound a frame late into MP4")
    assert "1 skipped" in child.stdout  # this test alone
