"""`hf-videollm train` and `hf-videollm data`: results on stdout, JSON, and one line for what is wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm import default_checkpoint
from hf_videollm.cli.commands import run_old_module
from hf_videollm.data.records import read_jsonl

Cli = Callable[..., tuple[int, str, str]]
ARGUMENTS = "{output_dir: run, max_steps: 1, per_device_train_batch_size: 1, use_cpu: true}"


@pytest.fixture
def work(tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe and its records."""
    monkeypatch.chdir(tmp_path)
    question = {"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What?"}]}
    record = {"id": "1", "messages": [question, {"role": "assistant", "content": "a red square"}]}
    (tmp_path / "records.jsonl").write_text(json.dumps(record))
    recipe = f"model: {default_checkpoint()}\nrecords: records.jsonl\narguments: {ARGUMENTS}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path


@pytest.mark.parametrize("kind", ["clips", "long --shortest 8 --longest 8"])
def test_data_as_json(cli: Cli, work: Path, kind: str) -> None:
    code, out, err = cli("data", *kind.split(), "made", "--num-videos", "2", "--json")
    facts: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    assert facts == {"records": str(Path("made", "records.jsonl")), "num_videos": 2}
    assert len({record.media("video")[0] for record in read_jsonl(work / facts["records"])}) == 2
    code, out, err = cli("data", *kind.split(), "made", "--num-videos", "2", "--size", "32")
    assert (code, out) == (2, "")
    assert err.startswith("error: made was made with other settings")


def test_a_sample_as_text_and_as_json(cli: Cli, work: Path) -> None:
    code, text, err = cli("train", "recipe.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "red square </s>]" in text
    facts = json.loads(cli("train", "recipe.yaml", "--dry-run", "--json")[1])
    assert facts["sample"] in text
    assert (facts["plan"]["rows"], facts["plan"]["steps"]) == (1, 1)
    assert f"{facts['plan']['parts']['connector']['trained']:,}" in text
    assert not (work / "run").exists()


def test_a_recipe_of_another_design_is_noted(cli: Cli, work: Path) -> None:
    arguments = ("--records", "records.jsonl", "--dry-run")
    # Its options of the processor are FTFV's own, so they are taken out.
    other = ("train", "ftfv/align", "--model", "pllava-tiny", "--set", "processor_options=")
    code, _, err = cli(*other, *arguments)
    assert (code, err) == (0, "warning: the recipe ftfv/align was written for ftfv, but the model is pllava.\n")
    # A recipe that trains parts which the model has not is refused, as in a run.
    code, _, err = cli("train", "iva/videos", "--model", "pllava-tiny", *arguments)
    assert code == 2
    assert "matches no parameter" in err
    # Control: nothing is said about a recipe of the same design, nor about a recipe of the user.
    assert cli("train", "pllava/videos", "--model", "pllava-tiny", *arguments)[::2] == (0, "")
    assert cli("train", "recipe.yaml", "--dry-run")[::2] == (0, "")


def test_a_result_as_json(cli: Cli, work: Path) -> None:
    """What the trainer logs is on stderr then; options of the command beat the recipe."""
    code, out, err = cli("train", "recipe.yaml", "--output", "other", "--max-steps", "2", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["output_dir"], facts["steps"]) == ("other", 2)
    assert facts["train_loss"] > 0
    assert "train_loss" in err
    assert (work / "other" / "model.safetensors").exists()
    assert not (work / "run").exists()
    # The run could not be resumed with another recipe, which the dry run says, too.
    other = ("train", "recipe.yaml", "--output", "other", "--set", "arguments.learning_rate=0.5", "--dry-run")
    code, out, err = cli(*other)
    assert (code, out) == (2, "")
    assert err.startswith("error: recipe.yaml: other holds a run of another recipe: arguments.learning_rate was not")
    assert cli(*other, "--no-resume")[0] == 0
    # The run has finished, so nothing is left to do, and its log stays as it is.
    log = (work / "other" / "log.jsonl").read_bytes()
    code, out, err = cli("train", "recipe.yaml", "--output", "other", "--max-steps", "2")
    assert code == 0, err
    assert "The run in other had finished after 2 steps" in out
    assert (work / "other" / "log.jsonl").read_bytes() == log
    # The control: there is a third step to do.
    assert "Saved to other" in cli("train", "recipe.yaml", "--output", "other", "--max-steps", "3")[1]
    assert (work / "other" / "log.jsonl").read_bytes() != log


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("train nowhere", "nowhere"),
        ("train recipe.yaml --model nowhere", "nowhere"),
        ("train recipe.yaml --records gone.jsonl", "gone.jsonl"),
        ("train recipe.yaml --model-option num_frames", "--model-option must be NAME=VALUE"),
        ("train recipe.yaml --model-option num_frames=[", "--model-option num_frames=["),
        ("train recipe.yaml --model-option frame_number=3 --dry-run", "frame_number"),
        ("train pllava_synthetic", "names no records"),
        ("data clips made --split dev", "'dev' is not one of train, validation, test"),
        ("data clips made --kind dance", "'dance' is not one of motion"),
        ("data clips made --sound --no-audio", "--audio/--no-audio"),
        ("data clips records.jsonl", "records.jsonl"),
        ("data long made --offset 999999", "are in two splits"),
        ("data clip made", "did you mean clips"),
        ("data", "hf-videollm data clips FOLDER"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(cli: Cli, work: Path, line: str, named: str) -> None:
    code, out, err = cli(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert named in err


def test_modules_print_what_the_commands_print(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the first letter of errors, as ever."""

    def run_module(command: tuple[str, ...], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sft.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_old_module(command)
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    for command, arguments in ((("train",), ["recipe.yaml", "--dry-run"]), (("data", "clips"), ["--help"])):
        assert run_module(command, *arguments) == cli(*command, *arguments)
    code, _, err = cli("train", "nowhere")
    assert run_module(("train",), "nowhere") == (code, "", err.replace("error", "Error", 1))
