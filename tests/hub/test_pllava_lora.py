"""The adjustable LoRA: alpha at load and in place, merging, saving, plain PEFT, and what happens without PEFT."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
import transformers.integrations.peft
from peft import LoraConfig, PeftModel
from pllava_sources import RANK, our_tensors, raw_config, released_tensors, write_source, write_tokenizer
from refusals import siblings
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from hf_videollm import PllavaForConditionalGeneration, PllavaModel, save_checkpoint
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.pllava_lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS

TOLERANCE = 2e-5
ALPHAS = (0, 4, 16, 20, 32)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A converted checkpoint that keeps its adapter, loaded with alpha 4."""
    source = write_tokenizer(write_source(tmp_path / "source", released_tensors(), raw_config()))
    convert_pllava(source, tmp_path / "converted")
    return tmp_path / "converted"


def load(folder: Path, **kwargs: Any) -> PllavaForConditionalGeneration:
    return PllavaForConditionalGeneration.from_pretrained(folder, **kwargs)


def logits(model: Any, seed: int = 0) -> torch.Tensor:
    """Logits (or hidden states of a headless model) of one prompt with one video."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 2, 3, 16, 16, generator=generator)
    ids = torch.tensor([[1, 5, *[101] * 8, 6, 7]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values_videos=pixels.to(model.dtype))[0]


def differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-3)


def scalings(model: Any) -> set[float]:
    return {layer.scaling["default"] for layer in model.lora_layers().values()}


# The original's numbers


@pytest.fixture(scope="module")
def golden_folder(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "converted"
    convert_pllava(goldens / "pllava" / "lora" / "full", folder)
    return folder


@pytest.mark.parametrize("how", ["at load", "in place", "merged"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_golden_logits_and_tokens(goldens: Path, golden_folder: Path, alpha: int, how: str) -> None:
    lora = goldens / "pllava" / "lora"
    if how == "at load":
        model = load(golden_folder, lora_alpha=alpha)
    else:
        # From another alpha, so that a change is needed.
        model = load(golden_folder, lora_alpha=7)
        if how == "in place":
            model.set_lora_alpha(alpha)
        else:
            model.merge_lora(alpha)
    tensors = load_file(lora / "tensors.safetensors")
    ids = tensors["input_ids"][0].tolist()
    place = ids.index(100)
    inputs = {
        "input_ids": torch.tensor([ids[:place] + [100] * 64 + ids[place + 1 :]]),
        "pixel_values_videos": tensors["pixel_values"][None],
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if f"logits_alpha{alpha}" in tensors:
        with torch.no_grad():
            found = model(**inputs).logits
        assert (found - tensors[f"logits_alpha{alpha}"]).abs().max() < TOLERANCE
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    expected = json.loads((lora / "meta.json").read_text())["alpha"][str(alpha)]["greedy_new_tokens"]
    assert tokens[:, inputs["input_ids"].shape[1] :].tolist() == expected


# Loading and changing alpha


def test_alpha_is_the_recorded_one_or_the_one_asked_for(converted: Path) -> None:
    assert scalings(load(converted)) == {4 / RANK}
    assert scalings(load(converted, lora_alpha=20)) == {20 / RANK}
    assert scalings(load(converted, lora_alpha=0)) == {0}
    assert scalings(AutoModelForImageTextToText.from_pretrained(converted, lora_alpha=20)) == {20 / RANK}
    assert scalings(AutoModel.from_pretrained(converted, lora_alpha=20)) == {20 / RANK}


def test_alpha_is_linear_in_the_weights_and_can_go_back(converted: Path) -> None:
    model = load(converted)
    at_four = logits(model)
    model.set_lora_alpha(20)
    assert model.config.lora_alpha == 20
    assert differs(logits(model), at_four)
    model.set_lora_alpha(4)
    assert torch.equal(logits(model), at_four)
    model.set_lora_alpha(0)
    without = load(converted, lora_adapter=None)
    assert torch.allclose(logits(model), logits(without), atol=1e-6)
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        without.set_lora_alpha(4)


@pytest.mark.parametrize("alpha", [-1, float("nan"), float("inf")])
def test_impossible_alphas_are_refused(converted: Path, alpha: float) -> None:
    with pytest.raises(ValueError, match="lora_alpha must be a number of at least 0"):
        load(converted).set_lora_alpha(alpha)
    with pytest.raises(ValueError, match="lora_alpha must be a number of at least 0"):
        load(converted, lora_alpha=alpha)


def test_a_loaded_model_has_no_dropout(converted: Path) -> None:
    model = load(converted)
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model), logits(model))
    model.train()
    # Sensitivity: with dropout the adapter would show it.
    assert differs(logits(model), logits(model))


def test_adapter_and_projector_train_and_the_language_model_does_not(converted: Path) -> None:
    trainable = {name for name, parameter in load(converted).named_parameters() if parameter.requires_grad}
    assert any(".lora_A." in name for name in trainable)
    assert {name for name in trainable if "connector" in name}
    assert not [name for name in trainable if ("language_model" in name or "lm_head" in name) and "lora" not in name]


def test_the_adapter_runs_in_the_type_of_the_model(converted: Path) -> None:
    model = load(converted, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16


def test_loading_info_is_still_returned(converted: Path) -> None:
    model, info = load(converted, output_loading_info=True)
    assert scalings(model) == {4 / RANK}
    assert not info["missing_keys"]


def test_offloaded_weights(converted: Path, tmp_path: Path) -> None:
    places = {"model.vision_tower": "cpu", "model.connector": "cpu", "model.language_model": "disk", "lm_head": "cpu"}
    model = load(converted, device_map=places, offload_folder=str(tmp_path / "offload"))
    assert next(model.model.language_model.parameters()).is_meta
    assert torch.allclose(logits(model), logits(load(converted)), atol=1e-5)
    model.set_lora_alpha(20)
    assert torch.allclose(logits(model), logits(load(converted, lora_alpha=20)), atol=1e-5)
    with pytest.raises(ValueError, match="Some weights are offloaded"):
        model.merge_lora()


# Merging


@pytest.mark.parametrize("alpha", [None, 0, 20])
def test_merging_changes_nothing_but_the_adapter(converted: Path, tmp_path: Path, alpha: float | None) -> None:
    model = load(converted, lora_alpha=16)
    if alpha is not None:
        model.set_lora_alpha(alpha)
    before = logits(model)
    model = load(converted, lora_alpha=16)
    assert model.merge_lora(alpha) is model
    assert torch.allclose(logits(model), before, atol=1e-5)
    assert set(model.state_dict()) == set(our_tensors(raw_config()))
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        model.lora_layers()
    config = model.config
    merged_alpha = 16 if alpha is None else alpha
    assert (config.lora_adapter, config.lora_alpha, config.lora_merged_alpha) == (None, None, merged_alpha)
    assert all(parameter.requires_grad for parameter in model.model.language_model.parameters())
    model.save_pretrained(tmp_path / "merged")
    assert "lora" not in siblings(tmp_path / "merged")
    assert torch.equal(logits(load(tmp_path / "merged")), logits(model))
    with pytest.raises(CheckpointError, match="has no LoRA adapter, so lora_alpha=8 would do nothing"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", lora_alpha=8)


def test_merging_after_peft_merged_is_not_merging_twice(converted: Path) -> None:
    model = load(converted, lora_alpha=16)
    before = logits(model)
    for layer in model.lora_layers().values():
        layer.merge()
    assert torch.allclose(logits(model.merge_lora()), before, atol=1e-5)


# Saving


@pytest.mark.parametrize("saver", ["save_pretrained", "save_checkpoint", "with a state dict"])
def test_saving_and_loading_again_changes_nothing(converted: Path, tmp_path: Path, saver: str) -> None:
    model = load(converted)
    model.set_lora_alpha(12)
    # As after training: the adapter has new values.
    for layer in model.lora_layers().values():
        layer.lora_B["default"].weight.data.mul_(0.5)
    before = logits(model)
    folder = tmp_path / "again"
    if saver == "save_checkpoint":
        from transformers import AutoProcessor

        save_checkpoint(model, AutoProcessor.from_pretrained(converted), folder)
    elif saver == "save_pretrained":
        model.save_pretrained(folder)
    else:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=state)
    again = load(folder)
    assert scalings(again) == {12 / RANK}
    assert torch.equal(logits(again), before)
    assert siblings(folder / "lora") == siblings(converted / "lora")
    kept, saved = (json.loads((place / "lora" / ADAPTER_CONFIG).read_text()) for place in (converted, folder))
    assert saved == kept
    # The weights of the base are those without adapter.
    stored = load_file(folder / "model.safetensors")
    assert not [name for name in stored if "lora" in name or "base_layer" in name]
    # Saving leaves the model as it was.
    assert torch.equal(logits(model), before)
    assert model.config.lora_alpha == 12


def test_saving_on_another_rank_writes_no_adapter(converted: Path, tmp_path: Path) -> None:
    load(converted).save_pretrained(tmp_path / "again", is_main_process=False)
    assert not (tmp_path / "again" / "lora").exists()
    load(converted).save_pretrained(tmp_path / "again", False)
    assert not (tmp_path / "again" / "lora").exists()


def test_a_config_cannot_send_the_adapter_elsewhere(converted: Path, tmp_path: Path) -> None:
    model = load(converted)
    model.config.lora_adapter = "../elsewhere"
    model.save_pretrained(tmp_path / "again")
    assert siblings(tmp_path / "again" / "lora") == siblings(converted / "lora")
    assert not (tmp_path / "elsewhere").exists()


def test_pushing_takes_the_adapter_along(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}
    monkeypatch.setattr(
        PllavaForConditionalGeneration, "push_to_hub", lambda self, repo_id, **kwargs: pushed.update({repo_id: kwargs})
    )
    load(converted).save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="me/mine", private=True)
    assert pushed == {"me/mine": {"private": True}}
    assert (tmp_path / "again" / "lora" / ADAPTER_WEIGHTS).is_file()


def test_a_headless_model_has_the_adapter_too(converted: Path, tmp_path: Path) -> None:
    headless = PllavaModel.from_pretrained(converted, lora_alpha=20)
    whole = load(converted, lora_alpha=20)
    assert torch.allclose(whole.lm_head(logits(headless)), logits(whole), atol=1e-5)
    headless.set_lora_alpha(4)
    assert differs(whole.lm_head(logits(headless)), logits(whole))
    headless.save_pretrained(tmp_path / "headless")
    again = PllavaModel.from_pretrained(tmp_path / "headless")
    assert torch.equal(logits(again), logits(headless))
    # The adapter file does not know whether there is a head.
    files = [load_file(place / "lora" / ADAPTER_WEIGHTS) for place in (converted, tmp_path / "headless")]
    assert files[0].keys() == files[1].keys()
    assert torch.allclose(whole.lm_head(logits(headless.merge_lora(20))), logits(whole), atol=1e-5)


# PEFT


def test_plain_peft_reads_the_adapter(converted: Path) -> None:
    base = load(converted, lora_adapter=None)
    assert not [name for name, _ in base.named_parameters() if "lora" in name]
    wrapped = PeftModel.from_pretrained(base, str(converted / "lora"))
    assert torch.allclose(logits(wrapped), logits(load(converted, lora_alpha=32)), atol=1e-6)
    # Sensitivity: PEFT found the tensors, it did not start from zero.
    assert differs(logits(wrapped), logits(load(converted, lora_alpha=0)))


@pytest.fixture
def no_peft_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when transformers asks for a PEFT release that is not out yet (5.24 asks for 0.22)."""

    def refuse(min_version: str) -> None:
        raise ValueError("the version of PEFT is too old")

    monkeypatch.setattr(transformers.integrations.peft, "check_peft_version", refuse)


@pytest.mark.usefixtures("no_peft_is_new_enough")
def test_whatever_release_of_peft_transformers_asks_for(converted: Path, tmp_path: Path) -> None:
    # `converted` was made under the same refusal: conversion is covered too.
    model = load(converted, lora_alpha=20)
    at_twenty = logits(model)
    model.set_lora_alpha(4)
    assert differs(logits(model), at_twenty)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", lora_alpha=20)
    assert torch.equal(logits(again), at_twenty)
    again.merge_lora(4)
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    again.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(load(tmp_path / "merged")), logits(again))
    # Control: the way through transformers is refused.
    with pytest.raises(ValueError, match="too old"):
        again.add_adapter(LoraConfig(target_modules=["q_proj"]))


def test_a_second_adapter_is_refused_in_one_line(converted: Path) -> None:
    model = load(converted)
    before = logits(model)
    files = (converted / "lora" / ADAPTER_CONFIG, converted / "lora" / ADAPTER_WEIGHTS)
    with pytest.raises(ValueError, match="already has a LoRA adapter: merge it first"):
        model.load_lora(*files)
    assert torch.equal(logits(model), before)
    # After merging there is place for one again.
    model.merge_lora().load_lora(*files)
    assert scalings(model) == {32 / RANK}


WITHOUT_PEFT = """
import sys

from importlib.machinery import PathFinder

class WithoutPeft(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "peft" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutPeft
import hf_videollm

merged = hf_videollm.PllavaForConditionalGeneration.from_pretrained(sys.argv[1])
try:
    hf_videollm.PllavaForConditionalGeneration.from_pretrained(sys.argv[2])
except ImportError as error:
    print("SENTENCE", error)
without = hf_videollm.PllavaForConditionalGeneration.from_pretrained(sys.argv[2], lora_adapter=None)
print("DONE")
"""


def test_without_peft_there_is_one_clear_sentence(converted: Path, tmp_path: Path) -> None:
    convert_pllava(tmp_path / "source", tmp_path / "merged", merge=4)
    run = ready_python.run("-c", WITHOUT_PEFT, tmp_path / "merged", converted, with_transformers=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == "DONE"
    assert "SENTENCE This checkpoint carries a LoRA adapter, which needs PEFT: pip install peft" in lines


# Damage


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_a_missing_adapter_file_is_named(converted: Path, name: str) -> None:
    (converted / "lora" / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"names a LoRA adapter in its folder 'lora'.*download .* again"
    ) as caught:
        load(converted)
    assert name in str(caught.value)


def test_a_truncated_adapter_is_named(converted: Path) -> None:
    file = converted / "lora" / ADAPTER_WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is truncated or damaged"):
        load(converted)


def test_an_adapter_of_another_model_is_refused(converted: Path, tmp_path: Path) -> None:
    file = converted / "lora" / ADAPTER_WEIGHTS
    tensors = load_file(file)
    shutil.copy(file, tmp_path / "copy")
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=r"does not fit PllavaForConditionalGeneration: .* only in one of them"):
        load(converted)
    save_file({**tensors, "base_model.model.surprise.lora_A.weight": torch.ones(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"only in one of them, such as surprise\.lora_A\.weight"):
        load(converted)
    save_file({**tensors, name: torch.ones(RANK, 3)}, file)
    with pytest.raises(CheckpointError, match=rf"is \({RANK}, 3\) instead of"):
        load(converted)


def test_peft_is_not_imported_with_the_package() -> None:
    code = "import sys, hf_videollm; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Ranks and options of save_checkpoint


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [True, False])
def test_other_ranks_leave_the_checkpoint_of_the_main_one_alone(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    model, processor = load(converted), AutoProcessor.from_pretrained(converted)
    folder = save_checkpoint(model, processor, tmp_path / "saved")
    kept = listing(folder)
    asked: list[Any] = []
    save = PllavaForConditionalGeneration.save_pretrained
    monkeypatch.setattr(
        PllavaForConditionalGeneration,
        "save_pretrained",
        lambda self, *args, **kwargs: asked.append(kwargs["is_main_process"]) or save(self, *args, **kwargs),
    )
    model.set_lora_alpha(20)
    assert save_checkpoint(model, processor, folder, overwrite=overwrite, is_main_process=False) == folder
    assert listing(folder) == kept
    assert not save_checkpoint(model, processor, tmp_path / "other", is_main_process=False).exists()
    # All processes gather the weights.
    assert asked == [False, False]
    # Control: the main one writes.
    save_checkpoint(model, processor, folder, overwrite=True, is_main_process=True)
    assert listing(folder) != kept


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20kB"}])
def test_a_variant_is_saved_and_loads_by_its_name(converted: Path, tmp_path: Path, shards: dict[str, str]) -> None:
    model, processor = load(converted), AutoProcessor.from_pretrained(converted)
    folder = save_checkpoint(model, processor, tmp_path / "saved", variant="bf16", **shards)
    assert bool(shards) == any(path.name.endswith(".json") and ".bf16." in path.name for path in folder.iterdir())
    assert torch.equal(logits(load(folder, variant="bf16")), logits(model))
    # Control: there are no weights without the name.
    with pytest.raises(CheckpointError, match="has no weights"):
        load(folder)


def test_save_checkpoint_refuses_to_push(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PllavaForConditionalGeneration, "push_to_hub", lambda *args, **kwargs: pytest.fail("pushed"))
    model, processor = load(converted), AutoProcessor.from_pretrained(converted)
    for is_main in (True, False):
        with pytest.raises(ValueError, match=r"cannot push_to_hub: .* hf_videollm\.hub\.push\.push"):
            save_checkpoint(model, processor, tmp_path / "saved", push_to_hub=True, is_main_process=is_main)
    assert not (tmp_path / "saved").exists()
    save_checkpoint(model, processor, tmp_path / "saved", push_to_hub=False)
