"""Tokenizer, placeholder ids, prompts and generation settings of converted checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from pllava_sources import (
    IMAGE_ID,
    base_tensors,
    partial_tensors,
    raw_config,
    released_tensors,
    write_source,
    write_tokenizer,
)
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from hf_videollm import PllavaForConditionalGeneration, PllavaProcessor
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.models.errors import CheckpointError

CLIP = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A released checkpoint without tokenizer."""
    return write_source(tmp_path / "source", released_tensors(), raw_config())


def test_the_processor_shares_the_ids_of_the_model(source: Path, tmp_path: Path) -> None:
    report = convert_pllava(write_tokenizer(source), tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert isinstance(processor, PllavaProcessor)
    assert config.image_token_id == processor.image_token_id == report.token_ids["image"] == IMAGE_ID
    assert config.video_token_id == processor.video_token_id == report.token_ids["video"] == IMAGE_ID + 1
    assert processor.tokenizer.padding_side == "left"
    assert processor.pooling_shape == [2, 2, 2]
    video = processor.video_processor
    assert (video.num_frames, video.resize_mode, video.size.shortest_edge) == (2, "pllava", 16)
    assert (video.crop_size.height, processor.image_processor.crop_size.height) == (16, 16)
    inputs = processor(text="USER: <video> what", videos=[CLIP], return_tensors="pt")
    assert (inputs["input_ids"] == config.video_token_id).sum() == 8
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_generation_settings_are_greedy_with_the_ids_of_the_source(source: Path, tmp_path: Path) -> None:
    write_tokenizer(source)
    stored = {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 3, "max_length": 4096, "do_sample": True}
    (source / "generation_config.json").write_text(json.dumps(stored))
    report = convert_pllava(source, tmp_path / "out")
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 7, 3)
    assert not settings.do_sample
    assert settings.max_length != 4096
    assert "answers end at the token id 7" in " ".join(report.notes)


def test_the_tokenizer_wins_over_the_config(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", released_tensors(), raw_config(image_token_index=102))
    report = convert_pllava(write_tokenizer(source), tmp_path / "out")
    assert report.token_ids == {"image": IMAGE_ID, "video": IMAGE_ID + 1}
    assert "image_token_index is 102 in config.json and 100 in the tokenizer" in report.notes[0]
    # Also over an index that the vocabulary does not have.
    raw = raw_config(image_token_index=64002)
    source = write_tokenizer(write_source(tmp_path / "beyond", released_tensors(), raw))
    assert convert_pllava(source, tmp_path / "out", overwrite=True).token_ids["image"] == IMAGE_ID


def test_a_tokenizer_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    write_tokenizer(source, image_id=130)
    with pytest.raises(CheckpointError, match=r"has <image> as id 130, outside of the vocabulary of 120"):
        convert_pllava(source, tmp_path / "out")


def test_a_tokenizer_without_image_token_gets_one(source: Path, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer", image_id=None, size=IMAGE_ID)
    report = convert_pllava(source, tmp_path / "out", tokenizer=tokenizer)
    assert report.token_ids == {"image": IMAGE_ID, "video": IMAGE_ID + 1}
    assert "<image> was added to the tokenizer" in report.notes[0]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [IMAGE_ID, IMAGE_ID + 1]


def test_a_full_vocabulary_shares_the_placeholder(source: Path, tmp_path: Path) -> None:
    write_tokenizer(source, size=120)
    report = convert_pllava(source, tmp_path / "out")
    assert report.token_ids == {"image": IMAGE_ID, "video": IMAGE_ID}
    assert "has no free row for <video>" in report.notes[0]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert "<video>" not in processor.chat_template
    chat = [{"role": "user", "content": [{"type": "video", "path": "clip"}, {"type": "text", "text": "what"}]}]
    assert "<image>" in processor.apply_chat_template(chat, tokenize=False)


def test_a_shared_placeholder_serves_videos(source: Path, tmp_path: Path) -> None:
    convert_pllava(write_tokenizer(source, size=120), tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    inputs = processor(text="USER: <image> what", videos=[CLIP], return_tensors="pt")
    assert (inputs["input_ids"] == IMAGE_ID).sum() == 8
    assert model(**inputs).logits.isfinite().all()
    picture = Image.new("RGB", (40, 40))
    still = processor(text="USER: <image> what", images=[picture], return_tensors="pt")
    assert model(**still).logits.isfinite().all()
    with pytest.raises(ValueError, match="cannot hold both"):
        processor(text="<image> <image>", videos=[CLIP], images=[picture])


def test_the_last_row_of_the_vocabulary_is_used(source: Path, tmp_path: Path) -> None:
    write_tokenizer(source, size=119)
    assert convert_pllava(source, tmp_path / "out").token_ids["video"] == 119


def test_without_a_tokenizer_the_weights_are_converted_all_the_same(source: Path, tmp_path: Path) -> None:
    report = convert_pllava(source, tmp_path / "out")
    assert not report.has_processor
    assert report.notes[0].startswith("no tokenizer found: processor files not written; pass --tokenizer FOLDER")
    assert report.token_ids == {"image": IMAGE_ID, "video": IMAGE_ID}
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    PllavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no tokenizer"):
        convert_pllava(source, tmp_path / "again", tokenizer=tmp_path / "empty")


def test_the_tokenizer_of_the_base_serves_when_the_source_has_none(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", partial_tensors(), raw_config())
    base = write_tokenizer(write_source(tmp_path / "base", base_tensors()))
    assert convert_pllava(source, tmp_path / "out", base=base).has_processor


def test_pixels_are_treated_as_the_checkpoint_says(source: Path, tmp_path: Path) -> None:
    stored = {
        "image_processor_type": "LlavaNextImageProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_grid_pinpoints": [[336, 672]],
        "crop_size": {"height": 336, "width": 336},
        "size": {"shortest_edge": 336},
        "resample": 3,
    }
    (write_tokenizer(source) / "preprocessor_config.json").write_text(json.dumps(stored))
    report = convert_pllava(source, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    for part in (processor.image_processor, processor.video_processor):
        assert list(part.image_mean) == [0.5, 0.5, 0.5]
        assert part.crop_size.height == 16
    assert "does not fit the vision tower: 16 is used" in " ".join(report.notes)


def chatml_processor(source: Path, out: Path) -> PllavaProcessor:
    convert_pllava(write_tokenizer(source, chatml=True), out)
    return AutoProcessor.from_pretrained(out)


def test_the_34b_prompts_are_those_of_the_original(goldens: Path, source: Path, tmp_path: Path) -> None:
    processor = chatml_processor(source, tmp_path / "out")
    prompts = json.loads((goldens / "pllava" / "prompts" / "prompts.json").read_text())
    rendered, templates = prompts["rendered"], prompts["templates"]

    def render(*turns: tuple[str, ...], generate: bool = True) -> str:
        blocks = {"V": {"type": "video"}}
        chat = [
            {"role": role, "content": [blocks.get(text, {"type": "text", "text": text}) for text in texts]}
            for role, *texts in turns
        ]
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate)
        return text.replace("<video>", "<image>")

    question = "Describe the video in details."
    system = templates["eval_vcg_llavanext"]["system"]
    text = render(("system", system), ("user", "V"), ("user", question))
    assert text == rendered["eval_vcg_llavanext|describe"]
    system = templates["eval_videoqa_llavanext"]["system"]
    text = render(("system", system), ("user", "V", question))
    assert text == rendered["eval_videoqa_llavanext|describe"]
    talk = [("assistant", "A dog."), ("user", "Where?"), ("assistant", "Outside.")]
    text = render(("system", "Watch the video."), ("user", "V", "What is shown?"), *talk, generate=False)
    # Training puts no space between the video and the question.
    assert text.replace("\n What", "\nWhat") == rendered["train|yi|mm_alone=False|qa"]


def test_tokenizers_with_chatml_get_its_template(source: Path, tmp_path: Path) -> None:
    processor = chatml_processor(source, tmp_path / "out")
    chat = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    text = processor.apply_chat_template(chat, tokenize=False)
    assert text == "<|im_start|>user\n<video>\n what<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    text = processor.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert text == "<|im_start|>user\n<video>\n what<|im_end|>\n<|im_start|>assistant\nred"
