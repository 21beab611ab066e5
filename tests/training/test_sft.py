"""Recipes, and the ordinary way of training: TRL's SFTTrainer on real MP4 files."""

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ready_python
import torch

from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.data.records import make_record, read_jsonl
from hf_videollm.disk_full import DiskFullError
from hf_videollm.models.errors import CheckpointError
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.parts import build_tokenizer, vocabulary
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training import sft
from hf_videollm.training.sft import (
    Recipe,
    RecipeError,
    freeze_all_but,
    load_recipe,
    make_trainer,
    merge_turns,
    run_sft,
)

SMALL = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return str(generate_dataset(tmp_path_factory.mktemp("pool") / "clips", 24, kind="motion", progress=False))


def small_recipe(records, folder, **arguments):
    options = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Recipe(
        records=records, frame_cache=str(folder / "cache"), merge_turns=True, arguments={**options, **arguments}
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# Training


def test_loss_falls_by_half(records, tmp_path):
    model, processor = build_tiny_pllava(**SMALL)
    trainer = run_sft(small_recipe(records, tmp_path, max_steps=30), model, processor)
    history = losses(trainer)
    assert len(history) == 30
    assert sum(history[-3:]) / 3 < history[0] / 2


def test_training_uses_the_pixels(records, tmp_path):
    # TRL's own collator drops videos silently; ours must not.
    model, processor = build_tiny_pllava(**SMALL)
    trainer = make_trainer(small_recipe(records, tmp_path), model, processor)
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values_videos"].shape[1:] == (4, 3, 32, 32)
    before = build_tiny_pllava(**SMALL)[0].state_dict()
    after = trainer.model.state_dict()
    for part in ("vision_tower", "connector", "language_model"):
        assert any(not torch.equal(before[name], after[name]) for name in before if part in name), part


def test_training_resumes(records, tmp_path):
    recipe = small_recipe(records, tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    run_sft(recipe, *build_tiny_pllava(**SMALL))
    longer = replace(recipe, arguments={**recipe.arguments, "max_steps": 4})
    trainer = run_sft(longer, *build_tiny_pllava(**SMALL))
    assert trainer.state.global_step == 4
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4]


def test_frozen_parts_stay_as_they_are(records, tmp_path):
    model, processor = build_tiny_pllava(**SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = replace(small_recipe(records, tmp_path), trainable=["connector"])
    trainer = run_sft(recipe, model, processor)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == ("connector" not in name), name


def test_image_stage_shows_one_frame_and_asks_what_it_can_answer(records, tmp_path):
    model, processor = build_tiny_pllava(**SMALL)
    recipe = replace(small_recipe(records, tmp_path), kinds=["colour", "shape"], still_frames=True)
    trainer = make_trainer(recipe, model, processor)
    asked = {row["messages"][-2]["content"][-1]["text"] for row in trainer.train_dataset}
    assert asked
    assert not any("direction" in question or "way" in question for question in asked)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values_videos"].shape == (8, 1, 3, 32, 32)
    # An image has no time axis to pool: (1, 2, 2) placeholders.
    assert (batch["input_ids"] == processor.video_token_id).sum(-1).tolist() == [4] * 8
    trainer.train()
    with pytest.raises(RecipeError, match="frame_cache"):
        make_trainer(replace(recipe, frame_cache=None), *build_tiny_pllava(**SMALL))
    with pytest.raises(RecipeError, match="'smell'"):
        make_trainer(replace(recipe, kinds=["smell"]), *build_tiny_pllava(**SMALL))


def test_lora(records, tmp_path):
    model, processor = build_tiny_pllava(**SMALL)
    options = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)"}
    trainer = run_sft(replace(small_recipe(records, tmp_path), lora=options), model, processor, save=True)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    # Where a whole model is needed, the folder of the adapter is refused with what it is, and what to do.
    with pytest.raises(
        CheckpointError, match=r"is a LoRA adapter of rank 4 on .*q_proj.*hf-videollm finish checkpoint"
    ):
        describe_checkpoint(tmp_path / "out")


# Recipes


@pytest.mark.parametrize("name", ["pllava/videos", "pllava/stills", "videollama2_av/videos", "videollama2_av/sound"])
def test_shipped_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.lora is None
    assert recipe.merge_turns
    assert recipe.still_frames == name.endswith("stills")
    assert recipe.sound_only == name.endswith("sound")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "mapping"), ("model: x\nspeed: 3", "unknown fields \\['speed'\\]"), ("a: [", "Cannot read")],
)
def test_bad_recipes(text, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(path)
    assert "r.yaml" in str(error.value)


def test_missing_recipe():
    with pytest.raises(RecipeError, match="no_such"):
        load_recipe("no_such")


def test_what_a_recipe_must_name(records, tmp_path):
    with pytest.raises(RecipeError, match="no records"):
        make_trainer(Recipe())
    with pytest.raises(RecipeError, match="no model"):
        make_trainer(Recipe(records=records))
    recipe = small_recipe(records, tmp_path, max_length=512)
    with pytest.raises(RecipeError, match="max_length"):
        make_trainer(recipe, *build_tiny_pllava(**SMALL))


def test_model_and_processor_belong_together(records, tmp_path):
    """A model alone is refused; it would be ignored, and the model of the recipe trained instead."""
    model, processor = build_tiny_pllava(**SMALL)
    with pytest.raises(TypeError, match="A model was passed without a processor: pass both"):
        make_trainer(small_recipe(records, tmp_path), model)
    with pytest.raises(TypeError, match="A processor was passed without a model: pass both"):
        make_trainer(small_recipe(records, tmp_path), processor=processor)


def test_freezing_needs_a_match():
    model, _ = build_tiny_pllava(**SMALL)
    with pytest.raises(RecipeError, match="no_such_part"):
        freeze_all_but(model, ["no_such_part"])
    names = freeze_all_but(model, ["connector", "lm_head|embed_tokens"])
    assert all("connector" in name or "embed" in name or "lm_head" in name for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(names)


def test_merged_turns_keep_every_question(records):
    singles = read_jsonl(records)
    merged = merge_turns(singles, seed=1)
    assert len(merged) == 24
    assert all(len(record.messages) == 6 and len(record.media()) == 1 for record in merged)
    answers = sorted(str(message["content"]) for record in merged for message in record.messages[1::2])
    assert answers == sorted(str(record.messages[1]["content"]) for record in singles)
    assert merged == merge_turns(singles, seed=1)
    first = {record.messages[0]["content"][1]["text"].split()[1] for record in merged}
    assert len(first) > 1
    long = make_record("x", "v.mp4", [("a?", "b"), ("c?", "d")])
    assert merge_turns([long, make_record("y", "v.mp4", [("e?", "f")])])[0] == long


# The small model


def test_tokenizer_knows_every_word():
    tokenizer = build_tokenizer()
    ids = tokenizer("USER: <video>\n Which came first, the RED circle or the blue square? ASSISTANT:")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokenizer("red circle")["input_ids"], skip_special_tokens=True) == "red circle"
    assert len(vocabulary()) == len(set(vocabulary())) == len(tokenizer) < 150


def test_building_is_deterministic_and_leaves_the_global_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = build_tiny_pllava(**SMALL, seed=5)[0], build_tiny_pllava(**SMALL, seed=5)[0]
    assert torch.equal(torch.rand(1), expected)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


# The result


class FakeTrainer:
    """Saves the files of one result after the other, and ends in between with an error if there is one."""

    def __init__(self, output, files, error=None, should_save=True):
        self.args = SimpleNamespace(output_dir=str(output), should_save=should_save, save_only_model=False)
        self.files, self.error, self.seen = files, error, None
        self.model = SimpleNamespace(name_or_path="")

    def is_world_process_zero(self):
        return self.args.should_save

    def train(self, resume_from_checkpoint):
        pass

    def save_model(self, folder=None):
        # Nobody else may train into the folder meanwhile.
        self.seen = sorted(path.name for path in Path(self.args.output_dir).iterdir())
        for number, (name, content) in enumerate(self.files.items()):
            if number == 1 and self.error is not None:
                raise self.error
            path = Path(folder or self.args.output_dir, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


OLD = {"config.json": "old", "model.safetensors": "old", "notes.txt": "mine", "checkpoint-1/model.safetensors": "step"}
SHARDS = {
    "config.json": "new",
    "lora/adapter.json": "new",
    "model-00001-of-00002.safetensors": "new",
    "model.safetensors.index.json": "new",
}


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_all(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def train_fake(monkeypatch, *given, **options):
    trainer = FakeTrainer(*given, **options)
    monkeypatch.setattr(sft, "make_trainer", lambda *ignored: trainer)
    return run_sft(Recipe(), resume=False, save=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("x")])
def test_a_result_that_is_not_saved_whole_leaves_the_old_one(tmp_path, monkeypatch, error):
    write_all(tmp_path, OLD)
    wanted = DiskFullError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        train_fake(monkeypatch, tmp_path, SHARDS, error)
    assert {name: text for name, text in content(tmp_path).items() if name != ".training.lock"} == OLD
    # Control: in place, the old configuration would be gone.
    with pytest.raises(type(error)):
        FakeTrainer(tmp_path, SHARDS, error).save_model()
    assert content(tmp_path)["config.json"] == "new"


def test_a_result_replaces_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    write_all(tmp_path, OLD)
    trainer = train_fake(monkeypatch, tmp_path, SHARDS)
    kept = {name: OLD[name] for name in ("notes.txt", "checkpoint-1/model.safetensors")}
    assert content(tmp_path) == {**kept, **SHARDS}
    assert {".training.lock", "checkpoint-1"} <= set(trainer.seen)
    # Shards would be read from no folder with an old file of all weights, nor an old index of other shards.
    train_fake(monkeypatch, tmp_path, {"config.json": "third", "model.safetensors": "third"})
    lora = {"lora/adapter.json": "new"}
    assert content(tmp_path) == {**kept, **lora, "config.json": "third", "model.safetensors": "third"}
    # Beside the old weights, an adapter would not be read: the folder would be opened as the old model.
    adapter = {"adapter_config.json": "fourth", "adapter_model.safetensors": "fourth"}
    train_fake(monkeypatch, tmp_path, adapter)
    assert content(tmp_path) == {**kept, **lora, **adapter}


def test_other_processes_save_nothing(tmp_path, monkeypatch):
    write_all(tmp_path, OLD)
    assert train_fake(monkeypatch, tmp_path, SHARDS, should_save=False).seen is not None
    assert content(tmp_path) == OLD


# Command line


def test_command_line(records, tmp_path):
    model, processor = build_tiny_pllava(**SMALL)
    model.save_pretrained(tmp_path / "init")
    processor.save_pretrained(tmp_path / "init")

    def run(*arguments):
        return ready_python.run("-m", "hf_videollm.training.sft", "pllava_synthetic", *arguments)

    options = ["--model", str(tmp_path / "init"), "--records", records, "--output", str(tmp_path / "out")]
    shown = run(*options, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "<video>*8" in shown.stdout
    done = run(*options, "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
    bad = run("--model", str(tmp_path / "init"))
    assert bad.returncode == 2
    assert bad.stderr.strip().splitlines()[-1].startswith("Error: ")
