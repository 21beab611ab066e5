"""A training that was stopped and resumed has exactly the losses and weights of one that was never stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import LORA, losses_of, make_recipe, write_records
from transformers import TrainerCallback

from hf_videollm import default_checkpoint
from hf_videollm.models.errors import CheckpointError
from hf_videollm.training.recipe import Recipe, RecipeError
from hf_videollm.training.run_log import read_log
from hf_videollm.training.sft import make_trainer, run_sft
from hf_videollm.training_outputs import find_output, load_trained

STEPS = 4
SAVING = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2}
# What draws random numbers while it trains: the order of rows, dropout, options and frames.
KINDS: dict[str, dict[str, Any]] = {
    "full": {"trainable": ["connector"], "still_frames": True},
    "lora": {"lora": {**LORA, "lora_dropout": 0.2}, "trainable": ["connector"]},
    "qlora": {"lora": {**LORA, "lora_dropout": 0.2}, "trainable": ["connector"], "quantize": "nf4"},
    "varied": {"trainable": ["audio_projector"], "vary": {"missing_audio": ["silence", "skip"]}},
}


class Stop(TrainerCallback):
    """Ends the process's work in the middle, as a kill between two steps does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, clips: list[str]) -> str:
    return write_records(tmp_path_factory.mktemp("records"), clips)


def recipe_of(kind: str, records: str, folder: Path, **arguments: Any) -> Recipe:
    model = default_checkpoint("videollama2-av-tiny" if kind == "varied" else "pllava-tiny")
    options = {**SAVING, "learning_rate": 0.002, **arguments}
    recipe = make_recipe(model, records, folder, arguments=options, **KINDS[kind])
    return replace(recipe, frame_cache=str(folder.parent / "cache")) if recipe.still_frames else recipe


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_goes_on_as_if_nothing_had_happened(kind: str, records: str, tmp_path: Path) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes", reason="the language model is quantized by bitsandbytes")
    whole = run_sft(recipe_of(kind, records, tmp_path / "whole"), save=True)
    expected = losses_of(whole)
    assert len(set(expected)) == len(expected) == STEPS
    recipe = recipe_of(kind, records, tmp_path / "stopped")
    trainer = make_trainer(recipe)
    trainer.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert sorted(path.name for path in (tmp_path / "stopped").glob("checkpoint-*")) == ["checkpoint-2"]
    resumed = run_sft(recipe, save=True)
    assert losses_of(resumed) == expected
    logged = [entry["loss"] for entry in read_log(tmp_path / "stopped") if "loss" in entry]
    assert logged == expected, "each step once, although step 3 was trained twice"
    before, after = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # The control: another seed is another curve.
    other = run_sft(recipe_of(kind, records, tmp_path / "other", seed=5))
    assert losses_of(other) != expected
    run = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert [session["first_step"] for session in run["sessions"]] == [0, 2]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, records: str) -> Recipe:
    """The recipe of a run that can be resumed from step 2."""
    recipe = recipe_of("lora", records, tmp_path_factory.mktemp("stopped") / "run", max_steps=2)
    run_sft(recipe)
    return recipe


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"lora": {**LORA, "r": 8, "lora_dropout": 0.1}},
            r"lora was another one \(r was 4, and is 8 now; lora_dropout was 0.2, and is 0.1 now\)",
        ),
        ({"trainable": None}, r"trainable was \['connector'\], and is not set now"),
        ({"quantize": "nf4"}, "quantize was not set, and is 'nf4' now"),
        ({"arguments": {"learning_rate": 0.1}}, r"arguments.learning_rate was 0.002, and is 0.1 now"),
        (
            {"arguments": {"per_device_train_batch_size": 2}},
            "arguments.per_device_train_batch_size was 1, and is 2 now",
        ),
    ],
)
def test_another_recipe_is_not_resumed(stopped: Recipe, change: dict[str, Any], named: str) -> None:
    arguments = {**stopped.arguments, **change.pop("arguments", {})}
    before = sorted(Path(stopped.arguments["output_dir"]).rglob("*"))
    # The model does not exist: it is found before anything is loaded.
    with pytest.raises(RecipeError, match=named):
        run_sft(replace(stopped, **change, arguments=arguments, model="./nowhere"))
    assert sorted(Path(stopped.arguments["output_dir"]).rglob("*")) == before


def test_a_run_without_a_result_opens_its_newest_whole_checkpoint(stopped: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped.arguments["output_dir"], run)
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-9")
    (run / "checkpoint-9" / "trainer_state.json").unlink()
    assert find_output(run) == run / "checkpoint-2"
    model, _ = load_trained(run)
    assert model.config.name_or_path == str(run / "checkpoint-2")
    (run / "checkpoint-2" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"has finished saving \(checkpoint-2: .*adapter_model.safetensors"):
        load_trained(run)


def test_other_data_and_another_base_are_not_resumed(
    stopped: Recipe, records: str, clips: list[str], tmp_path: Path
) -> None:
    other = write_records(tmp_path, clips[::-1])
    with pytest.raises(RecipeError, match=r"on other data: .*records.jsonl is not what it was then"):
        run_sft(replace(stopped, records=other))
    with pytest.raises(RecipeError, match="began with another base model"):
        run_sft(replace(stopped, model=default_checkpoint("iva-tiny")))
    # The control: the same data and the same weights in another place, more steps, and 2e-3 for 0.002.
    shutil.copy(records, tmp_path / "moved.jsonl")
    arguments = {**stopped.arguments, "max_steps": 3, "learning_rate": "2e-3", "save_strategy": "no"}
    trainer = run_sft(replace(stopped, records=str(tmp_path / "moved.jsonl"), arguments=arguments))
    assert trainer.state.global_step == 3
    # The next step has the rate of the new schedule (linear), not the 0 at the end of the old one.
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry][-1] == pytest.approx(
        0.002 / 3
    )
    # To begin anew is always possible.
    arguments = {**arguments, "learning_rate": 0.1, "max_steps": 1}
    assert run_sft(replace(stopped, arguments=arguments), resume=False).state.global_step == 1


def test_a_processor_of_another_model_is_refused_before_the_weights_are_read(
    tiny_checkpoint: str, tiny_iva_checkpoint: str, records: str, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_checkpoint, mixed)
    AutoProcessor.from_pretrained(tiny_iva_checkpoint).save_pretrained(mixed)
    (mixed / "model.safetensors").write_bytes(b"not read")
    recipe = make_recipe(str(mixed), records, tmp_path / "out", trainable=["connector"])
    with pytest.raises(CheckpointError, match=r"holds model and processor of different models\. The processor belongs"):
        run_sft(recipe)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quantize": "nf4"}, "quantize: 4-bit weights cannot be trained themselves: add `lora`"),
        ({"quantize": "nf5", "lora": LORA}, "quantize: there is no 'nf5' to train on: write nf4"),
        ({"quantize": "a100-bf16", "lora": LORA}, "quantize: a100-bf16 is not trained on: write nf4"),
    ],
)
def test_what_cannot_be_quantized_is_told_before_a_model_is_loaded(
    fields: dict[str, Any], named: str, records: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=named):
        run_sft(make_recipe("./nowhere", records, tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()
