"""A video of one hour, at one frame per second, through every design that can take it."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hf_videollm.costs.live_bytes import LiveBytes
from hf_videollm.hub.checkpoint import bundled_checkpoints
from hf_videollm.inference import load_pipeline

FRAMES = 3600
MIB = 2**20
# The room that a language model of this length of context gives; the options of the processor.
TAKES: dict[str, tuple[int, dict[str, Any]]] = {
    "pllava": (1024, {"fps": 1}),
    "iva": (8192, {}),
    "ftfv": (4096, {"fps": 1, "num_tokens_per_frame": 1}),
    "linvt": (1024, {"fps": 1}),
}
# Values of one frame that stay until the answer: patches x width of the tower (IVA: without the class token), or twice
# the image-LLM's tokens.
ROOM = 80 * MIB


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hour") / "hour.mp4"
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, number, 1))))
        file.mux(stream.encode())
    return path


def make_pipe(design: str, context: int | None = None) -> Any:
    pipe = load_pipeline(next(name for name in bundled_checkpoints() if name.startswith(f"{design}-")))
    if context is not None:
        pipe.model.config.get_text_config(decoder=True).max_position_embeddings = context
    return pipe


def features_per_frame(model: Any) -> int:
    """Bytes of one frame that a design holds until the video is encoded."""
    tower = model.config.tower_config()
    patches = (tower.image_size // tower.patch_size) ** 2
    if model.reads_questions:
        return 2 * 4 * patches * model.config.get_text_config().hidden_size
    return 4 * (patches + 1) * tower.hidden_size


@pytest.mark.slow
@pytest.mark.parametrize("design", TAKES)
def test_an_hour_is_answered_in_the_memory_of_its_pixels_and_features(design: str, hour: Path) -> None:
    context, options = TAKES[design]
    pipe = make_pipe(design, context)
    model = pipe.model
    with torch.no_grad(), LiveBytes("cpu", [*model.parameters(), *model.buffers()]) as counter:
        row = pipe.preprocess({"video": str(hour), "text": "What happens?"}, **options)["row"]
        pixels = row["pixel_values_videos"].nbytes
        frames_as_bytes = pixels // 4
        assert row["num_video_frames"].tolist() == [FRAMES]
        assert counter.peak < pixels + frames_as_bytes * 1.4 + ROOM
        kept = {name: options[name] for name in options if name == "num_tokens_per_frame"}
        counter.peak = counter.now
        answer = model.generate(**row, **kept, max_new_tokens=2, min_new_tokens=2)
    assert answer.shape[1] >= 2
    assert counter.peak - pixels < FRAMES * features_per_frame(model) + ROOM


@pytest.mark.slow
def test_all_frames_at_once_need_several_times_the_room(hour: Path) -> None:
    """The control."""
    pipe = make_pipe("pllava")
    model = pipe.model
    row = pipe.preprocess({"video": str(hour), "text": "What happens?"}, fps=1)["row"]
    model.config.vision_chunk_size = FRAMES
    with torch.no_grad(), LiveBytes("cpu", [*model.parameters(), *model.buffers()]) as counter:
        model.generate(**row, max_new_tokens=2)
    assert counter.peak > FRAMES * features_per_frame(model) + 3 * ROOM


@pytest.mark.parametrize("design", ["videollama2", "iva", "ftfv"])
def test_more_visual_tokens_than_the_context_are_refused_before_they_are_encoded(design: str) -> None:
    pipe = make_pipe(design, 64)
    video = np.zeros((120, 48, 64, 3), dtype=np.uint8)
    options = {"num_frames": 120}
    pipe.model.base_model.vision_tower.register_forward_pre_hook(lambda *_: pytest.fail("the frames were encoded"))
    with pytest.raises(ValueError, match=r"tokens, [\d,]+ of them for media, and the language model reads at most 64"):
        pipe(video, text="What happens?", **options)
