"""LinVT's processor: images and prompts as the image-LLM's own makes them, videos between, questions beside."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linvt_processors import PROCESSORS, WRITTEN_TOKENS, make_image_llm_processor, make_pair, make_processor
from PIL import Image
from tiny_image_llms import MODULE
from tiny_image_llms import make_processor as make_image_processor
from tiny_linvt import make_llava_processor
from transformers import AutoProcessor, AutoVideoProcessor
from transformers.video_utils import VideoMetadata

from hf_videollm import (
    LinVTConfig,
    LinVTForCausalLM,
    LinVTProcessor,
    LinVTVideoProcessor,
    MediaError,
    UnsafeURL,
    load_video,
)
from hf_videollm.models.linvt_frames import frame_inputs
from hf_videollm.models.linvt_prompts import question_of

NAME = "llava_siglip_phi"
TENSORS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
TOKENS = sum(MODULE["num_queries"])


def make_clip(seed: int = 0, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 60, 70, 3), dtype=np.uint8)


CLIP, OTHER, IMAGE = make_clip(), make_clip(1, 4), make_clip(2, 1)[0]


def ask(*media: Any, text: str = "What?") -> list[dict[str, Any]]:
    """A conversation of one message; arrays of four dimensions, and names of files, are videos."""

    def block(item: Any) -> dict[str, Any]:
        kind = "video" if isinstance(item, str) or item.ndim == 4 else "image"
        return {"type": kind, kind: item}

    return [{"role": "user", "content": [*map(block, media), {"type": "text", "text": text}]}]


def answered(chat: list[dict[str, Any]], answer: str = "Yes.", then: str | None = None) -> list[dict[str, Any]]:
    further = [{"role": "user", "content": [{"type": "text", "text": then}]}] if then else []
    return [*chat, {"role": "assistant", "content": [{"type": "text", "text": answer}]}, *further]


def process(processor: Any, chat: Any, **kwargs: Any) -> Any:
    return processor.apply_chat_template(chat, **{**TENSORS, **kwargs})


def asked(processor: LinVTProcessor, batch: Any) -> list[str]:
    """The questions of a batch as text."""
    masks = batch["question_attention_mask"].bool()
    rows = zip(batch["question_input_ids"], masks, strict=True)
    return ["".join(processor.tokenizer.convert_ids_to_tokens(ids[mask].tolist())) for ids, mask in rows]


def assert_equal(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name in right:
        assert torch.equal(left[name], right[name]), name


# Images


@pytest.mark.parametrize("name", PROCESSORS)
def test_prompts_without_videos_are_the_image_llms_own(name: str) -> None:
    processor, inner = make_processor(name), make_image_llm_processor(name)
    for chat in (ask(IMAGE), ask(IMAGE, IMAGE[:30]), ask(text="Hello there"), [ask(IMAGE)]):
        assert_equal(process(processor, chat), process(inner, chat))
    text = inner.apply_chat_template(ask(IMAGE), add_generation_prompt=True)
    options = {"return_tensors": "pt"}
    found = processor(images=[IMAGE], text=[text], **options)
    assert_equal(found, inner(images=[IMAGE], text=[text], **options))
    assert not any(key.endswith("_videos") or key.startswith("question") for key in found)


@pytest.mark.parametrize("name", PROCESSORS)
def test_videos_stand_where_the_template_puts_images(name: str) -> None:
    """The prompt is that of images, with placeholders of a video where it was one; images keep what is written."""
    processor, inner = make_processor(name), make_image_llm_processor(name)
    mixed = process(processor, ask(CLIP, IMAGE, OTHER))
    types = mixed["mm_token_type_ids"][0]
    # The image's part: between the two runs of the videos.
    runs = (types == 2).int().diff(prepend=torch.zeros(1, dtype=torch.int)).nonzero().flatten()
    assert [int(runs[1] - runs[0]), int(runs[3] - runs[2])] == [TOKENS, TOKENS]
    assert set(mixed["input_ids"][0][types == 2].tolist()) == {processor.video_token_id}
    alone = process(inner, ask(IMAGE))
    for key in alone:
        if key not in processor.PROMPT_KEYS:
            assert torch.equal(mixed[key], alone[key]), key
    # Without the placeholders of videos it reads as the prompt of three images with two of them cut out.
    image_text = inner.tokenizer.decode(alone["input_ids"][0])
    shown = processor.apply_chat_template(ask(CLIP, IMAGE, OTHER))
    written = inner.tokenizer.decode(mixed["input_ids"][0][types != 2])
    around = PROCESSORS[name][4].split(inner.image_token)
    bare = inner.tokenizer.decode(inner.tokenizer(around[0] + around[1] + "\n", add_special_tokens=False)["input_ids"])
    assert written.replace(" ", "").replace(bare.replace(" ", ""), "") == image_text.replace(" ", "").replace(
        bare.replace(" ", ""), ""
    )
    assert shown.count(processor.video_token) == 2


@pytest.mark.parametrize("name", PROCESSORS)
def test_frames_are_what_the_image_processor_makes_of_them(name: str) -> None:
    processor = make_processor(name)
    batch = process(processor, ask(CLIP, OTHER), processor_kwargs={"num_frames": 2})
    # The middles of equal parts.
    frames = [[clip[index] for index in chosen] for clip, chosen in ((CLIP, (1, 3)), (OTHER, (1, 3)))]
    expected = frame_inputs(make_image_processor(name), processor.image_llm_type, frames)
    for key, value in expected.items():
        torch.testing.assert_close(batch[key], value, msg=key)


@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_what_it_makes_fits_the_model(name: str) -> None:
    """Rows joined by `collate`, and rows processed together, answer as each row alone, with media and without."""
    model, processor = make_pair(name)
    chats = [ask(CLIP, IMAGE, CLIP[:2]), ask(IMAGE), ask(text="Hi"), ask(OTHER, text="Why is it so?")]
    options = {"add_generation_prompt": True}
    rows = [process(processor, chat, **options) for chat in chats]
    alone = torch.cat([model(**row).logits[:, -1] for row in rows])
    processor.tokenizer.padding_side = "left"
    together = process(processor, chats, **options, processor_kwargs={"padding": True})
    for batch in (processor.collate(rows, "left"), together):
        assert next(iter(batch)) == "input_ids"
        torch.testing.assert_close(model(**batch).logits[:, -1], alone, atol=2e-5, rtol=0)
    # Controls: other frames, and another question, answer otherwise.
    for other in (ask(make_clip(7, 4), text="Why is it so?"), ask(OTHER, text="Where to?")):
        row = process(processor, other, **options)
        assert (model(**row).logits[0, -1] - alone[3]).abs().max() > 1e-3


def test_options_of_images_and_of_frames() -> None:
    """What an image processor knows holds for both, unless it stands in the options of one of them."""
    processor = make_processor(NAME)
    plain = process(processor, ask(CLIP, IMAGE))
    off = {"do_normalize": False}
    for options, changed in (
        (off, {"pixel_values", "pixel_values_videos"}),
        ({"images_kwargs": off}, {"pixel_values"}),
        ({"videos_kwargs": off}, {"pixel_values_videos"}),
    ):
        batch = process(processor, ask(CLIP, IMAGE), processor_kwargs=options)
        assert {key for key in plain if not torch.equal(batch[key], plain[key])} == changed
    for options in ({"num_frames": 2}, {"videos_kwargs": {"num_frames": 2}}):
        batch = process(processor, ask(CLIP, IMAGE), processor_kwargs=options)
        assert batch["num_video_frames"].tolist() == [2]
        assert torch.equal(batch["pixel_values"], plain["pixel_values"])
    with pytest.raises(ValueError, match="num_frames was passed twice, by itself and in videos_kwargs"):
        process(processor, ask(CLIP), processor_kwargs={"num_frames": 2, "videos_kwargs": {"num_frames": 3}})
    # Frames may be made smaller before the image processor sees them.
    small = make_processor(NAME)
    small.video_processor = LinVTVideoProcessor(num_frames=3, do_resize=True, size={"height": 8, "width": 8})
    frames = process(small, ask(CLIP))["pixel_values_videos"]
    assert frames.shape == plain["pixel_values_videos"].shape
    assert not torch.equal(frames, plain["pixel_values_videos"])


def test_frames_are_never_cut_into_tiles() -> None:
    processor = make_processor("internvl")
    for options in ({"crop_to_patches": True}, {"videos_kwargs": {"crop_to_patches": True}}):
        batch = process(processor, ask(CLIP), processor_kwargs=options)
        assert len(batch["pixel_values_videos"]) == batch["num_video_frames"].sum() == 3
    # The size of frames decides their number of tokens in some families, and may be asked for.
    processor = make_processor("qwen2_vl")
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    batch = process(processor, ask(CLIP, IMAGE), processor_kwargs={"videos_kwargs": {"size": size}})
    assert batch["image_grid_thw_videos"].tolist() == [[1, 2, 2]] * 3
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_options_beside_the_template_lose_nothing() -> None:
    """What a caller passes outside of `processor_kwargs`, a variable of the template or something else."""
    processor = make_processor(NAME)
    expected = process(processor, ask(CLIP, IMAGE), processor_kwargs={"num_frames": 2})
    found = process(processor, ask(CLIP, IMAGE), processor_kwargs={"num_frames": 2}, padding=True)
    assert_equal(found, expected)
    assert_equal(process(processor, ask(CLIP, IMAGE), num_frames=2), expected)
    for option in ({"enable_thinking": True}, {"max_new_tokens": 8}):
        with pytest.raises(TypeError, match=f"with this chat template has no option '{next(iter(option))}'"):
            process(processor, ask(CLIP, IMAGE), processor_kwargs={"num_frames": 2}, **option)
    template = "{% if enable_thinking %}Think. {% endif %}" + processor.chat_template
    said = [processor.apply_chat_template(ask(IMAGE), template, enable_thinking=on) for on in (True, False)]
    assert said[0] == "Think. " + said[1]


# Questions


def test_the_question_is_the_first_and_with_recondition_the_last() -> None:
    processor = make_processor(NAME)
    chat = answered(ask(CLIP, text="What moves?"), then="And why?")
    assert asked(processor, process(processor, chat)) == ["What moves?"]
    assert asked(processor, process(processor, chat, recondition=True)) == ["And why?"]
    assert asked(processor, process(processor, chat, processor_kwargs={"recondition": True})) == ["And why?"]
    processor.recondition = True
    assert asked(processor, process(processor, chat)) == ["And why?"]
    assert asked(processor, process(processor, chat, recondition=False)) == ["What moves?"]
    said = process(processor, chat, processor_kwargs={"questions": ["Who?"]})
    assert asked(processor, said) == ["Who?"]
    with pytest.raises(TypeError, match="recondition was passed twice"):
        process(processor, chat, recondition=True, processor_kwargs={"recondition": False})


def test_where_a_question_is_found() -> None:
    video = {"type": "video", "video": CLIP}
    silent = {"role": "user", "content": [video]}
    spoken = {"role": "user", "content": "And now? "}
    parts = {"role": "user", "content": [{"type": "text", "text": "One"}, video, {"type": "text", "text": "two?"}]}
    system = {"role": "system", "content": "Be brief."}
    assert question_of([system, silent]) is None
    assert question_of([system, silent, spoken]) == "And now?"
    assert question_of([parts, spoken]) == "One\ntwo?"
    assert question_of([parts, spoken], last=True) == "And now?"
    assert question_of([{"role": "assistant", "content": "No?"}, spoken]) == "And now?"


def test_questions_of_a_batch_are_padded_and_masked() -> None:
    processor = make_processor(NAME)
    silent = [{"role": "user", "content": [{"type": "video", "video": OTHER}]}]
    batch = process(processor, [ask(CLIP), silent, ask(CLIP, text="Why is it so?")], processor_kwargs={"padding": True})
    assert asked(processor, batch) == ["What?", "", "Why is it so?"]
    assert batch["question_attention_mask"].sum(1).tolist() == [5, 0, 13]
    assert batch["question_input_ids"].shape == (3, 13)
    only_silent = process(processor, silent)
    assert only_silent["question_attention_mask"].tolist() == [[0]]


@torch.no_grad()
def test_a_row_without_a_question_is_read_for_none() -> None:
    model, processor = make_pair(NAME)
    silent = process(processor, [{"role": "user", "content": [{"type": "video", "video": OTHER}]}])
    keys = ("question_input_ids", "question_attention_mask")
    without = {key: value for key, value in silent.items() if key not in keys}
    torch.testing.assert_close(model(**silent).logits, model(**without).logits, atol=1e-5, rtol=0)
    batch = process(
        processor,
        [[{"role": "user", "content": [{"type": "video", "video": OTHER}]}], ask(CLIP)],
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    length = silent["input_ids"].shape[1]
    torch.testing.assert_close(model(**batch).logits[:1, :length], model(**silent).logits, atol=1e-5, rtol=0)


def test_a_prompt_of_ones_own_needs_the_question_said() -> None:
    """The prompt does not tell which part of it asks: with `questions` it equals the chat, else one is warned."""
    processor = make_processor(NAME)
    chat = ask(CLIP, IMAGE, text="What?")
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "USER: <video>\n<image>\nWhat? ASSISTANT:"
    call = {"images": [IMAGE], "videos": [CLIP], "return_tensors": "pt"}
    expected = process(processor, chat, add_generation_prompt=True)
    for questions in ("What?", ["What?"]):
        assert_equal(processor(text=text, questions=questions, **call), expected)
    with pytest.warns(UserWarning, match=r"was given none: pass questions=\[...\]"):
        silent = processor(text=text, **call)
    assert silent["question_attention_mask"].sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(processor(text=text, questions=[None], **call), silent)
        processor(text="USER: <image>\nWhat?", images=[IMAGE])
    with pytest.raises(ValueError, match="2 questions for 1 prompts"):
        processor(text=text, questions=["What?", "Why?"], **call)


# Training


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_assistants_words_are_found_behind_placeholders(name: str) -> None:
    processor = make_processor(name)
    chats = [
        answered(answered(ask(CLIP, IMAGE, text="What?"), "A bird.", then="Why so?"), "It flies."),
        answered(ask(IMAGE, text="How many?"), "Two."),
        answered(ask(OTHER, text="Which?"), "The first."),
    ]
    batch = process(processor, chats, return_assistant_tokens_mask=True, processor_kwargs={"padding": True})
    ids, masks = batch["input_ids"], torch.as_tensor(batch["assistant_masks"]).bool()
    tokens = [
        processor.tokenizer.convert_ids_to_tokens(row[mask].tolist()) for row, mask in zip(ids, masks, strict=True)
    ]
    assert ["".join(row) for row in tokens] == ["A bird.</s>It flies.</s>", "Two.</s>", "The first.</s>"]


# Times


def test_times_of_files_are_known(clips: list[str]) -> None:
    processor = make_processor(NAME)
    batch = process(processor, ask(clips[0], CLIP, clips[1]), processor_kwargs={"num_frames": 4})
    _, metadata = load_video(clips[0], num_frames=4)
    times = batch["video_frame_times"]
    assert times.dtype == torch.float32
    assert times[0].tolist() == pytest.approx(metadata.timestamps)
    # Of an array without metadata nothing is known: its frames are numbered.
    assert times[1].tolist() == [0, 1, 2, 3]
    start = process(processor, ask(clips[0]), processor_kwargs={"num_frames": 2, "start": 0.5})["video_frame_times"]
    _, later = load_video(clips[0], num_frames=2, start=0.5)
    assert start[0].tolist() == pytest.approx([time - 0.5 for time in later.timestamps], abs=0.05)
    assert 0 <= start.min() < later.timestamps[0]
    processor.use_frame_times = False
    assert "video_frame_times" not in process(processor, ask(clips[0]))


def test_times_of_arrays_come_with_them() -> None:
    processor = make_processor(NAME)
    known = VideoMetadata(total_num_frames=5, fps=2.0)
    batch = process(processor, ask(CLIP), processor_kwargs={"video_metadata": [known], "do_sample_frames": False})
    assert batch["video_frame_times"].tolist() == [[0, 0.5, 1, 1.5, 2]]
    given = {"videos_kwargs": {"frame_times": [[0, 1, 4, 5, 9]], "do_sample_frames": False}}
    assert process(processor, ask(CLIP), processor_kwargs=given)["video_frame_times"].tolist() == [[0, 1, 4, 5, 9]]
    with pytest.raises(ValueError, match=r"5 frame_times for 3 frames.*do_sample_frames=False"):
        process(processor, ask(CLIP), processor_kwargs={"frame_times": [[0, 1, 4, 5, 9]]})
    with pytest.raises(ValueError, match="frame_times has 1 entries for 2 videos"):
        process(processor, ask(CLIP, OTHER), processor_kwargs={"frame_times": [None]})


def test_chosen_frames_keep_the_times_that_their_metadata_names() -> None:
    processor = make_processor(NAME)
    known = VideoMetadata(total_num_frames=900, fps=30.0, frames_indices=[0, 90, 300, 600, 870])
    options = {"video_metadata": [known], "do_sample_frames": False}
    batch = process(processor, ask(CLIP), processor_kwargs=options)
    assert batch["video_frame_times"].tolist() == [[0, 3, 10, 20, 29]]


@torch.no_grad()
def test_times_reach_the_model_and_survive_batching(clips: list[str]) -> None:
    model, processor = make_pair(NAME)
    chats = [ask(clips[0]), ask(CLIP)]
    rows = [process(processor, chat) for chat in chats]
    batch = processor.collate(rows, "right")
    assert batch["video_frame_times"][1].tolist() == [0, 1, 2]
    for index, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        torch.testing.assert_close(model(**batch).logits[index, :length], model(**row).logits[0], atol=1e-5, rtol=0)
    numbered = {key: value for key, value in rows[0].items() if key != "video_frame_times"}
    assert (model(**numbered).logits - model(**rows[0]).logits).abs().max() > 1e-3


# Saving


@pytest.mark.parametrize("name", ["llava_clip_llama", "qwen2_vl", "internvl", "aya_vision", "gemma3", "molmo2"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    processor = make_processor(name)
    processor.recondition = True
    processor.use_frame_times = False
    processor.video_processor.num_frames = 2
    processor.save_pretrained(tmp_path)
    chat = answered(ask(CLIP, IMAGE), then="Why?")
    expected = process(processor, chat)
    for loaded in (AutoProcessor.from_pretrained(tmp_path), LinVTProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is LinVTProcessor
        assert type(loaded.image_llm_processor) is type(processor.image_llm_processor)
        assert loaded.image_llm_processor.tokenizer is loaded.tokenizer
        assert loaded.image_llm_processor.image_processor is loaded.image_processor
        assert loaded.image_llm_processor.to_dict().keys() == processor.image_llm_processor.to_dict().keys()
        assert_equal(process(loaded, chat), expected)
        assert asked(loaded, process(loaded, chat)) == ["Why?"]
        assert not loaded.use_frame_times
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is LinVTVideoProcessor
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "processor_config.json").read_text()) == json.loads(
        (tmp_path / "processor_config.json").read_text()
    )
    # The tokenizer lies there once, and the image processor in one place.
    assert "image_processor" not in json.loads((tmp_path / "processor_config.json").read_text())["image_llm_processor"]


def test_from_image_llm_takes_the_arguments_of_the_model(tiny_image_llm: str) -> None:
    module = {**MODULE, "num_queries": [2, 1], "pool_windows": [1, 2]}
    model = LinVTForCausalLM.from_image_llm(tiny_image_llm, linvt_config=module, num_frames=2)
    processor = LinVTProcessor.from_image_llm(tiny_image_llm, linvt_config=module, num_frames=2)
    config = model.config
    assert processor.num_video_tokens(9) == config.num_video_tokens(9) == 3
    assert processor.video_processor.num_frames == config.num_frames == 2
    assert (processor.image_token_id, processor.video_token_id) == (config.image_token_id, config.video_token_id)
    batch = process(processor, ask(CLIP, OTHER))
    with torch.no_grad():
        assert model(**batch).logits.shape[:2] == batch["input_ids"].shape
    told = LinVTProcessor.from_image_llm(tiny_image_llm, use_frame_times=False, recondition=True)
    assert (told.use_frame_times, told.recondition) == (False, True)
    assert (processor.use_frame_times, processor.recondition) == (True, False)
    assert "video_frame_times" not in process(told, ask(CLIP))
    with_paper = LinVTProcessor.from_image_llm(tiny_image_llm)
    assert with_paper.num_video_tokens(9) == 112
    own_template = LinVTProcessor.from_image_llm(tiny_image_llm, chat_template="{{ messages[0]['role'] }}")
    assert own_template.apply_chat_template(ask(text="Hi")) == "user"


# Bad input


def test_a_video_llm_is_no_image_llm(tiny_linvt_checkpoint: str, tiny_checkpoint: str, tiny_image_llm: str) -> None:
    for folder in (tiny_linvt_checkpoint, tiny_checkpoint):
        for made in (LinVTForCausalLM, LinVTProcessor):
            with pytest.raises(ValueError, match="is a video-LLM already"):
                made.from_image_llm(folder)
    for made in (LinVTForCausalLM, LinVTProcessor):
        with pytest.raises(
            ValueError, match=r"linvt_config has no num_heads: it takes num_layers, num_attention_heads"
        ):
            made.from_image_llm(tiny_image_llm, linvt_config={"num_heads": 2})


def test_a_question_with_the_placeholder_of_images() -> None:
    processor = make_processor(NAME)
    with pytest.raises(ValueError, match=r"take .* out of the texts of its messages"):
        process(processor, ask(CLIP, text=f"What is {processor.image_token}?"))


def test_errors_name_the_mend(clips: list[str]) -> None:
    processor = make_processor(NAME)
    call = {"return_tensors": "pt", "questions": [None]}
    with pytest.raises(ValueError, match=r"hold \[1\] places of videos, but 2 videos were passed: write <video> once"):
        processor(text="<video>", videos=[CLIP, OTHER], **call)
    with pytest.raises(ValueError, match=r"hold \[1, 1\] places of videos, but \[2, 0\] videos"):
        processor(text=["<video>", "<video>"], videos=[[CLIP, OTHER], []], questions=[None, None])
    with pytest.raises(ValueError, match=r"hold \[1\] places of videos, but 0 videos"):
        processor(text="<video>", **call)
    with pytest.raises(ValueError, match=r"block of type video names no video"):
        process(processor, [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}])
    with pytest.raises(ValueError, match=r"wrote 0 <image> for 1 images and videos of conversation 0"):
        process(processor, ask(CLIP), chat_template="{{ messages[0]['role'] }}")
    cut = {"truncation": True, "max_length": 8}
    with pytest.raises(ValueError, match="Mismatch in `image` token count"):
        process(processor, ask(CLIP), processor_kwargs=cut)
    # Its processor looks after no placeholders where there are no images.
    with pytest.raises(ValueError, match="should hold 7 placeholders and holds 2"):
        process(make_processor("idefics3"), ask(CLIP), processor_kwargs=cut)
    with pytest.raises(ValueError, match="at least one of text, images and videos"):
        processor()
    with pytest.raises(ValueError, match="U\\+FDD0"):
        processor(text="<video>\ufdd0", videos=[CLIP], **call)
    with pytest.raises(ValueError, match="floating-point numbers; pass uint8"):
        process(processor, ask(CLIP / 255.0))
    with pytest.raises(ValueError, match="exclude each other"):
        process(processor, ask(clips[0]), processor_kwargs={"num_frames": 2, "fps": 1.0})
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        process(processor, ask("gone.mp4"))
    for media in (["https://example.com/a.png"], [["https://example.com/a.png"]]):
        with pytest.raises(UnsafeURL, match=r"example\.com"):
            processor(text="<image>", images=media)
    with pytest.warns(UserWarning, match="cannot hear"):
        processor(text="Hello", audio=np.zeros(10))


def test_a_processor_of_another_image_llm_is_refused(tiny_image_llm: str) -> None:
    inner = make_llava_processor()
    config = LinVTConfig(image_token_id=17)
    with pytest.raises(ValueError, match="LlavaProcessor writes <image> for images, which is not id 17"):
        LinVTProcessor.from_image_llm_processor(inner, config)
    with pytest.raises(ValueError, match="CLIPImageProcessor is no processor for images and text"):
        LinVTProcessor.from_image_llm_processor(inner.image_processor, config)
    with pytest.raises(ValueError, match="no token of id 5000, the placeholder of videos"):
        LinVTProcessor.from_image_llm(tiny_image_llm, video_token_id=5000)
    with pytest.raises(ValueError, match=r"use LinVTProcessor\.from_image_llm"):
        LinVTProcessor(inner.image_processor, inner.tokenizer, LinVTVideoProcessor())
    with pytest.raises(ValueError, match="has no GoneProcessor"):
        LinVTProcessor(
            inner.image_processor, inner.tokenizer, LinVTVideoProcessor(), {"processor_class": "GoneProcessor"}
        )


def test_a_placeholder_of_their_own_for_videos(tiny_image_llm: str) -> None:
    """Where the tokenizer has one, a prompt of one's own names it, and ids tell videos from images."""
    processor = LinVTProcessor.from_image_llm(tiny_image_llm, linvt_config=MODULE, video_token_id=5)
    assert processor.video_token == "<video>"
    batch = process(processor, ask(CLIP, IMAGE))
    ids, types = batch["input_ids"], batch["mm_token_type_ids"]
    assert torch.equal(ids == 5, types == 2)
    assert torch.equal(ids == 4, types == 1)
    model = LinVTForCausalLM.from_image_llm(tiny_image_llm, linvt_config=MODULE, video_token_id=5)
    with torch.no_grad():
        expected = model(**batch).logits
        del batch["mm_token_type_ids"]
        assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("name", WRITTEN_TOKENS)
def test_what_is_written_is_what_the_model_reads(name: str) -> None:
    processor = make_processor(name)
    assert processor.tokenizer.convert_ids_to_tokens(processor.image_token_id) == WRITTEN_TOKENS[name]
    assert processor.image_token != WRITTEN_TOKENS[name]


def test_lists_and_arrays(clips: list[str]) -> None:
    processor = make_processor(NAME)
    call = {"text": "<video>What?", "videos": clips[0], "questions": "What?"}
    tensors = processor(**call, return_tensors="pt")
    for kind in (None, "np"):
        batch = processor(**call, **({} if kind is None else {"return_tensors": kind}))
        for key in ("input_ids", "mm_token_type_ids", "question_input_ids", "question_attention_mask"):
            assert isinstance(batch[key], list if kind is None else np.ndarray), key
            assert np.array_equal(batch[key], tensors[key]), key


def test_media_without_text() -> None:
    processor = make_processor(NAME)
    batch = processor(videos=[CLIP, OTHER], return_tensors="pt")
    assert set(batch) == {"pixel_values_videos", "num_video_frames", "video_frame_times"}
    pictures = [Image.fromarray(frame) for frame in OTHER]
    found = processor(videos=[pictures], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(found, processor(videos=[OTHER], return_tensors="pt")["pixel_values_videos"])


def test_serving_engines_are_told_numbers() -> None:
    processor = make_processor("qwen2_vl")
    data = processor._get_num_multimodal_tokens(image_sizes=[(56, 56)], video_sizes=[(4, 56, 56), (9, 56, 56)])
    assert data.num_video_tokens == [TOKENS, TOKENS]
    assert data.num_image_tokens == [4]
    names = processor.model_input_names
    assert {"input_ids", "pixel_values", "image_grid_thw", "pixel_values_videos", "image_grid_thw_videos"} <= set(names)
    batch = process(processor, ask(CLIP, IMAGE))
    assert set(batch) <= set(names)
