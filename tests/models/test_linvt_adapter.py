"""LinVT without its image-LLM: what an adapter keeps, and which image-LLM it is put before."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_image_llms import CASES, MODULE, make_frames, make_image_llm, make_linvt, prompt, videos
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.modeling_linvt import LinVTForCausalLM

NAME, OTHER = "llava_clip_llama", "qwen2_vl"


@pytest.fixture
def image_llm(tmp_path):
    make_image_llm(NAME).save_pretrained(tmp_path / "image")
    return tmp_path / "image"


def make(image_llm, **options):
    torch.manual_seed(1)
    return LinVTForCausalLM.from_image_llm(image_llm, linvt_config=MODULE, **options)


def make_batch(model, name=NAME):
    return {**prompt(model, [[5, "v", 6, 9]]), **videos(name, [make_frames(3)])}


def test_an_adapter_keeps_every_option(image_llm, tmp_path):
    options = {"num_frames": 3, "vision_chunk_size": 2, "mix_deepstack": False}
    model = make(image_llm, **options)
    assert {name: getattr(model.config, name) for name in options} == options
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    loaded = LinVTForCausalLM.from_adapter(tmp_path / "adapter")
    assert {name: getattr(loaded.config, name) for name in options} == options
    assert loaded.config.linvt_config.to_dict() == model.config.linvt_config.to_dict()


@pytest.mark.parametrize("implementation", ["eager", {"text_config": "eager"}, None])
@torch.no_grad()
def test_the_attention_is_that_of_the_image_llm(implementation, tmp_path):
    make_image_llm(OTHER).save_pretrained(tmp_path)
    own = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation=implementation)
    model = make(tmp_path, attn_implementation=implementation)
    config = model.model.backbone.config
    assert config is model.config.backbone_config
    found = [(part or config)._attn_implementation for part in (None, config.text_config, config.vision_config)]
    parts = (own.config, own.config.text_config, own.config.vision_config)
    assert found == [part._attn_implementation for part in parts]
    assert model.config._attn_implementation == ("eager" if implementation == "eager" else "sdpa")
    # Eager attention gives its weights, the kernel has none to give.
    attentions = model(**prompt(model, [[5, 6, 7]]), output_attentions=True).attentions
    assert bool(attentions) == (implementation is not None)


@torch.no_grad()
def test_a_folder_is_found_from_elsewhere(image_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make("image")
    # Shards or not, LinVT alone is one file.
    model.save_pretrained("adapter", adapter_only=True, max_shard_size="10KB")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    loaded = LinVTForCausalLM.from_adapter("../adapter")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_commit_is_kept_and_not_the_branch(image_llm, monkeypatch):
    loaded = AutoModelForImageTextToText.from_pretrained(image_llm)
    loaded.config._commit_hash = "c0ffee"
    monkeypatch.setattr(
        AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: (loaded, {"missing_keys": []})
    )
    assert make(image_llm, revision="main").config.backbone_revision == "c0ffee"
    loaded.config._commit_hash = None
    assert make(image_llm, revision="main").config.backbone_revision == "main"


def test_an_image_llm_of_another_kind_is_refused(image_llm, tmp_path):
    make(image_llm).save_pretrained(tmp_path / "adapter", adapter_only=True)
    make_image_llm(OTHER).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="whose model_type is qwen2_vl, not llava: pass image_llm= with"):
        LinVTForCausalLM.from_adapter(tmp_path / "adapter", image_llm=tmp_path / "other")
    # The same family and width, another language model or tower.
    _, options, *_ = CASES[NAME]
    for part, field, value in (("text_config", "num_hidden_layers", 1), ("vision_config", "intermediate_size", 48)):
        changed = copy.deepcopy(options)
        changed[part][field] = value
        AutoConfig.for_model("llava", **changed).save_pretrained(tmp_path / part)
        with pytest.raises(CheckpointError, match=f"whose {field} of the .* is {value}, not"):
            LinVTForCausalLM.from_adapter(tmp_path / "adapter", image_llm=tmp_path / part)


@torch.no_grad()
def test_what_peft_trained_is_saved_under_plain_names(image_llm, tmp_path):
    model = make(image_llm)
    batch = make_batch(model)
    untrained = model(**batch).logits
    lora = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", modules_to_save=["linvt"])
    wrapped = get_peft_model(model, lora)
    trained = [part for name, part in wrapped.named_parameters() if "linvt" in name and part.requires_grad]
    for part in trained:
        part.add_(torch.randn_like(part) * 0.1)
    expected = wrapped.eval()(**batch).logits
    wrapped.get_base_model().save_pretrained(tmp_path / "adapter", adapter_only=True)
    plain = {f"model.linvt.{name}" for name in make_linvt(NAME).model.linvt.state_dict()}
    assert load_file(tmp_path / "adapter" / "model.safetensors").keys() == plain
    # The LoRA adds nothing yet, so that all that was learned is LinVT's.
    found = LinVTForCausalLM.from_adapter(tmp_path / "adapter")(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - untrained).abs().max() > 1e-3


def test_a_lora_inside_linvt_is_refused(image_llm, tmp_path):
    wrapped = get_peft_model(make(image_llm), LoraConfig(r=2, target_modules=r".*linvt.*q_proj"))
    with pytest.raises(ValueError, match=r"not just those of LinVT .*merge what PEFT added to LinVT"):
        wrapped.get_base_model().save_pretrained(tmp_path / "adapter", adapter_only=True)
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "adapter", adapter_only=True)
    assert LinVTForCausalLM.from_adapter(tmp_path / "adapter").config.backbone_name == str(image_llm)


def test_two_trained_copies_of_linvt_are_refused(image_llm, tmp_path):
    lora = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", modules_to_save=["linvt"])
    wrapped = get_peft_model(make(image_llm), lora)
    wrapped.add_adapter("second", lora)
    with pytest.raises(ValueError, match=r"PEFT keeps several .* \['default', 'second'\]: merge the one"):
        wrapped.get_base_model().save_pretrained(tmp_path / "adapter", adapter_only=True)
