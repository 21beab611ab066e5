"""IVA's processor: a frame a second, Vicuna's prompts with a block of query tokens, and labels that leave them out."""

import inspect
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import make_tokenizer
from tiny_iva_checkpoint import (
    IMAGE,
    QUERIES,
    QUERY,
    QUERY_TOKEN,
    SIDE,
    SIZES,
    VIDEO,
    make_config,
    make_model,
    make_processor,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoProcessor, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_utils import VideoMetadata

from hf_videollm import IvaProcessor, IvaVideoProcessor, MediaLimits, MediaTooLarge, load_video
from hf_videollm.models.processing_iva import processor_options, query_token_id
from hf_videollm.models.video_processing_video_llm import VideoLlmVideoProcessor
from hf_videollm.training.collator import IGNORE_INDEX, VideoDataCollator

NUM_FRAMES = 4
BLOCK = QUERY_TOKEN * QUERIES


def make_video(num_frames: int = NUM_FRAMES, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def placeholders(batch: Any) -> tuple[int, int, int]:
    """Those of images, of videos and of query tokens."""
    return tuple(int((batch["input_ids"] == token).sum()) for token in (IMAGE, VIDEO, QUERY))


# ------------------------------------------------------------------------------------------------------- frames


def test_defaults_are_those_of_the_paper_and_of_clip() -> None:
    processor = IvaVideoProcessor()
    assert processor.fps == 1.0
    assert processor.num_frames is None
    assert processor.size.shortest_edge == 336
    assert (processor.crop_size.height, processor.crop_size.width) == (336, 336)
    assert list(processor.image_mean) == list(OPENAI_CLIP_MEAN)
    assert list(processor.image_std) == list(OPENAI_CLIP_STD)


def sampled(seconds: float, rate: float = 10.0, **options: Any) -> list[int]:
    metadata = VideoMetadata(total_num_frames=round(seconds * rate), fps=rate, duration=seconds)
    return IvaVideoProcessor().sample_frames(metadata, **options).tolist()


def test_one_frame_a_second_all_of_them() -> None:
    assert sampled(4) == [5, 15, 25, 35], "the middle of every second"
    assert len(sampled(3600)) == 3600
    assert len(sampled(0.2)) == 1


def test_other_rates_numbers_and_clips() -> None:
    assert len(sampled(6, fps=0.5)) == 3
    assert sampled(6, num_frames=2) == [15, 45]
    assert sampled(10, start=4.0, end=6.9) == [45, 55, 65]
    fixed = IvaVideoProcessor(num_frames=2)
    metadata = VideoMetadata(total_num_frames=60, fps=10.0, duration=6.0)
    assert fixed.sample_frames(metadata).tolist() == [15, 45], "a number of the processor goes before its rate"
    assert len(fixed.sample_frames(metadata, fps=1.0)) == 6, "a rate of the call goes before both"


def test_long_videos_are_thinned_evenly() -> None:
    assert sampled(100, max_frames=4) == [125, 375, 625, 875]
    assert sampled(3, max_frames=4) == sampled(3)
    # Ten hours are more than any call may ask for, but not if they are thinned.
    assert len(sampled(36_000, max_frames=500)) == 500
    with pytest.raises(MediaTooLarge, match="36,000 frames were asked for"):
        sampled(36_000)
    with pytest.raises(ValueError, match="max_frames=0"):
        sampled(3, max_frames=0)


def test_bound_of_a_processor_and_of_a_call(clips: list[str]) -> None:
    def count(**options: Any) -> int:
        return int(IvaVideoProcessor(**SIZES, max_frames=3)(clips[0], return_tensors="pt", **options).num_video_frames)

    assert count(fps=4.0) == 3
    assert count(fps=4.0, max_frames=5) == 5
    with pytest.raises(MediaTooLarge, match="the limit is 3"):
        count(num_frames=4)


def test_frames_without_a_rate_are_taken_as_they_are() -> None:
    processor = IvaVideoProcessor(**SIZES)
    for source in (make_video(7), [Image.fromarray(frame) for frame in make_video(7)]):
        assert processor([source], return_tensors="pt")["num_video_frames"].tolist() == [7]
        assert processor([source], max_frames=3, return_tensors="pt")["num_video_frames"].tolist() == [3]
        with pytest.raises(ValueError, match="frame rate"):
            processor([source], fps=1.0)
    known = VideoMetadata(total_num_frames=8, fps=4.0, duration=2.0)
    found = processor(make_video(8), video_metadata=known, return_tensors="pt")
    assert found["num_video_frames"].tolist() == [2]


@pytest.mark.parametrize(
    "options",
    [
        SIZES,
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}},
        {"size": {"height": 24, "width": 20}, "do_center_crop": False},
        {"size": {"shortest_edge": 20, "longest_edge": 26}, "do_center_crop": True},
        {**SIZES, "do_normalize": False, "do_rescale": False},
        {"do_resize": False, "do_center_crop": False},
    ],
    ids=["plain", "crop", "squeezed", "longest_edge", "bytes", "as_they_are"],
)
def test_frames_resized_one_by_one_are_those_resized_together(options: dict[str, Any], clips: list[str]) -> None:
    """IVA's processor changes no bit of what the shared processor gives."""
    sources: list[Any] = [clips[0], [Image.fromarray(frame) for frame in make_video(5, 64, 64)], make_video(3, 64, 64)]
    rate = {"num_frames": 5, "return_tensors": "pt"}
    found = IvaVideoProcessor(**options)(sources, **rate)
    expected = VideoLlmVideoProcessor(**options)(sources, **rate)
    assert torch.equal(found["pixel_values_videos"], expected["pixel_values_videos"])
    assert found["pixel_values_videos"].dtype == expected["pixel_values_videos"].dtype
    assert found["num_video_frames"].tolist() == [5, 5, 5]


def test_padding_and_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of unequal length, in portions that end within a video."""
    processor = IvaVideoProcessor(**SIZES)
    videos = [make_video(7), make_video(2, 30, 30)]
    whole = processor(videos, return_tensors="pt")
    monkeypatch.setattr("hf_videollm.models.video_processing_video_llm.FRAMES_AT_A_TIME", 3)
    found = processor(videos, return_tensors="pt")
    assert torch.equal(found["pixel_values_videos"], whole["pixel_values_videos"])
    assert found["pixel_values_videos"].shape == (2, 7, 3, SIDE, SIDE)
    assert found["num_video_frames"].tolist() == [7, 2]
    assert not found["pixel_values_videos"][1, 2:].any()
    with pytest.raises(ValueError, match="must come out in one size"):
        processor(videos, do_center_crop=False)


def test_a_long_video_never_lies_in_memory_at_full_size(tmp_path: Path) -> None:
    """60 frames of 640 x 360 are 41 MB; made small one by one, they take a tenth of that."""
    frame = Image.fromarray(make_video(1, 360, 640)[0])
    for number in range(60):
        frame.save(tmp_path / f"{number:03d}.bmp")

    def peak(processor: VideoLlmVideoProcessor) -> int:
        """Bytes that numpy, which holds what is decoded, had at most."""
        tracemalloc.start()
        try:
            assert processor(str(tmp_path), return_tensors="pt")["num_video_frames"].tolist() == [60]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    at_full_size = 60 * 640 * 360 * 3
    whole = VideoLlmVideoProcessor(**SIZES, num_frames=60, do_resize=False)
    assert peak(whole) > at_full_size, "control: all frames at once"
    for processor in (IvaVideoProcessor(**SIZES), VideoLlmVideoProcessor(**SIZES, num_frames=60)):
        assert peak(processor) < at_full_size / 10


def test_budget_of_bytes_is_for_what_is_kept(clips: list[str]) -> None:
    """Of files and of pictures; indices that repeat and go back count as often as they are returned."""
    whole, metadata = load_video(clips[0])
    order = [5, 0, 5, 2]
    for source in (clips[0], list(whole)):
        chosen = {"sample_indices_fn": lambda metadata: order, "limits": MediaLimits(max_decoded_bytes=4 * 8 * 8 * 3)}
        with pytest.raises(MediaTooLarge, match="4 frames of 64x64"):
            load_video(source, **chosen)
        with pytest.raises(MediaTooLarge, match="4 frames of 16x64"):
            load_video(source, **chosen, frame_fn=lambda picture: picture[:, ::4])
        found, known = load_video(source, **chosen, frame_fn=lambda picture: picture[::8, ::8])
        np.testing.assert_array_equal(found, whole[order][:, ::8, ::8])
        assert known.frames_indices == order
        assert (known.width, known.height) == (metadata.width, metadata.height), "of the file"


# ------------------------------------------------------------------------------------------------------ prompts


def user(*blocks: Any) -> dict[str, Any]:
    texts = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": texts}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


A_VIDEO, AN_IMAGE = {"type": "video"}, {"type": "image"}
ROUNDS = [user(A_VIDEO, "Colour?"), assistant("Red"), user("Shape?"), assistant("Ring")]
HELLO = [user("Hi"), assistant("Hello")]


@pytest.mark.parametrize(
    ("placement", "messages", "asks", "prompt"),
    [
        ("last", [user(A_VIDEO, "What?")], True, "USER: <video>\nWhat? ASSISTANT:<iva_query>"),
        ("every", [user(A_VIDEO, "What?")], True, "USER: <video>\nWhat? ASSISTANT:<iva_query>"),
        ("last", [user("Compare", AN_IMAGE)], True, "USER: Compare<image>\n ASSISTANT:<iva_query>"),
        # Text alone has no block, nor has a prompt that does not ask for an answer.
        ("last", [{"role": "user", "content": "Hello"}], True, "USER: Hello ASSISTANT:"),
        ("every", [{"role": "user", "content": "Hello"}], True, "USER: Hello ASSISTANT:"),
        ("last", [user(A_VIDEO, "What?")], False, "USER: <video>\nWhat? "),
        # Rounds: the earlier ones as text, or a block before every answer.
        (
            "last",
            ROUNDS,
            False,
            "USER: <video>\nColour? ASSISTANT: Red</s>USER: Shape? ASSISTANT:<iva_query> Ring</s>",
        ),
        (
            "every",
            ROUNDS,
            False,
            "USER: <video>\nColour? ASSISTANT:<iva_query> Red</s>USER: Shape? ASSISTANT:<iva_query> Ring</s>",
        ),
        (
            "last",
            ROUNDS[:3],
            True,
            "USER: <video>\nColour? ASSISTANT: Red</s>USER: Shape? ASSISTANT:<iva_query>",
        ),
        (
            "every",
            ROUNDS[:3],
            True,
            "USER: <video>\nColour? ASSISTANT:<iva_query> Red</s>USER: Shape? ASSISTANT:<iva_query>",
        ),
        # An answer from before the first video.
        (
            "every",
            [*HELLO, *ROUNDS[:2]],
            False,
            "USER: Hi ASSISTANT: Hello</s>USER: <video>\nColour? ASSISTANT:<iva_query> Red</s>",
        ),
        (
            "last",
            [*HELLO, *ROUNDS[:2]],
            False,
            "USER: Hi ASSISTANT: Hello</s>USER: <video>\nColour? ASSISTANT:<iva_query> Red</s>",
        ),
        ("last", [*HELLO, user(A_VIDEO, "?")], False, "USER: Hi ASSISTANT: Hello</s>USER: <video>\n? "),
        (
            "last",
            [{"role": "system", "content": "Be brief."}, *ROUNDS[:1]],
            True,
            "Be brief. USER: <video>\nColour? ASSISTANT:<iva_query>",
        ),
    ],
)
def test_prompts(placement: str, messages: list[dict[str, Any]], asks: bool, prompt: str) -> None:
    processor = make_processor(query_placement=placement)
    assert processor.apply_chat_template(messages, add_generation_prompt=asks) == prompt
    # A call goes before the processor; and a model without the adapter has the same prompts without blocks.
    other = make_processor(query_placement="every" if placement == "last" else "last")
    written = other.apply_chat_template(messages, add_generation_prompt=asks, query_placement=placement)
    assert written == prompt
    bare = make_processor(num_query_tokens=0, query_placement=placement)
    assert bare.apply_chat_template(messages, add_generation_prompt=asks) == prompt.replace(QUERY_TOKEN, "")


def test_an_answer_begun_is_continued_behind_the_block() -> None:
    chat = [user(A_VIDEO, "What?"), assistant("A red")]
    prompt = make_processor().apply_chat_template(chat, continue_final_message=True)
    assert prompt == "USER: <video>\nWhat? ASSISTANT:<iva_query> A red"


def test_a_template_of_the_users_is_left_alone() -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    chat = [{"role": "user", "content": "Hi"}]
    assert make_processor().apply_chat_template(chat, chat_template=template) == "Hi"


def learned(processor: Any, messages: list[dict[str, Any]]) -> list[str]:
    """The runs of tokens that a trainer's labels hold."""
    messages = [
        {**message, "content": [{**block, "video": make_video()} if block == A_VIDEO else block for block in blocks]}
        for message in messages
        for blocks in [message["content"]]
    ]
    batch = VideoDataCollator(processor)([{"id": "1", "messages": messages}])
    labels = batch["labels"][0]
    assert not torch.isin(labels, torch.tensor([IMAGE, VIDEO, QUERY])).any()
    kept = labels != IGNORE_INDEX
    assert torch.equal(labels[kept], batch["input_ids"][0][kept])
    words = processor.tokenizer.convert_ids_to_tokens(labels.masked_fill(~kept, 0).tolist())
    return [run for run in "".join("|" if word == "<pad>" else word for word in words).split("|") if run]


def test_answers_are_learned_and_query_tokens_are_not() -> None:
    """With one block, its answer; with a block before each, all; without media or adapter, all."""
    every = [" Red</s>", " Ring</s>"]
    assert learned(make_processor(), ROUNDS) == every[1:]
    assert learned(make_processor(query_placement="every"), ROUNDS) == every
    assert learned(make_processor(num_query_tokens=0), ROUNDS) == every
    text_only = [*HELLO, user("Bye"), assistant("Bye")]
    assert learned(make_processor(), text_only) == [" Hello</s>", " Bye</s>"]
    assert learned(make_processor(), [*HELLO, *ROUNDS[:2]]) == every[:1]
    assert learned(make_processor(query_placement="every"), [*HELLO, *ROUNDS]) == [" Hello</s>", *every]


# ------------------------------------------------------------------------------------------------- placeholders


def test_placeholders_fit_the_model() -> None:
    processor, model = make_processor(), make_model()
    prompts = [f"<video> or <video>?{QUERY_TOKEN}", "Hello", f"<image>{QUERY_TOKEN}"]
    media = {"videos": [[make_video(), make_video(3)], [], []], "images": [[], [], [Image.new("RGB", (50, 30))]]}
    # 5.20 gives token types on request only.
    batch = processor(text=prompts, **media, padding=True, return_mm_token_type_ids=True, return_tensors="pt")
    assert placeholders(batch) == (2, 2 * (4 + 3), 2 * QUERIES)
    assert batch["num_video_frames"].tolist() == [4, 3]
    assert (batch["mm_token_type_ids"][batch["input_ids"] == QUERY] == 0).all()
    assert torch.isfinite(model(**batch).logits).all()
    assert processor.num_video_tokens(5) == model.config.num_video_tokens(5) == 10
    assert processor.num_image_tokens() == model.config.num_image_tokens() == 2


def test_the_block_ends_the_prompt() -> None:
    chat = [user({"type": "video", "video": make_video()}, "What?")]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ids = make_processor().apply_chat_template(chat, **options)["input_ids"][0].tolist()
    assert ids[-QUERIES:] == [QUERY] * QUERIES
    assert QUERY not in ids[:-QUERIES]
    assert QUERY not in make_processor(num_query_tokens=0).apply_chat_template(chat, **options)["input_ids"][0].tolist()


def test_query_tokens_in_prompts_written_by_hand() -> None:
    processor = make_processor()
    video = {"videos": make_video(), "return_tensors": "pt"}
    once = processor(text=f"<video>?{QUERY_TOKEN}", **video)["input_ids"]
    again = processor(text=f"<video>?{BLOCK}", **video)["input_ids"]
    assert torch.equal(once, again), "a prompt with whole blocks is left alone"
    with pytest.raises(ValueError, match=r"holds 2 <iva_query> in a row: write it once .* becomes 3"):
        processor(text=f"<video>?{QUERY_TOKEN * 2}", **video)
    bare = make_processor(num_query_tokens=0)(text=f"<video>?{QUERY_TOKEN}", **video)["input_ids"]
    assert QUERY not in bare[0].tolist()
    assert bare.shape[1] == once.shape[1] - QUERIES


def test_offsets_of_replacements() -> None:
    """They are what finds the answers behind expanded placeholders."""
    processor = make_processor()
    text, offsets = processor.get_text_with_replacements([f"a<video>b{QUERY_TOKEN}c<video>"], [], ["VV", "VVV"])
    assert text == [f"aVVb{BLOCK}cVVV"]
    for entry in offsets[0]:
        start, end = entry["new_span"]
        assert text[0][start:end] == entry["replacement"]
    assert [entry["span"] for entry in offsets[0]] == [(1, 8), (9, 20), (21, 28)]


def test_truncated_query_tokens_are_an_error() -> None:
    with pytest.raises(ValueError, match="Mismatch in `query` token count"):
        make_processor()(text=f"<video>?{QUERY_TOKEN}", videos=make_video(), truncation=True, max_length=11)


def test_query_tokens_that_a_user_wrote_stay_text() -> None:
    chat = [user({"type": "video", "video": make_video()}, f"What is {QUERY_TOKEN}?")]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    if "sanitize_control_tokens" not in inspect.signature(ProcessorMixin.apply_chat_template).parameters:
        pytest.skip("this release of transformers does not mark control tokens")
    batch = make_processor().apply_chat_template(chat, sanitize_control_tokens=True, **options)
    ids = batch["input_ids"][0].tolist()
    assert ids.count(QUERY) == QUERIES
    assert ids[-QUERIES:] == [QUERY] * QUERIES


def test_counts_for_serving_engines() -> None:
    counts = make_processor()._get_num_multimodal_tokens(image_sizes=[(9, 9)], video_sizes=[(NUM_FRAMES, 40, 60)])
    assert (counts["num_image_tokens"], counts["num_video_tokens"]) == ([2], [2 * NUM_FRAMES])


def test_errors_of_the_query_token() -> None:
    with pytest.raises(ValueError, match="The tokenizer has no token '<iva_query>'"):
        query_token_id(make_tokenizer(), QUERY_TOKEN)
    # In the vocabulary, but not as a token that text is searched for: here text is cut into single characters.
    vocabulary = {**make_tokenizer().get_vocab(), QUERY_TOKEN: QUERY}
    cutting = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    cutting.pre_tokenizer = Split("", "isolated")
    with pytest.raises(ValueError, match=r"splits '<iva_query>', .* tokens: call tokenizer.add_special_tokens"):
        query_token_id(PreTrainedTokenizerFast(tokenizer_object=cutting, unk_token="<unk>"), QUERY_TOKEN)
    # Without the adapter none is needed.
    bare = make_processor(num_query_tokens=0, tokenizer=make_tokenizer())
    assert bare.query_token_id is None
    assert bare.apply_chat_template([user(A_VIDEO, "?")], add_generation_prompt=True).endswith("ASSISTANT:")


def test_options_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="num_query_tokens must be at least 0, not -1"):
        make_processor(num_query_tokens=-1)
    with pytest.raises(ValueError, match="query_placement must be one of last, every, not 'first'"):
        make_processor(query_placement="first")
    chat = [user(A_VIDEO, "?")]
    with pytest.raises(ValueError, match="query_placement must be one of none, last, every, not 'first'"):
        make_processor().apply_chat_template(chat, query_placement="first")
    with pytest.raises(ValueError, match="query_placement='last', but num_query_tokens is 0"):
        make_processor(num_query_tokens=0).apply_chat_template(chat, query_placement="last")


def test_saved_processor_is_the_same_and_can_be_loaded_with_another_placement(tmp_path: Path) -> None:
    processor = make_processor(query_placement="every")
    processor.video_processor.max_frames = 5
    processor.save_pretrained(tmp_path)
    make_config().save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is IvaProcessor
    for name in ("query_token", "query_token_id", "num_query_tokens", "query_placement", "chat_template"):
        assert getattr(loaded, name) == getattr(processor, name)
    assert (loaded.video_processor.max_frames, loaded.video_processor.fps) == (5, 1.0)
    assert loaded.apply_chat_template(ROUNDS) == processor.apply_chat_template(ROUNDS)
    last = AutoProcessor.from_pretrained(tmp_path, query_placement="last")
    assert last.apply_chat_template(ROUNDS) == make_processor().apply_chat_template(ROUNDS)


def test_processor_options_of_a_configuration() -> None:
    assert processor_options(make_config(query_placement="every")) == {
        "num_query_tokens": QUERIES,
        "query_placement": "every",
        "image_temporal_token": True,
    }
    options = processor_options(make_config(num_insertions=0, image_temporal_token=False))
    assert make_processor(**options).num_query_tokens == 0
    assert make_processor(**options).num_image_tokens() == 1
