"""The contrastive loss of LinVT's first stage: its values, its gradient, and that weight 0 leaves it out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_videollm
from hf_videollm.data.records import make_record, write_jsonl
from hf_videollm.training.contrastive import contrastive_loss, contrastive_of_batch, video_vectors
from hf_videollm.training.loading import load_for_training
from hf_videollm.training.recipe import Recipe, RecipeError, load_recipe
from hf_videollm.training.recipe_contrastive import Contrastive, read_contrastive
from hf_videollm.training.sft import make_trainer


def test_pairs_that_fit_cost_nothing_and_others_much() -> None:
    vectors = torch.eye(4)
    assert contrastive_loss(vectors, 3 * vectors, 0.01).item() < 1e-6
    assert contrastive_loss(vectors, vectors.roll(1, 0), 0.01).item() == pytest.approx(100, rel=1e-3)
    # Vectors that are all alike say nothing: the loss is that of a guess.
    assert contrastive_loss(torch.ones(4, 3), torch.ones(4, 3), 0.07).item() == pytest.approx(math.log(4))
    assert contrastive_loss(vectors[:1], vectors[:1], 0.07).item() == 0


def test_rows_with_the_same_answer_are_no_wrong_pairs() -> None:
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert contrastive_loss(texts, texts, 0.01, same).item() < 1e-6
    assert contrastive_loss(texts, texts, 0.01).item() == pytest.approx(2 / 3 * math.log(2), rel=1e-3)  # the control


@pytest.fixture
def recipe(clips: list[str], tmp_path: Path) -> Recipe:
    words = ["red", "blue", "green", "a circle"]
    records = [make_record(str(n), clips[n % len(clips)], [("What?", word)]) for n, word in enumerate(words)]
    write_jsonl(records, tmp_path / "records.jsonl")
    arguments = {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Recipe(
        model=hf_videollm.default_checkpoint("linvt-tiny"),
        records=str(tmp_path / "records.jsonl"),
        trainable=["linvt"],
        arguments=arguments,
    )


def test_the_gradient_reaches_linvt(recipe: Recipe) -> None:
    model, processor = load_for_training(str(recipe.model))
    trainer = make_trainer(recipe, model, processor)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(3)])
    model.train()
    with video_vectors(model) as vectors:
        model(**batch)
    loss = contrastive_of_batch(model, batch, vectors, 0.07)
    assert loss is not None
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    reached = {name for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert reached
    assert all(".linvt." in name for name in reached)
    # One row has nothing to compare with.
    single = trainer.data_collator([trainer.train_dataset[0]])
    assert contrastive_of_batch(model, single, vectors, 0.07) is None


def first_step(recipe: Recipe, contrastive: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The log of the first step, and the weights after it."""
    trainer = make_trainer(replace(recipe, contrastive=contrastive))
    trainer.train()
    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    return trainer.state.log_history[0], weights


def test_weight_0_is_the_plain_loss(recipe: Recipe) -> None:
    plain, weights = first_step(recipe, None)
    zero, same = first_step(recipe, {"weight": 0, "temperature": 0.07})
    assert zero["loss"] == plain["loss"]
    assert "contrastive_loss" not in zero
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    # The control: with a weight, the loss is the sum, and LinVT learns something else.
    both, others = first_step(recipe, {"weight": 0.5})
    assert both["contrastive_loss"] > 0
    assert both["loss"] == pytest.approx(plain["loss"] + 0.5 * both["contrastive_loss"], abs=2e-3)
    assert not all(torch.equal(weights[name], others[name]) for name in weights)


def test_settings_are_read_and_checked() -> None:
    assert read_contrastive(load_recipe("linvt/align").contrastive) == Contrastive(0.1, 0.07)
    assert read_contrastive(load_recipe("linvt/align", ["contrastive.weight=0"]).contrastive) is None
    assert load_recipe("linvt/instruct").contrastive is None
    for setting, message in (
        ("contrastive.weigth=1", "did you mean weight"),
        ("contrastive.weight=-1", "of at least 0"),
        ("contrastive.temperature=0", "above 0"),
        ("contrastive.weight=much", "must be a number"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe("linvt/align", [setting])
