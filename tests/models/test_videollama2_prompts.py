"""Prompts, token ids and numbers of placeholders of VideoLLaMA2 against the original, and what is learned of them."""

import json
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoint import make_tokenizer
from transformers import AutoTokenizer, LlavaImageProcessor

from hf_videollm.convert.videollama2.tokenizer import prepare_tokenizer
from hf_videollm.models.chat_template_videollama2 import (
    MISTRAL_BODY,
    MISTRAL_SYSTEM_PROMPT,
    default_chat_template,
    wrap_chat_template,
)
from hf_videollm.models.configuration_videollama2 import VideoLlama2Config
from hf_videollm.models.processing_videollama2 import VideoLlama2Processor, processor_options
from hf_videollm.models.video_processing_videollama2 import VideoLlama2VideoProcessor

SMALL = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
VIDEO = {"type": "video"}
IMAGE = {"type": "image"}
SYSTEM = {"role": "system", "content": "Be brief."}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": words}


def tiny_processor(**options: Any) -> VideoLlama2Processor:
    """A processor with one token per character, for four tokens a video of four frames, and one for an image."""
    return VideoLlama2Processor(
        LlavaImageProcessor(**SMALL),
        make_tokenizer(),
        VideoLlama2VideoProcessor(**SMALL, num_frames=4),
        **{"patch_grid": (4, 2), "image_num_frames": 2, **options},
    )


# ------------------------------------------------------------------------------------------ numbers of placeholders


@pytest.mark.parametrize(
    ("connector", "grid", "counts"),
    [
        # 8 and 16 frames, as measured with the original (docs/designs/videollama2.md#types-of-connector).
        ("stc_connector", 24, [845, 1521]),
        ("stc_connector", 27, [980, 1764]),
        ("stc_connector_v35", 24, [576, 1152]),
        ("stc_connector_v35", 27, [676, 1352]),
        ("stp_connector", 24, [576, 1152]),
        ("spatial_pool", 24, [1152, 2304]),
        ("spatial_pool", 27, [1352, 2704]),
        ("spatial_conv", 24, [1690, 3042]),
        ("mlp2x_gelu", 24, [576, 576]),
        ("linear", 27, [729, 729]),
    ],
)
def test_processor_counts_as_the_model(connector: str, grid: int, counts: list[int]) -> None:
    tower = {"model_type": "clip_vision_model", "image_size": 14 * grid, "patch_size": 14}
    config = VideoLlama2Config(vision_config=tower, connector_type=connector, num_frames=8)
    processor = tiny_processor(**processor_options(config))
    assert [processor.num_video_tokens(8), processor.num_video_tokens(16)] == counts
    assert [config.num_video_tokens(8), config.num_video_tokens(16)] == counts
    assert processor.num_image_tokens() == config.num_image_tokens() == counts[0]
    announced = processor._get_num_multimodal_tokens(image_sizes=[(9, 9)], video_sizes=[(16, 9, 9)])
    assert [announced["num_image_tokens"], announced["num_video_tokens"]] == [counts[:1], counts[1:]]


# ------------------------------------------------------------------------------------------------- prompts and ids

# Name in the goldens -> (file, tokenizer, system message, modalities).
LANGUAGE_MODELS = {
    "mistral": ("main", "tok_sp", MISTRAL_SYSTEM_PROMPT, ("image", "video")),
    "qwen2": ("main", "tok_qwen2", None, ("image", "video")),
    "av": ("av", "tok_qwen2", None, ("image", "video", "audio")),
}
PLACEHOLDERS = {-200: "<image>", -201: "<video>", -202: "<audio>"}


class Official:
    """What the original did with one language model, and our processor for its tokenizer."""

    def __init__(self, name: str, goldens: Path) -> None:
        file, folder, system, modalities = LANGUAGE_MODELS[name]
        if folder == "tok_sp":
            pytest.importorskip("sentencepiece")
            pytest.importorskip("google.protobuf")
        root = goldens / "videollama2"
        self.answers = json.loads((root / "prompts" / f"prompts_{file}.json").read_text())["mm_infer"][name]
        self.original = AutoTokenizer.from_pretrained(root / "lm" / "tokenizers" / folder)
        self.tokenizer = prepare_tokenizer(self.original, ("<image>", "<video>", "<audio>"))
        self.system = system
        self.processor = VideoLlama2Processor(
            LlavaImageProcessor(**SMALL),
            self.tokenizer,
            VideoLlama2VideoProcessor(**SMALL, num_frames=2),
            chat_template=wrap_chat_template(self.original.chat_template, system, modalities),
            patch_grid=(2, 2),
            image_num_frames=6,
        )

    def expected(self, ids: list[int]) -> list[int]:
        """Ids with our placeholders for the negative ones."""
        return [self.tokenizer.convert_tokens_to_ids(PLACEHOLDERS[i]) if i < 0 else i for i in ids]

    def messages(self, case: dict[str, Any], media: Any = None) -> list[dict[str, Any]]:
        """A case as messages with blocks."""
        instruct = case["instruct"]
        turns = [{"role": "user", "content": instruct}] if isinstance(instruct, str) else instruct
        messages = [{"role": turn["role"], "content": [text(turn["content"])]} for turn in turns]
        if case["modal"] != "text":
            kind = "video" if case["modal"] == "av" else case["modal"]
            block = {"type": kind} if media is None else {"type": kind, kind: media[kind]}
            messages[0]["content"].insert(0, block)
        return messages


@cache
def official_of(name: str, goldens: Path) -> Official:
    return Official(name, goldens)


@pytest.fixture(params=list(LANGUAGE_MODELS))
def official(request: pytest.FixtureRequest, goldens: Path) -> Official:
    return official_of(request.param, goldens)


def test_prompts_equal_the_original(official: Official) -> None:
    for case in official.answers["cases"]:
        prompt = official.processor.apply_chat_template(official.messages(case), add_generation_prompt=True)
        assert prompt == case["prompt"]
        ids = official.processor.tokenizer(prompt)["input_ids"]
        assert ids == official.expected(case["input_ids"])


def test_ids_behind_real_media_equal_the_original(official: Official) -> None:
    """Every placeholder becomes as many as the connector leaves; all other ids stay."""
    media = {"video": np.zeros((4, 20, 30, 3), np.uint8), "image": Image.new("RGB", (30, 20))}
    counts = {"<video>": 1, "<image>": 3}
    for case in official.answers["cases"]:
        if case["modal"] == "audio":
            continue
        batch = official.processor.apply_chat_template(
            official.messages(case, media),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        expected: list[int] = []
        for token in case["input_ids"]:
            expected += official.expected([token]) * counts.get(PLACEHOLDERS.get(token, ""), 1)
        assert batch["input_ids"].tolist() == [expected]
        assert batch["attention_mask"].all() == case["attention_mask_all_ones"]


def test_pieces_between_placeholders_equal_the_original(official: Official) -> None:
    for case in official.answers["tokenizer_multimodal_token"]:
        ids = official.tokenizer(case["prompt"])["input_ids"]
        if case["prompt"] == "<image>\nHi":
            # There, a placeholder of another kind than the call's is plain text; here all are always placeholders.
            assert case["modal_token"] == "<video>"
            assert ids[0] == official.expected([-200])[0]
            assert ids[0] not in official.expected(case["ids"])
        else:
            assert ids == official.expected(case["ids"]), case


@given(pieces=st.lists(st.text(st.sampled_from("aHi \n.☃<é"), max_size=8), min_size=1, max_size=5))
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_pieces_are_tokenised_apart(name: str, goldens: Path, pieces: list[str]) -> None:
    """The rule itself: ids of the pieces alone, joined by placeholders."""
    official = official_of(name, goldens)
    tokenizer = official.tokenizer
    joined: list[int] = []
    for index, piece in enumerate(pieces):
        joined += official.expected([-201]) if index else []
        joined += tokenizer(piece)["input_ids"]
    assert tokenizer("<video>".join(pieces))["input_ids"] == joined


def test_sentencepiece_itself_agrees(goldens: Path) -> None:
    """Ids of pieces as the SentencePiece library gives them, with its blank before each."""
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = official_of("mistral", goldens).tokenizer
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(goldens / "videollama2" / "lm" / "tokenizers" / "tok_sp" / "tokenizer.model")
    )
    for words in ("What is happening?", " b", "  two blanks", "\nWhat", "a\n", "☃ Hi", " "):
        assert tokenizer(words)["input_ids"] == model.encode(words), words


def test_special_tokens_of_the_original(official: Official) -> None:
    """Padding, end, and no special tokens of the tokenizer's own accord."""
    answers, tokenizer = official.answers, official.tokenizer
    assert [tokenizer.pad_token, tokenizer.pad_token_id] == [answers["pad_token"], answers["pad_id"]]
    assert tokenizer.eos_token_id == answers["eos_id"]
    assert [tokenizer.eos_token_id] == answers["stopping"]["keyword_ids"][0]
    assert tokenizer("")["input_ids"] == []
    assert len(official.original) == len(tokenizer) - 3, "the tokenizer that was passed is not changed"


def test_preparing_twice_changes_nothing(official: Official) -> None:
    twice = prepare_tokenizer(official.tokenizer, ("<image>", "<video>", "<audio>"))
    assert len(twice) == len(official.tokenizer)
    for case in official.answers["cases"]:
        assert twice(case["prompt"])["input_ids"] == official.tokenizer(case["prompt"])["input_ids"]


def test_other_tokenizers_only_get_the_placeholders() -> None:
    original = make_tokenizer()
    prepared = prepare_tokenizer(original, ("<video>", "<audio>"))
    assert prepared.convert_tokens_to_ids("<video>") == original.convert_tokens_to_ids("<video>")
    assert prepared.convert_tokens_to_ids("<audio>") == len(original)
    assert prepared("Why?")["input_ids"] == original("Why?")["input_ids"]
    assert [prepared.pad_token, prepared.padding_side] == ["<pad>", "left"]


def test_ids_survive_saving(official: Official, tmp_path: Path) -> None:
    official.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.padding_side == "left"
    assert [loaded.pad_token_id, loaded.eos_token_id] == [official.answers["pad_id"], official.answers["eos_id"]]
    for case in [*official.answers["cases"], *official.answers["tokenizer_multimodal_token"]]:
        assert loaded(case["prompt"])["input_ids"] == official.tokenizer(case["prompt"])["input_ids"]
    words = "A man is playing.\n Yes"
    assert loaded.decode(loaded(words)["input_ids"]) == words


def test_system_prompt_is_the_official_one(goldens: Path) -> None:
    answers = json.loads((goldens / "videollama2" / "prompts" / "prompts_main.json").read_text())["mm_infer"]
    assert {case["messages"][0]["content"] for case in answers["mistral"]["cases"]} == {MISTRAL_SYSTEM_PROMPT}


# ------------------------------------------------------------------------------------------------------ templates


@given(
    turns=st.lists(st.text(st.sampled_from("a'\"\\ \n{}%<|é"), min_size=1, max_size=6), min_size=1, max_size=5),
    system=st.none() | st.text(st.sampled_from("ab \n'"), min_size=1, max_size=5),
    name=st.sampled_from(["mistral", "qwen2"]),
)
@settings(deadline=None, max_examples=60)
def test_templates_with_tags_write_what_the_checkpoint_writes(
    goldens: Path, turns: list[str], system: str | None, name: str
) -> None:
    """Byte by byte, for the two known templates of language models."""
    official = official_of(name, goldens)
    template = wrap_chat_template(official.original.chat_template)
    assert "{%- generation -%}" in template
    roles = ["user", "assistant"] * len(turns)
    strings = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    blocks = [{"role": message["role"], "content": [text(message["content"])]} for message in strings]
    # Without media, the first question begins with a line break.
    strings[0]["content"] = "\n" + strings[0]["content"]
    if system is not None:
        strings.insert(0, {"role": "system", "content": system})
        blocks.insert(0, {"role": "system", "content": system})
    asks = bool(len(turns) % 2)
    expected = official.original.apply_chat_template(strings, tokenize=False, add_generation_prompt=asks)
    prompt = official.processor.apply_chat_template(blocks, chat_template=template, add_generation_prompt=asks)
    assert prompt == expected


def user_turn(content: str) -> str:
    return f"<|im_start|>user\n{content}<|im_end|>\n"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(VIDEO, text("Why?"))], [user_turn("<video>\nWhy?")]),
        ([{"role": "user", "content": "Why?"}], [user_turn("\nWhy?")]),
        ([user(VIDEO)], [user_turn("<video>\n")]),
        # Several media: neighbours form one run, and each run ends with a line break.
        ([user(VIDEO, VIDEO, text("Which?"))], [user_turn("<video><video>\nWhich?")]),
        ([user(IMAGE, VIDEO, text("Which?"))], [user_turn("<image><video>\nWhich?")]),
        ([user(text("Is "), VIDEO, text("older than "), IMAGE, text("?"))],
         [user_turn("Is <video>\nolder than <image>\n?")]),
        # Media in a later question, which the original cannot say.
        ([user(text("Hi")), assistant("Yes?"), user(VIDEO, text("Why?"))],
         [user_turn("\nHi"), "<|im_start|>assistant\nYes?<|im_end|>\n", user_turn("<video>\nWhy?")]),
        ([user(VIDEO, text("Why?")), assistant("So."), user(text("Where?"))],
         [user_turn("<video>\nWhy?"), "<|im_start|>assistant\nSo.<|im_end|>\n", user_turn("Where?")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_system", [False, True])
def test_default_template(messages: list[dict[str, Any]], expected: list[str], has_system: bool) -> None:
    opening = "Be brief." if has_system else "You are a helpful assistant."
    prompt = tiny_processor().apply_chat_template([SYSTEM] * has_system + messages, add_generation_prompt=True)
    assert prompt == "".join([f"<|im_start|>system\n{opening}<|im_end|>\n", *expected, "<|im_start|>assistant\n"])


def test_a_system_message_takes_the_place_of_the_fixed_one() -> None:
    template = wrap_chat_template(MISTRAL_BODY, "It's \\ the\nfixed one.")
    processor = tiny_processor(chat_template=template)
    question = user(VIDEO, text("Why?"))
    fixed = processor.apply_chat_template([question])
    assert fixed == "<s>[INST] It's \\ the\nfixed one.\n\n<video>\nWhy? [/INST]"
    assert processor.apply_chat_template([SYSTEM, question]) == "<s>[INST] Be brief.\n\n<video>\nWhy? [/INST]"
    without = wrap_chat_template(MISTRAL_BODY)
    assert processor.apply_chat_template([question], chat_template=without) == "<s>[INST] <video>\nWhy? [/INST]"


def test_an_unknown_template_is_used_as_it_is() -> None:
    body = "{% for m in messages %}{{ m['role'] + '=' + m['content'] + ';' }}{% endfor %}"
    template = wrap_chat_template(body, "Hello.")
    assert template.endswith(body)
    prompt = tiny_processor().apply_chat_template([user(VIDEO, text("Why?"))], chat_template=template)
    assert prompt == "system=Hello.;user=<video>\nWhy?;"


def test_a_template_that_accepts_no_system_message_is_an_error() -> None:
    body = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="accepts no system message"):
        wrap_chat_template(body, MISTRAL_SYSTEM_PROMPT)
    assert wrap_chat_template(body).endswith(body)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "assistant", "content": [VIDEO]}, "assistant message cannot hold video"),
        ({"role": "system", "content": [IMAGE]}, "system message cannot hold image"),
        (user({"type": "audio"}, text("Hi")), "user message cannot hold audio"),
    ],
)
def test_media_where_none_can_be_are_errors(message: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception, match=named):
        tiny_processor().apply_chat_template([message])


def test_sounds_are_for_templates_that_know_them() -> None:
    template = default_chat_template(("image", "video", "audio"))
    prompt = tiny_processor().apply_chat_template([user({"type": "audio"}, text("Hi"))], chat_template=template)
    assert user_turn("<audio>\nHi") in prompt


@pytest.mark.parametrize("content", ["A m", [text("A "), text("m")]])
def test_answers_are_continued(content: Any) -> None:
    messages = [user(VIDEO, text("Why?")), {"role": "assistant", "content": content}]
    prompt = tiny_processor().apply_chat_template(messages, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nA m")


# ------------------------------------------------------------------------------------------- batches and training


def clip(length: int = 3) -> dict[str, Any]:
    return {"type": "video", "video": torch.full((length, 3, 20, 30), 10 * length, dtype=torch.uint8)}


def picture() -> dict[str, Any]:
    return {"type": "image", "image": torch.zeros((3, 20, 30), dtype=torch.uint8)}


CONVERSATIONS = [
    [user(clip(), text("What?")), assistant("red")],
    [user(clip(), clip(5), text("Where?")), assistant("up."), user(text("What?")), assistant("a man")],
    [user(picture(), text("What?")), assistant("red"), user(clip(), text("What?")), assistant("up.")],
    [SYSTEM, {"role": "user", "content": "What?"}, assistant("red")],
]
ANSWERS = [["red"], ["up.", "a man"], ["red", "up."], ["red"]]


def model_inputs(processor: VideoLlama2Processor, conversations: list[Any]) -> dict[str, torch.Tensor]:
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    )


@pytest.mark.parametrize("name", ["tiny", "mistral", "qwen2"])
@pytest.mark.parametrize("batched", [False, True])
def test_exactly_the_answers_are_learned(request: pytest.FixtureRequest, name: str, batched: bool) -> None:
    """Behind expanded placeholders and padding, up to the token that ends an answer."""
    processor = tiny_processor() if name == "tiny" else official_of(name, request.getfixturevalue("goldens")).processor
    seen = []
    for batch in [CONVERSATIONS] if batched else [[conversation] for conversation in CONVERSATIONS]:
        inputs = model_inputs(processor, batch)
        for ids, mask in zip(inputs["input_ids"], torch.as_tensor(inputs["assistant_masks"]), strict=True):
            runs = groupby(zip(ids.tolist(), mask.tolist(), strict=True), key=lambda pair: pair[1])
            answers = [[token for token, _ in run] for learned, run in runs if learned]
            seen.append(answers)
    ending = "</s>" if name == "mistral" else "<|im_end|>"
    # Mistral's template writes a blank before an answer, where SentencePiece puts its own before a piece.
    tokens = [[processor.tokenizer(answer + ending)["input_ids"] for answer in row] for row in ANSWERS]
    assert seen == tokens


def test_a_row_of_a_batch_is_processed_as_if_alone() -> None:
    processor = tiny_processor()
    together = model_inputs(processor, CONVERSATIONS)
    alone = [model_inputs(processor, [conversation]) for conversation in CONVERSATIONS]
    assert len({row["input_ids"].shape[1] for row in alone}) > 1
    for index, row in enumerate(alone):
        kept = together["attention_mask"][index].bool()
        # transformers 5.20 gives no mm_token_type_ids here.
        for key in ("input_ids", *{"mm_token_type_ids"}.intersection(row)):
            assert together[key][index][kept].tolist() == row[key][0].tolist()
    for key in ("pixel_values_videos", "num_video_frames", "pixel_values"):
        expected = torch.cat([row[key] for row in alone if key in row])
        torch.testing.assert_close(together[key], expected, rtol=0, atol=0)
    assert (together["input_ids"] == processor.video_token_id).sum(-1).tolist() == [4, 8, 4, 0]
    assert (together["input_ids"] == processor.image_token_id).sum(-1).tolist() == [0, 0, 2, 0]


def test_options_survive_saving(tmp_path: Path) -> None:
    options = {
        "patch_grid": [27, 26],
        "connector_downsample": "pool",
        "connector_kernel_size": [8, 1, 1],
        "connector_padding": 0,
        "image_num_frames": 8,
    }
    processor = tiny_processor(**options)
    processor.video_processor.padding_mode = "pad"
    processor.save_pretrained(tmp_path)
    loaded = VideoLlama2Processor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in options} == options
    assert loaded.num_image_tokens() == 27 * 26
    assert loaded.chat_template == VideoLlama2Processor.default_chat_template
    assert isinstance(loaded.video_processor, VideoLlama2VideoProcessor)
    assert [loaded.video_processor.padding_mode, loaded.video_processor.num_frames] == ["pad", 4]


def test_a_video_too_short_for_the_connector_is_an_error() -> None:
    with pytest.raises(ValueError, match="sample at least 2 frames"):
        tiny_processor()(text="<video>", videos=[np.zeros((4, 20, 20, 3), np.uint8)], num_frames=1)
