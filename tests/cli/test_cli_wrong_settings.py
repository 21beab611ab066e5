"""What is wrong with a training is told by the same line in a dry run and in a run, before anything is loaded."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm import default_checkpoint
from hf_videollm.data.records import make_record, write_jsonl

Cli = Callable[..., tuple[int, str, str]]
# A setting of a recipe -> words of the line that refuses it.
WRONG = {
    "arguments.learning_rat=1": "learning_rat",
    "arguments.learning_rate=-1": "learning_rate must be at least 0",
    "arguments.learning_rate=.nan": "learning_rate must be a finite number",
    "arguments.weight_decay=-0.1": "weight_decay must be at least 0",
    "arguments.max_grad_norm=-1": "max_grad_norm must be at least 0",
    "arguments.adam_beta1=2": "adam_beta1 must be from 0, and below 1",
    "arguments.seed=-1": "seed must be from 0",
    "arguments.dataloader_num_workers=-1": "dataloader_num_workers must be at least 0",
    "arguments.gradient_accumulation_steps=0": "gradient_accumulation_steps must be at least 1",
    "arguments.per_device_train_batch_size=0": "per_device_train_batch_size must be at least 1",
    "arguments.num_train_epochs=-1": "num_train_epochs must be above 0",
    "arguments.max_steps=0": "max_steps must be at least 1",
    "arguments.max_steps=-3": "max_steps must be at least 1",
    "arguments.max_steps=2.5": "max_steps must be a whole number",
    "arguments.output_dir=3": "output_dir",
    "arguments.output_dir=''": "output_dir must be a folder",
    "arguments.output_dir=recipe.yaml": "recipe.yaml is a file",
    "arguments.output_dir=recipe.yaml/run": "recipe.yaml is a file",
    "arguments.lr_scheduler_type=cosin": "lr_scheduler_type='cosin'",
    "arguments.lr_scheduler_kwargs={x: 1}": "lr_scheduler_kwargs={'x': 1}",
    "arguments.loss_type=foo": "loss_type='foo'",
    "arguments.optim_args=foo": "optim_args='foo'",
    "arguments.report_to=nowhere": "report_to='nowhere'",
    "arguments.fsdp=foo": "fsdp='foo'",
    "arguments.deepspeed=nofile.json": "deepspeed: nofile.json cannot be read",
    "arguments.eval_strategy=steps": "eval_strategy='steps': a recipe has no rows for an evaluation",
    "arguments.train_sampling_strategy=group_by_length": "length of a row is not known",
    "arguments.use_liger_kernel=true": "no Liger kernels",
    "arguments.push_to_hub=true": "push_to_hub needs the Hub and a login",
    "arguments.completion_only_loss=false": "only answers are learned",
    "arguments.dataset_text_field=foo": "dataset_text_field",
    "arguments.model_init_kwargs={x: 1}": "use these",
    "arguments.resume_from_checkpoint=/nowhere": "continues from the last checkpoint in its output_dir",
    "quantize=nf5": "quantize",
    "quantize=nf4": "add `lora`",
    "still_frames=true": "name a folder in frame_cache",
    "sound_only=true": "cannot hear",
    "frame_cache=recipe.yaml": "frame_cache: recipe.yaml cannot be a folder",
    "fractions.clips=0.3": "fractions changes a mix",
    "data_root=/nowhere": "data_root changes a mix",
    "records=missing.jsonl": "record 'b' names .*gone.mp4, which does not exist .1 of 2 files are missing",
    "records=empty.jsonl": "empty.jsonl: the file holds no records",
    "processor_options.num_framez=4": "num_framez",
    "processor_options.num_frames=four": "num_frames",
    "processor_options.num_frames=0": "at least one frame",
    "vary={num_frames: []}": "vary.num_frames is empty",
    "vary={num_frames: [2, two]}": "vary: .*num_frames",
    "trainable=[]": "nothing would be trained",
    "trainable=['']": "leave `trainable` out",
    "trainable=[conector]": "matches no parameter",
    "trainable_layers.vision_tower=99": "there are no 99 last ones",
    "learning_rates.connector=.inf": "learning_rates.connector must be a number",
    "learning_rates.vision=1e-4": "learning_rates: the pattern 'vision'",
    "lora.r=4.5": "lora: r must be a whole number",
    "lora.r=true": "lora: r must be a whole number",
    "lora.r=0": "lora: r must be at least 1",
    "lora.lora_alpha=x": "lora: lora_alpha must be a number",
    "lora.lora_alpha=-8": "lora: lora_alpha must be above 0",
    "lora.lora_dropout=abc": "lora: lora_dropout must be a number",
    "lora.lora_dropout=1": "lora: lora_dropout must be from 0, and below 1",
    "lora.use_rslora=7": "lora: use_rslora must be true or false",
    "lora.target_modules=5": "lora.target_modules must be a list of names",
    "lora.target_modules=[]": "lora.target_modules must be a list of names",
    "lora.target_modules='('": "lora.target_modules: '.' is no regular expression",
    "lora.target_modules=[q_pro]": "q_pro",
    "lora={target_modules: [q_proj], rank_pattern: {nothing: 8}}": "lora.rank_pattern: 'nothing' matches no module",
    "lora={target_modules: [q_proj], rank_pattern: {q_proj: x}}": "lora.rank_pattern.q_proj must be a whole number",
}


@pytest.fixture
def work(tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe and its records."""
    monkeypatch.chdir(tmp_path)
    write_jsonl([make_record(name, clips[0], [("What?", "a red square")]) for name in "ab"], "records.jsonl")
    write_jsonl([], "empty.jsonl")
    files = {"a": clips[0], "b": str(tmp_path / "gone.mp4")}
    write_jsonl([make_record(name, path, [("What?", "red")]) for name, path in files.items()], "missing.jsonl")
    arguments = "{output_dir: run, max_steps: 1, per_device_train_batch_size: 1, use_cpu: true}"
    text = f"model: {default_checkpoint()}\nrecords: records.jsonl\ntrainable: [connector]\narguments: {arguments}"
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path


class LoadedError(Exception):
    """A model was loaded."""


@pytest.fixture
def _unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise LoadedError

    monkeypatch.setattr("hf_videollm.training.sft.load_for_training", load)


@pytest.mark.usefixtures("_unloaded")
@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_setting_is_one_line(cli: Cli, work: Path, setting: str) -> None:
    files = sorted(work.iterdir())
    code, out, err = cli("train", "recipe.yaml", "--set", setting, "--dry-run")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(WRONG[setting], err), err
    # The line names the file that is to be mended.
    assert re.search(r"\w\.(yaml|jsonl|mp4|json)\b", err), err
    assert cli("train", "recipe.yaml", "--set", setting) == (code, out, err)
    assert sorted(work.iterdir()) == files


@pytest.mark.usefixtures("_unloaded")
@pytest.mark.parametrize(
    "setting",
    [
        "arguments.learning_rate=1e-3",
        "arguments.max_steps=-1",
        "arguments.assistant_only_loss=true",
        "arguments.save_strategy=no",
        "lora={r: '4', target_modules: [q_proj], rank_pattern: {q_proj: 8}}",
        "trainable_layers.vision_tower=1",
        "processor_options.num_frames=2",
        "vary={num_frames: [2, 4]}",
    ],
)
def test_a_right_setting_passes(cli: Cli, work: Path, setting: str) -> None:
    """The control: the run comes as far as the loading of the model."""
    code, out, err = cli("train", "recipe.yaml", "--set", setting, "--dry-run")
    assert (code, err) == (0, "")
    assert "steps: " in out
    assert not (work / "run").exists()
    assert "LoadedError" in cli("train", "recipe.yaml", "--set", setting)[2]


@pytest.mark.usefixtures("_unloaded")
@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        (("fractions.videoinstruct=0.3",), "29,396 (by the paper)"),
        (("fractions.videoinstruct=0.1",), "9,827 (by the paper)"),
        (("fractions.videoinstruct=0.2",), "19,654 (in proportion"),
        ((), "9,827 (by the paper)"),
    ],
)
def test_shares_change_the_rows_of_a_plan(cli: Cli, settings: tuple[str, ...], rows: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("hf_videollm.training.plan.predict_training_memory", lambda *args, **kwargs: None)
    given = [word for setting in settings for word in ("--set", setting)]
    code, out, err = cli("train", "ftfv/videos_only", "--dry-run", *given)
    assert (code, err) == (0, "")
    assert f"samples: {rows}" in out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fractions.videoinstruct=0", "fractions.videoinstruct must be a share above 0"),
        ("fractions.videoinstruc=0.3", "has no source 'videoinstruc': did you mean videoinstruct"),
        ("processor_options.num_framez=4", "num_framez"),
        ("processor_options.num_frames=four", "num_frames"),
    ],
)
def test_a_paper_recipe_is_checked_without_data(cli: Cli, setting: str, message: str) -> None:
    folders = [(), ("--set", "data_root=.")] if setting.startswith("fractions") else [()]
    for more in folders:
        code, out, err = cli("train", "ftfv/videos_only", "--dry-run", "--set", setting, *more)
        assert (code, out) == (2, "")
        assert message in err
