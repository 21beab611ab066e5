"""XGen-MM: an image-LLM like LLaVA, with a resampler; and LinVT before it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_image_llms
import torch
from fresh_process import WITHOUT_PACKAGE, run_fresh
from huggingface_hub.errors import StrictDataclassError
from tiny_checkpoint import CHARACTERS
from tiny_image_llms import IMAGE, MODULE, SIGLIP, TEXT, make_frames, prompt, videos, without_foreign
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from hf_videollm import (
    CheckpointError,
    XgenMMConfig,
    XgenMMForConditionalGeneration,
    XgenMMModel,
    XgenMMProcessor,
    save_checkpoint,
)
from hf_videollm.models.modeling_linvt import LinVTForCausalLM
from hf_videollm.models.processing_linvt import LinVTProcessor
from hf_videollm.models.transformers_compat import enable_checkpointing
from hf_videollm.pair_check import check_pair

NAME, TOKENS = "xgen_mm", 5
CONFIG: dict[str, Any] = {
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": {"model_type": "phi3", **TEXT, "vocab_size": 120, "sliding_window": 400},
    "image_token_id": IMAGE,
    "num_query_tokens": TOKENS,
    "resampler_num_layers": 2,
    "resampler_num_heads": 3,
    "resampler_head_dim": 8,
}
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def _case(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more family for the helpers of LinVT's tests."""
    square = {"size": {"height": 56, "width": 56}}
    monkeypatch.setitem(tiny_image_llms.CASES, NAME, (NAME, CONFIG, "SiglipImageProcessor", square))


def make_model(**changes: Any) -> XgenMMForConditionalGeneration:
    """A tiny random XGen-MM, whose head has a bias that counts."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(NAME, **{**CONFIG, **changes})).eval()
    if model.lm_head.bias is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    return model


def make_processor() -> XgenMMProcessor:
    """A processor whose tokenizer has one token per character, and Phi-3's special ones."""
    special = ["<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokens = [*special, *CHARACTERS]
    tokens.insert(IMAGE, "<image>")
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in [*special, "<image>"]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<unk>", padding_side="left"
    )
    images = SiglipImageProcessor(size={"height": 56, "width": 56})
    return XgenMMProcessor(images, tokenizer, num_query_tokens=TOKENS)


def image_prompt(*parts: Any) -> torch.Tensor:
    """One row of ids; `"i"` is an image."""
    return torch.tensor([[token for part in parts for token in ([IMAGE] * TOKENS if part == "i" else [part])]])


def make_images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


# The image-LLM


@torch.no_grad()
def test_images_are_the_language_models_inputs() -> None:
    model, images = make_model(), make_images(2)
    outputs = model.model.get_image_features(images)
    assert [part.shape for part in outputs.pooler_output] == [(TOKENS, 32)] * 2
    ids = image_prompt(5, "i", 7, "i", 8)
    embeds = model.get_input_embeddings()(ids)
    embeds[0, 1:6], embeds[0, 7:12] = outputs.pooler_output
    expected = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    assert torch.equal(model.model(input_ids=ids, pixel_values=images).last_hidden_state, expected)
    logits = model(input_ids=ids, pixel_values=images).logits
    assert torch.equal(logits, expected @ model.lm_head.weight.T + model.lm_head.bias)
    assert (logits - model(input_ids=ids, pixel_values=images.flip(0)).logits).abs().max() > 1e-2


@torch.no_grad()
def test_the_resampler_knows_no_order_of_patches() -> None:
    resampler = make_model().model.multi_modal_projector
    patches = torch.randn(2, 16, 32)
    shuffled = patches[:, torch.randperm(16)]
    torch.testing.assert_close(resampler(shuffled), resampler(patches), atol=1e-5, rtol=0)
    # It looks at all of them, and each image at its own.
    assert (resampler(patches[:, :15]) - resampler(patches)).abs().max() > 1e-3
    torch.testing.assert_close(resampler(patches[1:]), resampler(patches)[1:], atol=1e-6, rtol=0)


@torch.no_grad()
def test_beams_keep_the_images_of_a_row_together() -> None:
    model, images = make_model(), make_images(3)
    rows = [image_prompt(5, "i", 7, "i", 8, 9), image_prompt(3, "i", 4, 5, 6, 7, 8, 10, 11, 12)]
    ids = torch.cat(rows)
    options = {"num_beams": 3, "max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE]}
    found = model.generate(
        input_ids=ids, pixel_values=images, output_logits=True, return_dict_in_generate=True, **options
    )
    copies = torch.cat([images[:2]] * 3 + [images[2:]] * 3)
    expected = model(input_ids=ids.repeat_interleave(3, 0), pixel_values=copies).logits[:, -1]
    torch.testing.assert_close(found.logits[0], expected, atol=TOLERANCE, rtol=0)
    mixed = model(input_ids=ids.repeat_interleave(3, 0), pixel_values=images.repeat_interleave(3, 0)).logits[:, -1]
    assert (mixed - expected).abs().max() > 1e-2, "images of another row must count"


def test_images_of_another_size_are_refused() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="28 x 112 pixels do not fit the vision tower, which takes 56 x 56"):
        model.get_image_features(torch.zeros(1, 3, 28, 112))
    with pytest.raises(ValueError, match="Image features and image tokens do not match, tokens: 5"):
        model(input_ids=image_prompt(5, "i"), pixel_values=make_images(2))


@pytest.mark.parametrize("name", ["num_query_tokens", "resampler_num_layers", "resampler_head_dim"])
def test_configurations_that_are_impossible(name: str) -> None:
    with pytest.raises(StrictDataclassError, match=f"{name} must be at least 1, not 0"):
        XgenMMConfig(**{**CONFIG, name: 0})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_everything_that_trains_gets_a_gradient(checkpointing: bool) -> None:
    model = make_model()
    if checkpointing:
        enable_checkpointing(model, {"use_reentrant": False})
    model.train()
    ids = image_prompt(5, "i", 7, 8)
    labels = ids.masked_fill(ids == IMAGE, -100)
    loss = model(input_ids=ids, pixel_values=make_images(1), labels=labels).loss
    loss.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert model.model.multi_modal_projector.latents.grad.abs().max() > 0


# Folders


@torch.no_grad()
def test_saved_and_loaded(tmp_path: Path) -> None:
    model, ids, images = make_model(), image_prompt(5, "i", 7), make_images(1)
    expected = model(input_ids=ids, pixel_values=images).logits
    model.save_pretrained(tmp_path / "whole")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole")
    assert type(again) is XgenMMForConditionalGeneration
    assert torch.equal(again(input_ids=ids, pixel_values=images).logits, expected)
    headless = AutoModel.from_pretrained(tmp_path / "whole")
    assert type(headless) is XgenMMModel
    states = headless(input_ids=ids, pixel_values=images).last_hidden_state
    assert torch.equal(again.lm_head(states), expected)


def test_loading_is_strict(tmp_path: Path) -> None:
    make_model(lm_head_bias=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "lm_head_bias": True, "resampler_num_layers": 1}))
    with pytest.raises(CheckpointError, match=r"1 tensors are missing .*lm_head\.bias; 8|11 tensors are not part"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)


def test_prompts_are_those_of_the_public_training_code() -> None:
    processor = make_processor()
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == (
        "<|system|>\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions.<|end|>\n"
        "<|user|>\n<image>\nIs it?<|end|>\n<|assistant|>\nYes.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n"
    )
    own = [{"role": "system", "content": "Be brief."}, *chat[:1]]
    assert processor.apply_chat_template(own).startswith("<|system|>\nBe brief.<|end|>\n<|user|>\n<image>\nIs it?")
    with pytest.raises(Exception, match="A user message cannot hold video"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    with pytest.raises(Exception, match="Roles are system, user and assistant, not tool"):
        processor.apply_chat_template([{"role": "tool", "content": "x"}])
    # What a model is trained on.
    encoded = processor.tokenizer.apply_chat_template(
        [chat[2], chat[1]],
        chat_template=processor.chat_template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    trained = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert processor.tokenizer.decode(trained).replace(" ", "") == "Yes.<|end|>\n"


def test_what_is_passed_in_stays_as_it_is() -> None:
    text = AutoConfig.for_model(**CONFIG["text_config"])
    before = text.to_dict()
    config = AutoConfig.for_model(NAME, **{**CONFIG, "text_config": text})
    written = config.to_dict()
    for model in (XgenMMForConditionalGeneration(config), XgenMMModel(config)):
        model.resize_token_embeddings(150)
        model.set_attn_implementation("eager")
        assert model.config.text_config.vocab_size == len(model.get_input_embeddings().weight) == 150
        assert model.config.text_config is model.get_decoder().config
        assert config.to_dict() == written
        assert text.to_dict() == before


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_is_tied_as_in_the_language_model(is_tied: bool, tmp_path: Path) -> None:
    text = {**CONFIG["text_config"], "tie_word_embeddings": is_tied}
    model = make_model(text_config=text, lm_head_bias=False)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is is_tied
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) is is_tied
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    # What is said goes before what follows, in a file as well, and a file of old says nothing where it is not.
    other = AutoConfig.for_model(NAME, **{**CONFIG, "text_config": text}, tie_word_embeddings=not is_tied)
    other.save_pretrained(tmp_path / "other")
    assert AutoConfig.from_pretrained(tmp_path / "other").tie_word_embeddings is not is_tied
    content = json.loads((tmp_path / "other" / "config.json").read_text())
    content.pop("tie_word_embeddings", None)
    (tmp_path / "other" / "config.json").write_text(json.dumps(content))
    assert AutoConfig.from_pretrained(tmp_path / "other").tie_word_embeddings is False


def test_a_processor_of_another_model_is_refused() -> None:
    check_pair(make_model().config, make_processor())
    config, processor = make_model(num_query_tokens=TOKENS + 1).config, make_processor()
    with pytest.raises(ValueError, match=rf"number of query tokens is {TOKENS}, the model's {TOKENS + 1}"):
        check_pair(config, processor)
    processor.image_processor.size = {"height": 48, "width": 48}
    with pytest.raises(ValueError, match=r"size of images \(height, width\) is \(48, 48\), the model's \(56, 56\)"):
        check_pair(make_model().config, processor)


@torch.no_grad()
def test_a_processor_fits_its_model(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is XgenMMProcessor
    images = [np.full((40, 70, 3), value, dtype=np.uint8) for value in (10, 200, 90)]
    inputs = processor(
        text=["<image>a<image>b", "<image>longer"], images=[images[:2], images[2:]], padding=True, return_tensors="pt"
    )
    assert (inputs["input_ids"] == IMAGE).sum(1).tolist() == [2 * TOKENS, TOKENS]
    assert inputs["pixel_values"].shape == (3, 3, 56, 56)
    logits = model(**inputs).logits
    alone = processor(text=["<image>longer"], images=[images[2:]], return_tensors="pt")
    length = alone["input_ids"].shape[1]
    torch.testing.assert_close(logits[1, -length:], model(**alone).logits[0], atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="The prompts hold 2 <image> placeholders, but 1 images were passed"):
        processor(text="<image><image>", images=images[:1])
    with pytest.raises(ValueError, match="The prompts hold 1 <image> placeholders, but 0 images were passed"):
        processor(text="<image>")
    with pytest.raises(ValueError, match="takes only text and images"):
        processor(text="a", videos=[images])


# LinVT before it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xgen_mm")
    make_model().save_pretrained(path)
    return path


@pytest.fixture
def linvt(folder: Path) -> LinVTForCausalLM:
    torch.manual_seed(1)
    return LinVTForCausalLM.from_image_llm(folder, linvt_config=MODULE)


def step_logits(model: Any, inputs: dict[str, Any], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of each generated token, `(rows, steps, vocabulary)`, and the tokens; none of them a placeholder."""
    options = {"output_logits": True, "return_dict_in_generate": True, "suppress_tokens": [IMAGE], **options}
    outputs = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
    return torch.stack(outputs.logits, 1), outputs.sequences


@torch.no_grad()
def test_images_bypass_linvt_bitwise(linvt: LinVTForCausalLM, folder: Path) -> None:
    image_llm = AutoModelForImageTextToText.from_pretrained(folder)
    batch = prompt(linvt, [[5, ("i", TOKENS), 7, ("i", TOKENS), 8], [3, 4]])
    media = {"pixel_values": make_images(2)}
    given = without_foreign(image_llm, batch)
    expected = image_llm(**given, **media).logits
    assert torch.equal(linvt(**batch, **media).logits, expected)
    assert (linvt(**batch, pixel_values=make_images(2, seed=1)).logits - expected).abs().max() > 1e-2
    steps, tokens = step_logits(image_llm, {**given, **media})
    found, sequences = step_logits(linvt, {**batch, **media})
    torch.testing.assert_close(found, steps, atol=1e-5, rtol=0)
    assert torch.equal(sequences, tokens)


@torch.no_grad()
def test_rows_with_videos_equal_themselves_alone(linvt: LinVTForCausalLM) -> None:
    """Different numbers of videos, frames and words; left padding; a text row."""
    rows = [[5, "v", 6], [3, "v", 4, 5, "v", 8, 9, 7], [11, 12]]
    clips = [[make_frames(3)], [make_frames(2, seed=1), make_frames(5, seed=2)], []]
    batch = {**prompt(linvt, rows), **videos(NAME, [clip for row in clips for clip in row])}
    together, _ = step_logits(linvt, batch)
    for number, (row, clip) in enumerate(zip(rows, clips, strict=True)):
        alone, _ = step_logits(linvt, {**prompt(linvt, [row]), **(videos(NAME, clip) if clip else {})})
        torch.testing.assert_close(together[number], alone[0], atol=TOLERANCE, rtol=0)
    swapped, _ = step_logits(linvt, {**batch, **videos(NAME, [make_frames(3, seed=7), *clips[1]])})
    assert (swapped[0, 0] - together[0, 0]).abs().max() > 1e-2, "the videos must count"


@torch.no_grad()
def test_caches_change_nothing(linvt: LinVTForCausalLM) -> None:
    media = {"pixel_values": make_images(1)}
    batch = {**prompt(linvt, [[5, "v", 6, 9], [3, ("i", TOKENS), 4, "v", 8]]), **media}
    batch |= videos(NAME, [make_frames(3), make_frames(2, seed=1)])
    cached, tokens = step_logits(linvt, batch)
    static, sequences = step_logits(linvt, batch, cache_implementation="static", disable_compile=True)
    torch.testing.assert_close(static, cached, atol=TOLERANCE, rtol=0)
    assert torch.equal(sequences, tokens)
    # One forward over the whole, generated tokens and all.
    added = tokens.shape[1] - batch["input_ids"].shape[1]
    fill = {"attention_mask": torch.ones, "mm_token_type_ids": torch.zeros}
    for name, make in fill.items():
        batch[name] = torch.cat([batch[name], make(2, added, dtype=torch.long)], 1)
    whole = linvt(**{**batch, "input_ids": tokens}).logits[:, -added - 1 : -1]
    torch.testing.assert_close(cached, whole, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_linvt_and_xgen_mm_are_saved_as_one(linvt: LinVTForCausalLM, tmp_path: Path) -> None:
    batch = {**prompt(linvt, [[5, "v", 6]]), **videos(NAME, [make_frames(3)])}
    expected = linvt(**batch).logits
    linvt.save_pretrained(tmp_path)
    again = LinVTForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.bias, linvt.lm_head.bias)
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=0)


# Without the package

ASK = """
import numpy as np
def ask(model, processor, kind):
    medium = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 3), dtype=np.uint8)
    block = {"type": kind, kind: medium if kind == "video" else medium[0]}
    chat = [{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model(**inputs).logits[0, -1].tolist()
"""
REMOTE = """
import json
from transformers import AutoModelForImageTextToText, AutoProcessor
report = []
for folder, kind in zip(sys.argv[1:], ("image", "video")):
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    report.append([type(model).__module__, ask(model, processor, kind)])
"""


@torch.no_grad()
def test_folders_need_no_package(tmp_path: Path) -> None:
    """XGen-MM alone, and with LinVT before it: what another process makes of the files alone is what this one does."""
    folders = [str(tmp_path / name) for name in ("image_llm", "linvt")]
    make_model().save_pretrained(folders[0], save_original_format=False)
    make_processor().save_pretrained(folders[0])
    linvt = LinVTForCausalLM.from_image_llm(folders[0], linvt_config=MODULE)
    save_checkpoint(linvt, LinVTProcessor.from_image_llm(folders[0], linvt_config=MODULE), folders[1])

    found = run_fresh(WITHOUT_PACKAGE + ASK + REMOTE, *folders, cache=tmp_path)
    scope: dict[str, Any] = {}
    exec(ASK, scope)
    for folder, kind, (module, logits) in zip(folders, ("image", "video"), found, strict=True):
        assert module.startswith("transformers_modules.")
        model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model).__module__.startswith("hf_videollm.models.")
        expected = torch.tensor(scope["ask"](model, processor, kind))
        torch.testing.assert_close(torch.tensor(logits), expected, atol=TOLERANCE, rtol=0)
