"""FTFV's processor: Qwen-VL's pixels, Vicuna's prompts, and placeholders that fit the model in every call."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_ftfv_checkpoint import IMAGE, KEPT, NUM_FRAMES, QUERIES, SIDE, SIZE, VIDEO, make_model, make_processor
from transformers import AutoProcessor, CLIPImageProcessorPil, pipeline
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_utils import VideoMetadata

from hf_videollm import FtfvProcessor, FtfvVideoProcessor
from hf_videollm.models.processing_ftfv import processor_options
from hf_videollm.training.collator import VideoDataCollator

# One level of 255, divided by the smallest deviation.
ONE_LEVEL = 1 / 255 / 0.26 + 1e-3


def make_video(num_frames: int = 9, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def placeholders(batch: Any) -> tuple[int, int]:
    """Those of images and of videos."""
    return int((batch["input_ids"] == IMAGE).sum()), int((batch["input_ids"] == VIDEO).sum())


# ------------------------------------------------------------------------------------------------------- pixels


def test_defaults_are_those_of_the_paper_and_of_qwen_vl() -> None:
    processor = FtfvVideoProcessor()
    assert processor.num_frames == 8
    assert (processor.size.height, processor.size.width) == (448, 448)
    assert not processor.do_center_crop
    assert list(processor.image_mean) == list(OPENAI_CLIP_MEAN)
    assert list(processor.image_std) == list(OPENAI_CLIP_STD)
    indices = processor.sample_frames(VideoMetadata(total_num_frames=80, fps=10.0))
    assert indices.tolist() == [5, 15, 25, 35, 45, 55, 65, 75], "the middles of eight equal parts"


def expected_pixels(frame: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Qwen-VL's preprocessing in plain words: bicubic resize to a square by PIL, mean and deviation of CLIP."""
    resized = np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return ((resized / 255 - np.array(OPENAI_CLIP_MEAN)) / np.array(OPENAI_CLIP_STD)).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (16, 16), (7, 90)])
def test_frames_are_resized_to_squares_without_a_crop(height: int, width: int) -> None:
    video = make_video(NUM_FRAMES, height, width)
    processor = FtfvVideoProcessor(**SIZE, num_frames=NUM_FRAMES)
    found = processor(video, return_tensors="pt")
    assert found["pixel_values_videos"].shape == (1, NUM_FRAMES, 3, SIDE, SIDE)
    assert found["num_video_frames"].tolist() == [NUM_FRAMES]
    for frame, pixels in zip(video, found["pixel_values_videos"][0], strict=True):
        np.testing.assert_allclose(pixels.numpy(), expected_pixels(frame), atol=1e-5)
    fast = processor(video, return_tensors="pt", resize_backend="torchvision")["pixel_values_videos"]
    assert (fast - found["pixel_values_videos"]).abs().max() < ONE_LEVEL


def test_images_and_frames_get_the_same_pixels() -> None:
    frame = make_video(1)[0]
    video = FtfvVideoProcessor(**SIZE)(frame[None], num_frames=1, return_tensors="pt")["pixel_values_videos"][0]
    image = CLIPImageProcessorPil(**SIZE, do_center_crop=False)(Image.fromarray(frame), return_tensors="pt")
    torch.testing.assert_close(image["pixel_values"], video)


def test_unknown_resize_is_an_error() -> None:
    with pytest.raises(ValueError, match="resize_backend must be one of pil, torchvision, not 'cv2'"):
        FtfvVideoProcessor(**SIZE)(make_video(), resize_backend="cv2")


def test_frames_that_are_not_square_are_refused_by_the_tower() -> None:
    """A processor of another shape than a square: the tower names the mend."""
    batch = make_processor()(
        text="<video>", videos=make_video(), size={"height": SIDE, "width": 20}, return_tensors="pt"
    )
    with pytest.raises(ValueError, match="resize them to 16 x 16"):
        make_model()(**batch)


# ------------------------------------------------------------------------------------------------------ prompts


def user(*blocks: Any) -> dict[str, Any]:
    texts = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": texts}


A_VIDEO, AN_IMAGE = {"type": "video"}, {"type": "image"}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([user(A_VIDEO, "What moves?")], "USER: <video>\nWhat moves? ASSISTANT:"),
        ([{"role": "user", "content": "Hello"}], "USER: Hello ASSISTANT:"),
        ([user("Compare", A_VIDEO, AN_IMAGE, "now")], "USER: Compare<video><image>\nnow ASSISTANT:"),
        ([user("What is ", A_VIDEO)], "USER: What is <video>\n ASSISTANT:"),
        (
            [
                {"role": "system", "content": "Be brief."},
                user(A_VIDEO, "Colour?"),
                {"role": "assistant", "content": [{"type": "text", "text": "Red"}]},
                user("Shape?"),
            ],
            "Be brief. USER: <video>\nColour? ASSISTANT: Red</s>USER: Shape? ASSISTANT:",
        ),
        ([{"role": "system", "content": ""}, user("Hi")], "USER: Hi ASSISTANT:"),
    ],
)
def test_prompts_are_vicunas(messages: list[dict[str, Any]], prompt: str) -> None:
    assert make_processor().apply_chat_template(messages, add_generation_prompt=True) == prompt


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "tool", "content": "x"}, "Roles are system, user and assistant, not tool."),
        ({"role": "assistant", "content": [A_VIDEO]}, "A assistant message cannot hold video."),
        ({"role": "user", "content": [{"type": "audio"}]}, "A user message cannot hold audio."),
    ],
)
def test_messages_that_make_no_prompt(message: dict[str, Any], error: str) -> None:
    with pytest.raises(Exception, match=error):
        make_processor().apply_chat_template([message])


def test_answers_are_marked_for_training() -> None:
    processor = make_processor()
    chat = [
        user({"type": "video", "video": make_video()}, "Colour?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Red"}]},
    ]
    batch = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    marked = batch["input_ids"][batch["assistant_masks"].bool()]
    assert processor.tokenizer.convert_ids_to_tokens(marked) == [" ", "R", "e", "d", "</s>"]
    assert placeholders(batch) == (0, NUM_FRAMES * KEPT)


# ------------------------------------------------------------------------------------------------- placeholders


@pytest.mark.parametrize("sample_images", [False, True])
@pytest.mark.parametrize("num_kept", [None, 1, QUERIES])
def test_placeholders_of_a_call(num_kept: int | None, sample_images: bool) -> None:
    processor = make_processor(sample_images=sample_images)
    options = {} if num_kept is None else {"num_tokens_per_frame": num_kept}
    kept = num_kept or KEPT
    media = {"videos": [make_video(), make_video(3)], "images": Image.new("RGB", (50, 30))}
    batch = processor(text="<video> or <video>, <image>", **media, num_frames=3, return_tensors="pt", **options)
    assert placeholders(batch) == (kept if sample_images else QUERIES, 2 * 3 * kept)
    logits = make_model(sample_images=sample_images)(**batch, **options).logits
    assert logits.shape[1] == batch["input_ids"].shape[1]
    assert "num_tokens_per_frame" not in batch


@pytest.mark.parametrize("num_kept", [0, QUERIES + 1])
def test_k_out_of_range_is_one_clear_error(num_kept: int) -> None:
    message = f"num_tokens_per_frame must be a whole number from 1 to 9 .*, not {num_kept}"
    with pytest.raises(ValueError, match=message):
        make_processor(num_tokens_per_frame=num_kept)
    with pytest.raises(ValueError, match=message):
        make_processor()(text="<video>", videos=make_video(), num_tokens_per_frame=num_kept)


def test_counts_for_serving_engines() -> None:
    processor = make_processor()
    batch = processor(text="<video> <image>", videos=make_video(), images=Image.new("RGB", (9, 9)), return_tensors="pt")
    counts = processor._get_num_multimodal_tokens(image_sizes=[(9, 9)], video_sizes=[(NUM_FRAMES, 40, 60)])
    assert (counts["num_image_tokens"], counts["num_video_tokens"]) == ([QUERIES], [NUM_FRAMES * KEPT])
    assert placeholders(batch) == (QUERIES, NUM_FRAMES * KEPT)


def test_saved_processor_is_the_same_and_can_be_loaded_with_another_k(tmp_path: Path) -> None:
    processor = make_processor(sample_images=True)
    processor.save_pretrained(tmp_path)
    make_model().config.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is FtfvProcessor
    for name in ("num_queries", "num_tokens_per_frame", "sample_images", "chat_template"):
        assert getattr(loaded, name) == getattr(processor, name)
    assert loaded.video_processor.size == processor.video_processor.size
    other = AutoProcessor.from_pretrained(tmp_path, num_tokens_per_frame=2)
    assert placeholders(other(text="<video>", videos=make_video(), return_tensors="pt")) == (0, 2 * NUM_FRAMES)


def test_processor_options_of_a_configuration() -> None:
    config = make_model(num_tokens_per_frame=2, sample_images=True).config
    processor = make_processor(**processor_options(config))
    assert processor.num_video_tokens(3) == config.num_video_tokens(3) == 6
    assert processor.num_image_tokens() == config.num_image_tokens() == 2


# ------------------------------------------------------------------------------------------- processor and model


def test_generation_and_pipeline_with_another_k() -> None:
    """Every way to K = 2 writes what a checkpoint of K = 2 writes."""
    video, greedy = make_video(), {"max_new_tokens": 6, "do_sample": False}
    chat = [user({"type": "video", "video": video}, "What?")]
    kept = {"num_tokens_per_frame": 2}

    def answer(model: Any, processor: Any, **kwargs: Any) -> str:
        pipe = pipeline("video-text-to-text", model=model, processor=processor)
        options = {"generate_kwargs": greedy, "return_full_text": False, **kwargs}
        return pipe(video, text="What?", **options)[0]["generated_text"]

    model = make_model()
    own = make_model(**kept)
    own.load_state_dict(model.state_dict())
    processor = make_processor()
    batch = processor.apply_chat_template(
        chat,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=dict(kept),  # transformers adds to it
    )
    written = model.generate(**batch, **kept, **greedy)[0, batch["input_ids"].shape[1] :]
    expected = answer(own, make_processor(**kept))
    # The tokenizer writes blanks between its characters.
    assert len(expected.split()) == 6
    assert processor.tokenizer.decode(written).split() == expected.split()
    assert answer(model, processor, **kept) == expected
    assert answer(model, processor) != expected, "K must matter"


def test_rows_of_the_processor_are_collated_with_their_k() -> None:
    processor, model = make_processor(), make_model()
    rows = [
        processor(text=text, videos=videos, num_tokens_per_frame=2, return_tensors="pt")
        for text, videos in (("<video> one", [make_video()]), ("<video> or <video>?", [make_video(5), make_video(2)]))
    ]
    batch = processor.collate(rows, padding_side="left")
    with torch.no_grad():
        together = model(**batch, num_tokens_per_frame=2).logits[:, -1]
        alone = [model(**row, num_tokens_per_frame=2).logits[0, -1] for row in rows]
    torch.testing.assert_close(together, torch.stack(alone), atol=5e-5, rtol=0)


def test_serving_engines_are_told_the_tokens_of_a_call() -> None:
    processor = make_processor()
    sizes = {"image_sizes": [(40, 60)], "video_sizes": [(NUM_FRAMES, 40, 60)]}
    assert processor._get_num_multimodal_tokens(**sizes).num_video_tokens == [NUM_FRAMES * KEPT]
    data = processor._get_num_multimodal_tokens(**sizes, num_tokens_per_frame=2)
    assert (data.num_image_tokens, data.num_video_tokens) == ([QUERIES], [NUM_FRAMES * 2])


def test_training_with_another_k_tells_the_model() -> None:
    """The collator's batch goes to the model as it is, K included, whichever is drawn."""
    processor, model = make_processor(), make_model()
    row = {
        "id": "1",
        "messages": [
            user({"type": "video", "video": make_video()}, "What?"),
            {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
        ],
    }
    collator = VideoDataCollator(processor, vary={"num_tokens_per_frame": [1, 2, KEPT]})
    seen = set()
    for _ in range(8):
        batch = collator([row])
        seen.add(batch["num_tokens_per_frame"])
        assert placeholders(batch)[1] == NUM_FRAMES * batch["num_tokens_per_frame"]
        assert torch.isfinite(model(**batch).loss)
    assert len(seen) > 1
    assert "num_tokens_per_frame" not in VideoDataCollator(processor)([row])
