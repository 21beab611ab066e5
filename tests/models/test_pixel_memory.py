"""The pixels of a video are in memory once, in the type of the model, and frames are resized while they are decoded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_image_llms import make_linvt

from hf_videollm.costs.live_bytes import LiveBytes
from hf_videollm.hub.checkpoint import bundled_checkpoints, default_checkpoint
from hf_videollm.inference import load_pipeline
from hf_videollm.models.linvt_frames import frame_inputs
from hf_videollm.models.media_video import load_video
from hf_videollm.models.video_processing_ftfv import FtfvVideoProcessor
from hf_videollm.models.video_processing_iva import IvaVideoProcessor
from hf_videollm.models.video_processing_pllava import PllavaVideoProcessor
from hf_videollm.models.video_processing_video_llm import VideoLlmVideoProcessor
from hf_videollm.models.video_processing_videollama2 import VideoLlama2VideoProcessor

SIZES: dict[str, Any] = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, "num_frames": 6}
SQUARE: dict[str, Any] = {"size": {"height": 24, "width": 24}, "do_center_crop": False, "num_frames": 6}
PROCESSORS = {
    "base": lambda: VideoLlmVideoProcessor(**SIZES),
    "iva": lambda: IvaVideoProcessor(**SIZES),
    "pllava": lambda: PllavaVideoProcessor(**SIZES),
    "pllava twice": lambda: PllavaVideoProcessor(**SIZES, resize_mode="pllava"),
    "videollama2": lambda: VideoLlama2VideoProcessor(**SIZES),
    "videollama2 padded": lambda: VideoLlama2VideoProcessor(**SIZES, padding_mode="pad"),
    "videollama2 padded, no square": lambda: VideoLlama2VideoProcessor(
        **{**SQUARE, "size": {"height": 24, "width": 30}}, padding_mode="pad"
    ),
    "videollama2 torchvision": lambda: VideoLlama2VideoProcessor(**SIZES, resize_backend="torchvision"),
    "ftfv": lambda: FtfvVideoProcessor(**SQUARE),
    "without a resize": lambda: VideoLlmVideoProcessor(**SIZES, do_resize=False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of six frames, 50 x 37 pixels, as a folder of pictures."""
    path = tmp_path_factory.mktemp("frames")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 37, 50, 3), dtype=np.uint8)
    for number, frame in enumerate(pixels):
        Image.fromarray(frame).save(path / f"{number}.bmp")
    return path


@pytest.mark.parametrize("name", PROCESSORS)
def test_frames_that_are_resized_as_they_come_are_the_same(name: str, folder: Path) -> None:
    """An array of frames is resized as a whole, so it is the control."""
    processor = PROCESSORS[name]()
    whole = processor([load_video(str(folder))[0]], return_tensors="pt")["pixel_values_videos"]
    found = processor([str(folder)], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(found, whole)


@pytest.mark.parametrize("name", ["base", "pllava twice", "ftfv"])
@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_pixels_in_another_type_are_those_of_float32_rounded(name: str, dtype: Any, folder: Path) -> None:
    processor = PROCESSORS[name]()
    exact = processor([str(folder)], return_tensors="pt")["pixel_values_videos"]
    found = processor([str(folder)], return_tensors="pt", pixel_dtype=dtype)["pixel_values_videos"]
    assert exact.dtype == torch.float32
    assert found.dtype == (torch.bfloat16 if dtype == "bfloat16" else dtype)
    assert torch.equal(found, exact.to(found.dtype))


@pytest.mark.parametrize("wrong", ["int8", "bfloat61", torch.uint8])
def test_types_that_pixels_cannot_have(wrong: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="pixel_dtype must be one of float32"):
        PROCESSORS["base"]()([str(folder)], pixel_dtype=wrong)


def test_the_processor_holds_the_pixels_once() -> None:
    """Beside the result there are only a few frames; `torch.stack` of two such results is the control."""
    frames = np.zeros((400, 24, 24, 3), dtype=np.uint8)
    processor = PROCESSORS["base"]()
    with LiveBytes("cpu") as counter:
        pixels = processor([frames], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    assert pixels.nbytes <= counter.peak < 1.3 * pixels.nbytes
    with LiveBytes("cpu") as counter:
        half = processor([frames], do_sample_frames=False, return_tensors="pt", pixel_dtype="bfloat16")
    assert half["pixel_values_videos"].nbytes <= counter.peak < 0.8 * pixels.nbytes


def test_linvt_runs_its_image_processor_over_a_few_frames_at_a_time() -> None:
    processor = load_pipeline(str(default_checkpoint("linvt-tiny"))).processor
    model_type = make_linvt("llava_clip_llama").config.backbone_config.model_type
    frames = torch.randint(0, 256, (70, 3, 40, 40), dtype=torch.uint8)
    sizes: list[int] = []

    def watched(images: Any, **options: Any) -> Any:
        sizes.append(len(images))
        return processor.image_processor(images, **options)

    found = frame_inputs(watched, model_type, [list(frames)])
    assert max(sizes) == 32
    assert sum(sizes) == 70
    whole = processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]
    assert torch.equal(found["pixel_values_videos"], whole)
    half = frame_inputs(watched, model_type, [list(frames)], torch.bfloat16)
    assert torch.equal(half["pixel_values_videos"], whole.bfloat16())


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_pipeline_asks_for_the_type_of_the_model(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load_pipeline(str(default_checkpoint(name)), dtype="bfloat16")
    asked: list[Any] = []
    original = VideoLlmVideoProcessor._check_call

    def watch(self: Any, kwargs: Any) -> None:
        asked.append(kwargs.get("pixel_dtype"))
        original(self, kwargs)

    monkeypatch.setattr(VideoLlmVideoProcessor, "_check_call", watch)
    inputs = pipe.preprocess({"video": str(folder), "text": "What?"})["row"]
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    # LinVT's frames stay bytes until its image processor has them.
    assert asked == [None if name.startswith("linvt") else torch.bfloat16]
