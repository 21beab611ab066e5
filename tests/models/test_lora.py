"""LoRA of recipes and of one's own making stays in the language model; `trainable` beside it trains, too."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from every_design import every_design
from factory import (
    IVA_CASES,
    PLLAVA_CASES,
    VIDEOLLAMA2_AV_CASES,
    DesignCase,
    with_labels,
)
from linvt_design_case import LINVT_CASES
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_checkpoint import make_model, make_processor
from tiny_ftfv_checkpoint import make_model as make_ftfv
from tiny_ftfv_checkpoint import make_processor as make_ftfv_processor

from hf_videollm.models.video_llm_checkpoint import freeze_unused_parameters
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.training.sft import Recipe, RecipeError, load_recipe, make_trainer, run_sft
from hf_videollm.training.trainable import whole_modules

PATTERNS: dict[str, Any] = {
    "names": ["q_proj", "v_proj"],
    "longer names": ["self_attn.q_proj", "k_proj", "fc1", "down_proj"],
    "a set": {"q_proj", "o_proj"},
    "a pattern": r".*\.(q_proj|v_proj|out_proj|fc2)",
    "all-linear": "all-linear",
    "nothing said": None,
}


def adapted(model: Any) -> set[str]:
    """Layers that have a LoRA, by their names in the model of the design."""
    parts = (name.partition(".lora_A.") for name, _ in model.named_modules())
    return {before.removeprefix("base_model.model.") for before, found, _ in parts if found}


@every_design
@pytest.mark.parametrize("targets", PATTERNS.values(), ids=PATTERNS)
def test_lora_stays_in_the_language_model(case: DesignCase, targets: Any) -> None:
    model = case.make_model()
    if isinstance(targets, list):
        leaves = {name.rpartition(".")[2] for name, _ in model.named_modules() if "language_model." in name}
        targets = [name for name in targets if name.rpartition(".")[2] in leaves]
    layers = adapted(get_peft_model(model, model.lora_config(r=2, target_modules=targets)))
    assert layers
    assert all("language_model.layers." in name for name in layers)


@every_design
def test_without_that_it_would_not(case: DesignCase) -> None:
    """Control: PEFT's own configuration."""
    layers = adapted(get_peft_model(case.make_model(), LoraConfig(r=2, target_modules="all-linear")))
    assert any("language_model.layers." not in name for name in layers)


@pytest.mark.parametrize(
    ("case", "targets", "expected"),
    [
        (PLLAVA_CASES[0], ["q_proj", "connector.linear_1"], {"model.connector.linear_1"}),
        (PLLAVA_CASES[0], r".*(language_model|vision_tower).*\.q_proj", None),
        (IVA_CASES[0], ["q_proj", "adapter.input"], {"model.adapter.input"}),
        (IVA_CASES[0], r".*(language_model|adapter).*\.(q_proj|value)", None),
        (LINVT_CASES[0], ["q_proj", "linvt.tta.aggregator.q_proj"], {"model.linvt.tta.aggregator.q_proj"}),
        (VIDEOLLAMA2_AV_CASES[0], ["v_proj", "audio_projector.0"], {"model.audio_projector.0"}),
        (PLLAVA_CASES[0], ["q_proj", "lm_head"], {"lm_head"}),
    ],
    ids=str,
)
def test_other_parts_are_adapted_where_they_are_named(
    case: DesignCase, targets: Any, expected: set[str] | None
) -> None:
    """And then they learn: IVA's adapter and LinVT are modules like others."""
    tuned = get_peft_model(case.make_model(), case.make_model().lora_config(r=2, target_modules=targets))
    outside = {name for name in adapted(tuned) if "language_model.layers." not in name}
    assert outside
    assert expected is None or outside == expected
    # As recipes do: layers of a tower behind the one that is read learn nothing.
    freeze_unused_parameters(tuned)
    tuned.train()(**with_labels(case.make_batch([["v3", "i"], []]))).loss.backward()
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)


def test_further_exclusions_and_options_are_kept() -> None:
    model = PLLAVA_CASES[0].make_model()
    first = {"exclude_modules": ["layers.0.self_attn.q_proj"], "target_modules": ["q_proj"]}
    pattern = {"exclude_modules": r".*layers\.0\..*", "target_modules": ["q_proj"]}
    chosen = {"layers_to_transform": [1], "layers_pattern": "layers", "target_modules": ["q_proj"]}
    for options in (first, pattern, chosen):
        layers = adapted(get_peft_model(PLLAVA_CASES[0].make_model(), model.lora_config(r=2, **options)))
        assert layers == {"model.language_model.layers.1.self_attn.q_proj"}


@pytest.mark.parametrize("name", ["in_proj", "linear_1", "fc1"])
def test_names_that_the_language_model_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"has no module {name}"):
        PLLAVA_CASES[0].make_model().lora_config(target_modules=["q_proj", name])


@pytest.mark.parametrize(
    ("name", "case"),
    [("iva/instruct", IVA_CASES[0]), ("linvt/lora", LINVT_CASES[0])],
)
def test_shipped_recipes_stay_there(name: str, case: DesignCase) -> None:
    model = case.make_model()
    layers = adapted(get_peft_model(model, model.lora_config(**{**load_recipe(name).lora, "modules_to_save": None})))
    assert layers
    assert all("language_model.layers." in layer for layer in layers)


# Recipes that train more than the LoRA


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(generate_dataset(tmp_path_factory.mktemp("pool") / "clips", 4, kind="motion", progress=False))


def recipe_for(records: str, folder: Path, **fields: Any) -> Recipe:
    arguments = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "save_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    lora = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    return Recipe(records=records, frame_cache=str(folder / "cache"), arguments=arguments, lora=lora, **fields)


MAKERS = {"pllava": (make_model, make_processor), "ftfv": (make_ftfv, make_ftfv_processor)}


@pytest.mark.parametrize("design", MAKERS)
def test_trainable_with_lora_trains_both(design: str, records: str, tmp_path: Path) -> None:
    make, processor = MAKERS[design]
    before = make().state_dict()
    recipe = recipe_for(records, tmp_path, trainable=["connector"], learning_rates={r"connector\.": 1e-3})
    trainer = run_sft(recipe, make(), processor())
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or ".connector." in name for name in trained)
    assert not any("vision_tower" in name or "pos_embed" in name for name in trained)
    # What was saved holds both.
    saved = PeftModel.from_pretrained(make(), str(tmp_path / "out" / "checkpoint-2"))
    merged = saved.merge_and_unload().state_dict()
    moved = {name for name in before if not torch.equal(merged[name], before[name])}
    unfrozen = {name for name, parameter in make().named_parameters() if parameter.requires_grad}
    connector = {name for name in before if ".connector." in name and name in unfrozen}
    assert {name for name in moved if ".connector." in name} == connector
    rest = moved - connector
    assert rest
    assert all("language_model" in name and name.endswith(("q_proj.weight", "v_proj.weight")) for name in rest)
    # A run that was stopped goes on with both.
    again = run_sft(replace(recipe, arguments={**recipe.arguments, "max_steps": 3}), make(), processor())
    assert again.state.global_step == 3
    assert {name for name, parameter in again.model.named_parameters() if parameter.requires_grad} == trained


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (["language_model"], "a layer can either get a LoRA or be trained as a whole"),
        ([r"connector\.linear_1\.weight"], "name the module"),
        (["smell"], "matches no parameter"),
    ],
)
def test_pairs_that_cannot_be_trained_are_refused(
    trainable: list[str], message: str, records: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        make_trainer(recipe_for(records, tmp_path, trainable=trainable), make_model(), make_processor())


def test_a_pattern_may_name_several_modules_and_parts_of_them(records: str, tmp_path: Path) -> None:
    recipe = recipe_for(records, tmp_path, trainable=["lm_head|linear_2", r"layers\.0\.mlp"])
    trainer = make_trainer(recipe, make_model(), make_processor())
    whole = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    parts = ("lm_head.", "connector.linear_2.", "layers.0.mlp.")
    plain = {name for name in whole if "lora_" not in name}
    assert all(any(part in name for part in parts) for name in plain)
    assert all(any(part in name for name in plain) for part in parts)


# What trains, where PEFT can train lists of layers no more than we can call them.
LISTS: dict[str, tuple[Any, str]] = {
    "iva": (IVA_CASES[0], r"causal_layers"),
    "linvt": (LINVT_CASES[0], r"linvt\.tta\.layers"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_layers_are_trained_layer_by_layer(name: str) -> None:
    case, pattern = LISTS[name]
    model = case.make_model()
    chosen = {own for own, weight in model.named_parameters() if re.search(pattern, own) and weight.requires_grad}
    options = model.lora_config(r=2, target_modules=["q_proj"] if name == "iva" else r".*language_model.*q_proj")
    whole = whole_modules(model, [pattern], options)
    lists = {own for own, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    assert whole
    assert not lists & set(whole)
    # The control: a list itself is what PEFT refuses.
    (inside,) = {own.rpartition(".")[0] for own in whole}
    options.modules_to_save = [inside]
    with pytest.raises(TypeError, match="ModuleList"):
        get_peft_model(case.make_model(), options)
    options.modules_to_save = whole
    tuned = get_peft_model(model, options)
    tuned.train()(**with_labels(case.make_batch([["v3", "i"], []]))).loss.backward()
    learning = {own for own, weight in tuned.named_parameters() if weight.grad is not None and "lora_" not in own}
    assert {own.removeprefix("base_model.model.").replace("modules_to_save.default.", "") for own in learning} == chosen


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}])
def test_a_pattern_that_leaves_nothing_to_train_is_refused(lora: Any, records: str, tmp_path: Path) -> None:
    model = make_model()
    model.model.vision_tower.requires_grad_(False)
    recipe = replace(recipe_for(records, tmp_path, trainable=["vision_tower", "connector"]), lora=lora)
    with pytest.raises(RecipeError, match=r"'vision_tower' matches only frozen parameters: model\.vision_tower"):
        make_trainer(recipe, model, make_processor())
    # The control: where one of them is not.
    model.model.vision_tower.requires_grad_(True)
    assert make_trainer(recipe, model, make_processor())
