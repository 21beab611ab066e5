"""What is trained is float32, so that no step of a small learning rate is rounded away; results keep their type."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from every_design import every_design
from factory import DesignCase, with_labels
from safetensors.torch import load_file
from training_runs import LORA, make_recipe, write_records
from transformers import AutoModelForImageTextToText, AutoProcessor

import hf_videollm
from hf_videollm.training.dpo_trainer import VideoDPOTrainer
from hf_videollm.training.grpo_trainer import VideoGRPOTrainer
from hf_videollm.training.precision import Float32Mixin, to_float32
from hf_videollm.training.recipe import Recipe
from hf_videollm.training.sft import make_trainer, run_sft
from hf_videollm.training.trainable import freeze_all_but

HALF = torch.bfloat16
RATE = 1e-6
# Parts that are trained, as in the first and in the later stages of the papers.
PARTS = {"new parts": ["connector|linvt|adapter|query_tokens|projector"], "all": ["."]}


def share_changed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Share of the weights with a gradient that one step of AdamW changes."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.0)
    model(**batch).loss.backward()
    learns = {name: value.grad.abs() > 1e-6 for name, value in trained.items() if value.grad is not None}
    optimiser.step()
    changed = sum(int((trained[name] != before[name])[mask].sum()) for name, mask in learns.items())
    return changed / sum(int(mask.sum()) for mask in learns.values())


@every_design
@pytest.mark.parametrize("parts", PARTS)
def test_every_trained_weight_changes(case: DesignCase, parts: str) -> None:
    batch = with_labels(case.make_batch([["v3"], ["i"]]))
    changed = {}
    for kind in ("autocast", "plain", "bfloat16"):
        model = case.make_model().to(HALF)
        freeze_all_but(model, PARTS[parts])
        if kind != "bfloat16":
            to_float32(model, HALF if kind == "autocast" else None)
        for parameter in model.parameters():
            assert not parameter.requires_grad or parameter.dtype == (HALF if kind == "bfloat16" else torch.float32)
        frozen = [value for value in model.parameters() if not value.requires_grad and value.ndim > 1]
        assert {value.dtype for value in frozen} <= {torch.float32 if kind == "plain" else HALF}
        changed[kind] = share_changed(model.train(), batch)
        with torch.no_grad():  # outside of a trainer, too
            model.eval().generate(**case.make_batch([["v3"]]), max_new_tokens=1, do_sample=False)
    assert min(changed["autocast"], changed["plain"]) > 0.999
    # The control: without it, nearly all of the step is lost.
    assert changed["bfloat16"] < 0.2


def test_all_trainers_keep_what_is_trained_in_float32() -> None:
    for trainer in (VideoDPOTrainer, VideoGRPOTrainer):
        assert issubclass(trainer, Float32Mixin)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled PLLaVA as conversions write checkpoints: in bfloat16."""
    folder = tmp_path_factory.mktemp("half") / "model"
    source = hf_videollm.default_checkpoint("pllava-tiny")
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=HALF)
    hf_videollm.save_checkpoint(model, AutoProcessor.from_pretrained(source), str(folder))
    return folder


@pytest.fixture
def recipe(half: Path, clips: list[str], tmp_path: Path) -> Recipe:
    records = write_records(tmp_path, clips)
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": RATE}
    return make_recipe(str(half), records, tmp_path / "run", arguments=options, trainable=["connector"])


def trained_and_others(folder: Path) -> tuple[set[torch.dtype], set[torch.dtype]]:
    tensors = load_file(folder / "model.safetensors")
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for name, value in tensors.items():
        kinds["connector" in name].add(value.dtype)
    return kinds[True], kinds[False]


def test_results_keep_their_type_and_resume_is_exact(recipe: Recipe, tmp_path: Path) -> None:
    whole = run_sft(recipe, save=True)
    assert {value.dtype for value in whole.model.parameters()} == {torch.float32}
    output = tmp_path / "run"
    assert trained_and_others(output) == ({HALF}, {HALF})
    assert trained_and_others(output / "checkpoint-1") == ({torch.float32}, {HALF})
    for folder in (output, output / "checkpoint-1"):
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    stopped = replace(recipe, arguments={**recipe.arguments, "output_dir": str(tmp_path / "stopped")})
    (tmp_path / "stopped").mkdir()
    (output / "checkpoint-1").rename(tmp_path / "stopped" / "checkpoint-1")
    resumed = run_sft(stopped)
    assert resumed.state.log_history[-1]["step"] == 2
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.named_parameters())
    # The control: half of the way is another model.
    once = load_file(tmp_path / "stopped" / "checkpoint-1" / "model.safetensors")
    assert any(not torch.equal(value.float(), expected[name]) for name, value in once.items() if "connector" in name)


def test_parts_beside_a_lora_are_float32(recipe: Recipe) -> None:
    trainer: Any = make_trainer(replace(recipe, lora=LORA))
    trained = {name: value.dtype for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert any(".lora_" in name for name in trained)
    assert any("connector" in name for name in trained)
    assert set(trained.values()) == {torch.float32}


def test_the_reference_of_dpo_computes_as_the_model_does(half: Path, clips: list[str], tmp_path: Path) -> None:
    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    asked = [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What is it?"}]
    rows = [{"prompt": [{"role": "user", "content": asked}], "chosen": answer("a dog"), "rejected": answer("two")}]
    args = hf_videollm.dpo_config(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=1)
    trainer: Any = hf_videollm.make_dpo_trainer(str(half), Dataset.from_list(rows), args=args)
    for model in (trainer.model, trainer.ref_model):
        assert {value.dtype for value in model.parameters()} == {torch.float32}
    trainer.train()
    # Both agree before the first step, whose loss is that of a margin of 0.
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_grpo_trains_a_half_precision_checkpoint_to_its_end(half: Path, clips: list[str], tmp_path: Path) -> None:
    asked = [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What is it?"}]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": asked}]}] * 2)
    options = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4, "num_generations": 4}
    args = hf_videollm.grpo_config(
        output_dir=str(tmp_path), max_steps=2, max_completion_length=3, temperature=5.0, learning_rate=RATE, **options
    )

    def reward(completions: Any, **_: Any) -> list[float]:
        return [float(number) for number in range(len(completions))]

    trainer: Any = hf_videollm.make_grpo_trainer(str(half), rows, reward, args=args)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    assert {value.dtype for value in before.values()} == {torch.float32}
    trainer.train()
    assert trainer.state.global_step == 2
    name, weight = next((name, value) for name, value in trainer.model.named_parameters() if "connector" in name)
    assert (weight != before[name]).float().mean() > 0.9
    # The control: in bfloat16, most steps of this size are rounded away.
    assert (weight.to(HALF) != before[name].to(HALF)).float().mean() < 0.2
    trainer.save_model()
    assert trained_and_others(tmp_path) == ({HALF}, {HALF})
