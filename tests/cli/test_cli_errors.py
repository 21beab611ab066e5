"""Whatever is wrong on a command line: one line that names it, exit code 2, and no time spent before it is told."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from huggingface_hub.errors import RepositoryNotFoundError
from typer.main import get_command

import hf_videollm
from hf_videollm import known_models
from hf_videollm.cli.commands import app
from hf_videollm.hub.checkpoint import bundled_checkpoints

README = Path(__file__).resolve().parents[2] / "README.md"
# Arguments, and what the line must name. {x} is made by `places`.
BEFORE_A_MODEL_IS_LOADED = [
    ("ask {clip} Q --start 5 --end 3", "--start 5"),
    ("ask {clip} Q --fps 1 --frames 3", "--fps"),
    ("ask {clip} Q --on-decode-error ignore", "--on-decode-error ignore"),
    ("ask {gone} Q", "gone.mp4"),
    ("ask {text} Q", "text.mp4"),
    ("ask {empty_file} Q", "empty.mp4"),
    ("ask {cut} Q", "cut.mp4"),
    ("ask {folder} Q", "folder"),
    ("ask /dev/null Q", "/dev/null"),
    ("ask ftp://x/y.mp4 Q", "ftp://"),
    ("caption {gone}", "gone.mp4"),
    ("caption {clip} --start 5 --end 3", "--start 5"),
]
WRONG = [
    *BEFORE_A_MODEL_IS_LOADED,
    ("ask {clip}", "hf-videollm ask --help"),
    ("ask {clip} Q --frame 3", "--frames"),
    ("ask {clip} Q --start nan", "--start"),
    ("ask {clip} Q --start 500", "--start 500"),
    ("ask {clip} Q --fps 0", "--fps"),
    ("ask {clip} Q --dtype float8", "--dtype"),
    ("ask {clip} Q --device mps", "mps"),
    ("ask {clip} Q --device xpu", "xpu"),
    ("ask {clip} Q --device meta", "meta"),
    ("ask {clip} Q --device gpu", "gpu"),
    ("ask {clip} Q --model pllava-tinny", "did you mean pllava-tiny"),
    ("ask {clip} Q --model {gone_folder}", "did you mean folder"),
    ("ask {clip} Q --model {folder}", "config.json"),
    ("ask {clip} Q --model {clip}", "is a file"),
    ("ask {clip} Q --model {broken}", "broken"),
    ("ask {clip} Q --model {official}", "hf-videollm convert pllava"),
    ("ask {clip} Q --no-sound", "--no-sound"),
    ("ask {clip} Q --tokens-per-frame 3", "--tokens-per-frame"),
    ("info nowhere", "nowhere"),
    ("info {folder}", "config.json"),
    ("info {adapter}", "is a LoRA adapter of rank 4 on k_proj, q_proj with its own connector for the model start"),
    ("ask {clip} Q --model {adapter}", "adapter_model.safetensors"),
    ("info --design foo", "foo"),
    ("flops", "--design"),
    ("flops --design fftv", "fftv"),
    ("flops nowhere", "nowhere"),
    ("flops pllava-tiny --tokens-per-frame 3", "--tokens-per-frame"),
    ("tune-alpha pllava-tiny {gone}", "gone.mp4: no such file of records"),
    ("tune-alpha pllava-tiny {folder}", "give the file of records"),
    ("tune-alpha pllava-tiny {text}", "text.mp4, line 1"),
    ("tune-alpha pllava-tiny {records}", "LoRA"),
    ("tune-alpha nowhere {records}", "nowhere"),
    ("data check {gone}", "gone.mp4: the mix cannot be read"),
    ("data check {text}", "a mix is a mapping"),
    ("data check {records}", "is data, not a mix: write sources"),
    ("data push {gone} me/clips --licence mit", "gone.mp4: the mix cannot be read"),
    ("data push {gone} me/clips", "--licence"),
    ("data push {gone} clips --licence mit", "OWNER/NAME"),
    ("data push {gone} me/clips --licence mit --output x", "--output"),
    ("data push {gone} me/clips --licence mit --max-shard-size 3", "--max-shard-size"),
    ("frobnicate", "frobnicate"),
    ("asc {clip} Q", "did you mean ask"),
    ("convert", "pllava"),
    ("convert .", "KIND SRC DST"),
    ("convert {official} out", "convert pllava"),
    ("convert plava {official} out", "did you mean pllava"),
    ("convert pllava {folder} out", "config.json"),
    ("convert pllava nowhere out", "nowhere"),
    ("convert pllava {clip} out", "is a file"),
    ("convert pllava {broken} out", "broken"),
    ("convert pllava {official} {official}", "destination"),
    ("convert videollama2 {official} out", "config.json"),
    ("convert ftfv nowhere nowhere out", "nowhere"),
    ("convert iva {folder} {folder} out", "config.json"),
    ("convert xgen-mm {folder} out", "folder"),
    ("convert beats {gone} out", "gone.mp4"),
]


# Words of messages about arguments of Python functions, which are translated where they are not the user's own.
PYTHON_WORDS = ["num_frames", "fps=8", "start=3", "max_frames", "lora_alpha", "missing_audio=skip", "sampling=shots"]


@pytest.fixture
def places(clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files and folders that are wrong in one way each; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(Path(clips[0]).read_bytes()[:3000])
    for name, content in (("folder", None), ("broken", '{"model_type":'), ("official", '{"model_type": "llava"}')):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "adapter").mkdir()
    targets = ["model.language_model.layers.0.self_attn.q_proj", "model.language_model.layers.1.self_attn.q_proj"]
    adapter = {"peft_type": "LORA", "r": 4, "target_modules": [*targets, "k_proj"], "modules_to_save": ["connector"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**adapter, "base_model_name_or_path": "start"})
    )
    question = {"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What?"}]}
    record = {"id": "1", "messages": [question, {"role": "assistant", "content": "a dog"}]}
    (tmp_path / "records.jsonl").write_text(json.dumps(record))
    files = {"text": "text.mp4", "empty_file": "empty.mp4", "cut": "cut.mp4", "gone": "gone.mp4"}
    files |= {name: name for name in ("folder", "broken", "official", "adapter")}
    return {"clip": clips[0], "gone_folder": "./foldr", "records": "records.jsonl", **files}


def run(cli: Callable[..., Any], line: str, places: dict[str, str]) -> str:
    """The error line of a command that must fail in the one way."""
    code, out, err = cli(*(part.format(**places) for part in line.split()))
    assert code == 2, err
    assert not out
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize(("line", "named"), WRONG)
def test_wrong_input_is_one_line_that_names_it(
    cli: Callable[..., Any], places: dict[str, str], line: str, named: str
) -> None:
    assert named in run(cli, line, places)


@pytest.mark.parametrize("word", PYTHON_WORDS)
def test_what_the_user_wrote_stays_as_it_is(cli: Callable[..., Any], places: dict[str, str], word: str) -> None:
    for name in (f"{word}.mp4", f"data/{word}/clip.mp4", f"/data/{word}/{word}", f"./{word}-num_frames.mp4"):
        assert run(cli, f"ask {name} Q", places) == f"error: {name}: no such file; check the path.\n"
        assert name in run(cli, f"ask {{clip}} Q --model=./{name}", places)
    text = f"{word}.mp4"
    Path(text).write_text("this is no video")
    assert run(cli, f"ask {text} Q", places).startswith(f"error: {text}: not a video")


@pytest.mark.parametrize("word", PYTHON_WORDS)
def test_the_test_above_translates_other_words(cli: Callable[..., Any], places: dict[str, str], word: str) -> None:
    """A control: beside a name that is left alone, the message is in words of options."""
    line = run(cli, f"ask {word}.mp4 Q --fps 1 --frames 3", places)
    assert "--frames and --fps exclude each other" in line


@pytest.mark.parametrize("setting", ["foo", "num_frames", "num_frames=8 --set num_frames=9", "=3"])
def test_messages_about_set_speak_of_fields(cli: Callable[..., Any], places: dict[str, str], setting: str) -> None:
    line = run(cli, f"build pllava out --vision {{folder}} --llm {{folder}} --set {setting}", places)
    assert "such as --set num_frames=8" in line


@pytest.mark.parametrize(("line", "named"), BEFORE_A_MODEL_IS_LOADED)
def test_wrong_input_is_told_before_a_model_is_loaded(
    cli: Callable[..., Any], places: dict[str, str], monkeypatch: pytest.MonkeyPatch, line: str, named: str
) -> None:
    monkeypatch.setattr(hf_videollm, "load_pipeline", lambda *_, **__: pytest.fail("the model was loaded"))
    assert named in run(cli, line, places)


def test_the_test_above_can_fail(
    cli: Callable[..., Any], places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is right goes on to the model."""

    def loaded(*_: Any, **__: Any) -> None:
        raise ValueError("the model was loaded")

    monkeypatch.setattr(hf_videollm, "load_pipeline", loaded)
    assert "the model was loaded" in run(cli, "ask {clip} Q", places)


@pytest.mark.parametrize("command", ["ask {clip} Q --model", "caption {clip} --model", "info", "flops"])
def test_a_mistyped_model_costs_at_most_one_request(
    cli: Callable[..., Any], places: dict[str, str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[str] = []

    def model_info(_: Any, name: str, timeout: float) -> None:
        asked.append(name)
        assert timeout <= 10
        if name == "org/gone":
            raise RepositoryNotFoundError("404", response=_Response())  # type: ignore[arg-type]
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("files were asked for")
    )
    for name in ("pllava-tinny", "gpt2", "./pllava", "a/b/c", "~/pllava", "folder/pllava"):
        assert name in run(cli, f"{command} {name}", places)
    assert not asked
    assert "the Hub has no such model" in run(cli, f"{command} org/gone", places)
    assert "the Hub does not answer" in run(cli, f"{command} org/unreachable", places)
    assert asked == ["org/gone", "org/unreachable"]


class _Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 404


def test_a_downloaded_model_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the Hub was asked"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    assert known_models.find_model("org/name") == "org/name"


def test_bundled_models_are_listed_from_one_place(cli: Callable[..., Any], places: dict[str, str]) -> None:
    names = list(bundled_checkpoints())
    assert names[0] == known_models.DEFAULT_CHECKPOINT
    assert len(names) >= 5
    options = {option.name: option for option in get_command(app).commands["ask"].params}  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError) as error:
        hf_videollm.default_checkpoint("pllava-tinny")
    told = [options["model"].help, run(cli, "info nowhere", places), str(error.value), README.read_text()]
    for text in told:
        assert all(name in text for name in names), text
    for name in names:
        assert known_models.find_model(name) == hf_videollm.default_checkpoint(name)
    sources = [path for path in Path(hf_videollm.__file__).parent.rglob("*.py") if path.name != "designs.py"]
    copies = {path.name for path in sources if len(re.findall("|".join(names), path.read_text())) > 1}
    assert not copies


def commands(group: Any, path: str = "hf-videollm") -> list[tuple[str, Any]]:
    """All commands, those of groups too."""
    found = []
    for name, command in group.commands.items():
        found.append((f"{path} {name}", command))
        found += commands(command, f"{path} {name}") if hasattr(command, "commands") else []
    return found


@pytest.mark.parametrize(("path", "command"), commands(get_command(app)))
def test_the_help_of_every_command_has_examples(path: str, command: Any) -> None:
    assert re.search(rf"Examples?:\s+{path}\b", command.help), command.help
