"""The papers' training stages: every number has a source, every pattern finds its part, and the right parts learn."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_videollama2_checkpoint import write_videollama2
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import SFTConfig

import hf_videollm
from hf_videollm.data.records import make_record, write_jsonl
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.training.loading import load_for_training
from hf_videollm.training.recipe import Recipe, RecipeError, load_recipe
from hf_videollm.training.recipe_names import PAPERS, recipe_files
from hf_videollm.training.recipe_settings import number_arguments
from hf_videollm.training.sft import make_trainer
from hf_videollm.training.trainable import last_layers

NAMES = sorted(name for name, file in recipe_files().items() if file.is_relative_to(PAPERS))
# What learns in each stage, by the papers: parts of the model whose weights may change, without the LoRA.
LEARNS = {
    "ftfv/align": {"connector"},
    "ftfv/instruct": {"connector", "vision_tower"},
    "ftfv/pretrain": {"connector", "vision_tower"},
    "ftfv/videos_only": {"connector", "vision_tower"},
    "iva/align": {"connector"},
    "iva/instruct": {"connector", "adapter", "query_tokens"},
    "iva/pretrain": {"connector"},
    "linvt/align": {"linvt"},
    "linvt/instruct": {"linvt"},
    "pllava/instruct": {"connector"},
    "videollama2/instruct": {"connector", "language_model", "lm_head"},
    "videollama2/pretrain": {"connector"},
    "videollama2_av/audio_instruct": {"audio_projector", "audio_tower"},
    "videollama2_av/audio_pretrain": {"audio_projector"},
    "videollama2_av/joint": {"connector", "audio_projector", "language_model", "lm_head"},
}
HAS_LORA = {"ftfv/instruct", "ftfv/pretrain", "ftfv/videos_only", "iva/instruct", "linvt/instruct", "pllava/instruct"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    bundled = {name.replace("-", "_").removesuffix("_tiny"): name for name in bundled_checkpoints()}

    def find(design: str) -> str:
        if design in bundled:
            return str(hf_videollm.default_checkpoint(bundled[design]))
        folder = tmp_path_factory.getbasetemp() / "videollama2_of_recipes"
        return str(folder if folder.exists() else write_videollama2(folder))

    return find


def test_there_are_all_stages_of_the_papers() -> None:
    assert sorted(LEARNS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    content = yaml.safe_load(recipe_files()[name].read_text())
    given = {
        f"{field}.{key}" if isinstance(value, dict) else field
        for field, value in content.items()
        if field != "sources"
        for key in (value if isinstance(value, dict) else [None])
    }
    assert set(content["sources"]) == given
    origins = ("paper", "official code", "released script", "ours")
    assert [text for text in content["sources"].values() if not text.startswith(origins)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_with_what_it_begins_and_what_it_learns(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.base
    assert recipe.loss == "answers"
    options = recipe.processor_options or {}
    design, _, stage = name.partition("/")
    if design.startswith("videollama2") and not stage.startswith("audio"):
        assert options["padding_mode"] == "pad"
    if design == "ftfv":
        assert options["num_tokens_per_frame"] == 128
        assert recipe.lora is None or (recipe.lora["r"], len(recipe.lora["target_modules"])) == (128, 7)


def test_another_loss_is_refused() -> None:
    with pytest.raises(RecipeError, match="loss is 'all': only answers are learned, so write answers"):
        load_recipe("pllava/instruct", ["loss=all"])


@pytest.mark.parametrize("name", NAMES)
def test_the_right_parts_learn(checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, ["arguments.bf16=false", "arguments.use_cpu=true"])
    recipe = small(recipe, checkpoint(name.partition("/")[0]), clips, tmp_path)
    trainer = make_trainer(recipe)
    trained = {key for key, value in trainer.model.named_parameters() if value.requires_grad}
    assert any(".lora_" in key for key in trained) == (name in HAS_LORA)
    # PEFT's LoRA stands in the language model alone; parts that are trained as a whole keep their names.
    own = {key for key in trained if ".lora_" not in key}
    assert {next(part for part in LEARNS[name] if f".{part}." in f".{key}.") for key in own} == LEARNS[name] - tied(
        trainer.model, LEARNS[name]
    )


def tied(model: Any, parts: set[str]) -> set[str]:
    """A head whose weight is that of the embedding is no parameter of its own."""
    names = {key for key, _ in model.named_parameters()}
    return {"lm_head"} & parts if not any("lm_head" in key for key in names) else set()


def small(recipe: Recipe, model: str, clips: list[str], folder: Path) -> Recipe:
    records = folder / "records.jsonl"
    write_jsonl([make_record("1", clips[0], [("What colour?", "red")])], records)
    options = {key: 2 if isinstance(value, int) else value for key, value in (recipe.processor_options or {}).items()}
    # The bundled IVA has an adapter already, of as many layers as its small language model allows.
    model_options = {key: value for key, value in (recipe.model_options or {}).items() if key != "num_insertions"}
    arguments = {**recipe.arguments, "output_dir": str(folder / "run"), "disable_tqdm": True}
    recipe = replace(recipe, model=model, model_options=model_options, records=str(records), arguments=arguments)
    return replace(recipe, processor_options=options or None)


def test_last_layers_are_those_at_the_end(checkpoint: Callable[[str], str]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint("ftfv"))
    names = [key for key, _ in model.named_parameters()]
    found = {key for pattern in last_layers(model, "vision_tower", 1) for key in names if re.search(pattern, key)}
    layers = {re.sub(r"^(.*?\.\d+)\..*", r"\1", key) for key in names if re.search(r"vision_tower.*\.\d+\.", key)}
    assert {re.sub(r"^(.*?\.\d+)\..*", r"\1", key) for key in found} == {max(layers)}
    with pytest.raises(RecipeError, match="there are no 99 last ones"):
        last_layers(model, "vision_tower", 99)
    with pytest.raises(RecipeError, match="has no part 'vision'"):
        last_layers(model, "vision", 1)


def test_last_layers_are_used(checkpoint: Callable[[str], str]) -> None:
    """A tower may stop before its last layer, which is frozen then, as no gradient comes to it."""
    config = AutoConfig.from_pretrained(checkpoint("pllava"))
    config.vision_feature_layer = -2
    model = AutoModelForImageTextToText.from_config(config)
    layers = config.vision_config.num_hidden_layers
    (pattern,) = last_layers(model, "vision_tower", 1)
    found = {value.requires_grad for key, value in model.named_parameters() if re.search(pattern, key)}
    assert found == {True}
    assert pattern.endswith(rf"\.{layers - 2}\.")
    with pytest.raises(RecipeError, match=rf"has {layers - 1} layers \(beside 1 that are not used\)"):
        last_layers(model, "vision_tower", layers)


# Changes of values


def test_values_are_changed_added_and_taken_out() -> None:
    recipe = load_recipe(
        "pllava/instruct",
        [
            "lora.r=64",
            "arguments.learning_rate=1e-4",
            "arguments.max_steps=",
            "model=mine",
            "learning_rates.connector=3e-5",
        ],
    )
    assert recipe.lora is not None
    assert recipe.lora["r"] == 64
    assert recipe.arguments["learning_rate"] == 1e-4
    assert "max_steps" not in recipe.arguments
    assert (recipe.model, recipe.learning_rates) == ("mine", {"connector": 3e-5})
    # The control: without changes these are those of the file.
    assert load_recipe("pllava/instruct").lora == {**recipe.lora, "r": 128}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora", "--set must be FIELD=VALUE"),
        ("=1", "--set must be FIELD=VALUE"),
        ("lora.=1", "--set must be FIELD=VALUE"),
        ("lor.r=1", "a recipe has no field 'lor'.*lora"),
        ("trainable.x=1", "trainable is .* which has no keys"),
        ("lora=[1", "is not valid YAML"),
        ("trainable=connector", "trainable must be a list"),
        ("learning_rates.connector=fast", "learning_rates.connector must be a number"),
        ("trainable_layers.vision_tower=last", "must be a number of layers"),
    ],
)
def test_wrong_settings_are_told(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("pllava/instruct", [setting])


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    kinds = {entry.name: entry.type for entry in fields(SFTConfig)}
    found = number_arguments({"learning_rate": "1e-3", "lr_scheduler_type": "cosine", "save_steps": 5}, kinds)
    assert found == {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "save_steps": 5}
    for wrong in ({"learning_rate": "fast"}, {"max_steps": "many"}, {"bf16": "maybe"}, {"max_steps": 1.5}):
        with pytest.raises(RecipeError, match=f"arguments: {next(iter(wrong))} must be"):
            number_arguments(wrong, kinds)


def test_what_is_wrong_is_told_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hf_videollm.training.sft.load_for_training", refuse)
    for setting in ("arguments.learning_rate=fast", "arguments.learning_rat=1"):
        recipe = small(load_recipe("pllava/instruct", [setting]), "nowhere", clips, tmp_path)
        with pytest.raises(RecipeError, match="learning_rat"):
            make_trainer(recipe)
    on_cpu = load_recipe("pllava/instruct", ["arguments.bf16=false", "arguments.use_cpu=true"])
    with pytest.raises(AssertionError, match="a model was loaded"):  # the control
        make_trainer(small(on_cpu, checkpoint("pllava"), clips, tmp_path))


def test_a_stage_trains(checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path) -> None:
    """LoRA, last layers of the tower and connector, as FTFV's later stages."""
    settings = ["arguments.bf16=false", "arguments.use_cpu=true", "arguments.max_steps=1", "arguments.save_steps=5"]
    settings += ["arguments.gradient_accumulation_steps=1", "trainable_layers.vision_tower=1"]
    settings += ["arguments.warmup_steps=0"]
    recipe = small(load_recipe("ftfv/instruct", settings), checkpoint("ftfv"), clips, tmp_path)
    trainer = make_trainer(recipe)
    model, _ = load_for_training(checkpoint("ftfv"))
    before = dict(model.named_parameters())
    trainer.train()
    changed = set()
    for key, value in trainer.model.named_parameters():
        plain = key.replace("base_model.model.", "").replace("modules_to_save.default.", "").replace("base_layer.", "")
        if plain in before and not torch.equal(before[plain], value):
            changed.add(next(part for part in ("vision_tower", "connector", "language_model") if part in plain))
    assert changed == {"vision_tower", "connector"}
