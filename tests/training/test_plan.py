"""What `--dry-run` says is what a training does, and it needs no weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import hf_videollm
from hf_videollm.data.records import make_record, write_jsonl
from hf_videollm.training.plan import count_steps, plan_training
from hf_videollm.training.recipe import Recipe, RecipeError, load_recipe
from hf_videollm.training.recipe_names import PAPERS, recipe_files
from hf_videollm.training.sft import make_trainer

NAMES = sorted(name for name, file in recipe_files().items() if file.is_relative_to(PAPERS))


@pytest.fixture
def recipe(clips: list[str], tmp_path: Path) -> Recipe:
    records = [make_record(str(number), clips[number % 2], [("What colour?", "red")]) for number in range(7)]
    write_jsonl(records, tmp_path / "records.jsonl")
    arguments = {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    lora = {"r": 2, "target_modules": ["q_proj"]}
    return Recipe(
        model=hf_videollm.default_checkpoint(),
        records=str(tmp_path / "records.jsonl"),
        trainable=["connector"],
        lora=lora,
        arguments=arguments,
    )


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return Recipe(**{**vars(recipe), **fields})


def without_weights(folder: Path) -> str:
    """A copy of the checkpoint that has no weights."""
    shutil.copytree(hf_videollm.default_checkpoint(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return str(folder)


def test_a_plan_says_what_the_trainer_does(recipe: Recipe, tmp_path: Path) -> None:
    plan = plan_training(changed(recipe, model=without_weights(tmp_path / "sketch")))
    trainer = make_trainer(recipe)
    trained = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    assert sum(part.trained for part in plan.parts.values()) == trained
    assert plan.parts["LoRA"].trained == plan.parts["LoRA"].total > 0
    assert plan.parts["vision_tower"].trained == 0
    assert plan.rows == 7
    loader = trainer.get_train_dataloader()
    assert plan.steps == trainer.set_initial_training_values(trainer.args, loader)[-1] == 4
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(2)])
    assert plan.tokens == batch["attention_mask"].sum(-1).tolist()
    assert plan.sample.count("red") == 2
    assert plan.memory is not None
    assert plan.memory.total > plan.memory.weights + plan.memory.activations > 0
    # The control: what is shown depends on the recipe.
    other = plan_training(changed(recipe, lora=None, arguments={**recipe.arguments, "max_steps": 9}))
    assert other.steps == 9
    assert "LoRA" not in other.parts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": ["conector"]}, "the pattern 'conector' matches no parameter"),
        ({"trainable": ["*connector"]}, r"trainable: '\*connector' is no regular expression"),
        ({"learning_rates": {"vision": 1e-5}}, "learning_rates: the pattern 'vision' matches no parameter"),
        ({"lora": {"r": 2, "target_modules": ["q_pro"]}}, "q_pro"),
        ({"processor_options": {"num_frame": 3}}, "num_frame"),
        ({"model_options": {"num_frame": 3}}, "num_frame"),
        ({"arguments": {"lr_scheduler_type": "cosin"}}, "arguments: .*cosin"),
        ({"arguments": {"optim": "adam_w"}}, "arguments: .*adam_w"),
    ],
)
def test_what_is_wrong_is_told_without_weights(
    recipe: Recipe, tmp_path: Path, fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a dry run and in a run alike."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hf_videollm.training.sft.load_for_training", refuse)
    fields = {**fields, "arguments": {**recipe.arguments, **fields.get("arguments", {})}}
    wrong = changed(recipe, **{"lora": None, **fields})
    for run in (plan_training, make_trainer):
        with pytest.raises(ValueError, match=message):
            run(wrong)
    assert not (tmp_path / "run").exists()


def test_records_without_answers_are_refused_without_weights(recipe: Recipe, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(str(recipe.records)).read_text().splitlines()]
    rows[3]["messages"] = rows[3]["messages"][:1]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for run in (plan_training, make_trainer):
        with pytest.raises(RecipeError, match="'3' has no answer"):
            run(changed(recipe, records=str(tmp_path / "asked.jsonl")))


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "processes", "epochs", "steps"),
    [(7, 2, 3, 1, 2, 4), (7, 2, 3, 2, 1, 1), (100, 4, 4, 2, 1, 4), (1, 8, 4, 1, 3, 3), (10, 3, 1, 1, 0.5, 2)],
)
def test_steps_are_counted(
    rows: int, batch: int, accumulation: int, processes: int, epochs: float, steps: int, tmp_path: Path
) -> None:
    args = hf_videollm.sft_config(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        use_cpu=True,
    )
    assert count_steps(rows, args, processes) == steps
    assert count_steps(None, args, processes) is None


def test_sizes_of_a_paper_need_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_videollm.training.plan.predict_training_memory", lambda *args, **kwargs: None)
    plan = plan_training(load_recipe("pllava/instruct"), "pllava")
    assert plan.parts["LoRA"].trained == 67_108_864  # as the released adapter has
    assert plan.parts["connector"].trained == plan.parts["connector"].total == 20_979_712
    assert (plan.steps, plan.tokens, plan.sample) == (6250, [2304 + 256], "")
    with pytest.raises(RecipeError, match="names no model"):
        plan_training(load_recipe("pllava/instruct"))


def test_quantized_weights_are_planned_with_four_bits(recipe: Recipe) -> None:
    plain, packed = plan_training(recipe), plan_training(changed(recipe, quantize="nf4"))
    assert plain.memory is not None
    assert packed.memory is not None
    # Of float32, a little more than an eighth is left. Only the layers of the language model are quantized.
    layers = plain.parts["language_model"].total
    saved = plain.memory.weights - packed.memory.weights
    assert 0.5 * 4 * layers < saved < 4 * layers
    rest = (plain.memory.gradients, plain.memory.optimizer, plain.memory.activations)
    assert rest == (packed.memory.gradients, packed.memory.optimizer, packed.memory.activations)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_a_plan_at_real_sizes(name: str) -> None:
    plan = plan_training(load_recipe(name), name.partition("/")[0])
    assert plan.notes == []
    assert plan.memory is not None
    assert plan.memory.total > 4 * 10**9
    assert 0 < sum(part.trained for part in plan.parts.values()) < sum(part.total for part in plan.parts.values())
