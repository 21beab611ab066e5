"""The command line hides the messages of the libraries below it; `--debug` brings them back."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ftfv_sources
import pllava_sources
import pytest
import ready_python
import videollama2_sources
import xgen_mm_sources
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, tqdm
from peft import LoraConfig, get_peft_model
from tiny_linvt import make_linvt, write_llava
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils import logging as transformers_logging
from typer.main import get_command

import hf_videollm
from hf_videollm import default_checkpoint
from hf_videollm.cli.commands import app, main
from hf_videollm.cli.quiet import quiet_libraries
from hf_videollm.models.errors import MediaWarning
from hf_videollm.synthetic.benchmarks import write_stand_in

QUESTION = "What colour is the shape?"
# Every command that ends well on what this repository carries.
COMMANDS = {
    "help": ("--help",),
    "version": ("--version",),
    "ask": ("ask", "clip.mp4", QUESTION, "--max-new-tokens", "2"),
    "ask-sound": ("ask", "clip.mp4", "How many beeps are there?", "--model", "videollama2-av-tiny"),
    "ask-linvt": ("ask", "clip.mp4", QUESTION, "--model", "linvt-tiny"),
    "ask-ftfv": ("ask", "clip.mp4", QUESTION, "--model", "ftfv-tiny", "--tokens-per-frame", "8"),
    "ask-iva": ("ask", "clip.mp4", QUESTION, "--model", "iva-tiny", "--json"),
    "ask-many": ("ask", "clip.mp4", "-q", QUESTION, "-q", "What shape is it?", "--max-new-tokens", "2"),
    "chat": ("chat", "clip.mp4", "--max-new-tokens", "2"),
    "caption": ("caption", "clip.mp4", "--model", "pllava-tiny", "--max-new-tokens", "2"),
    "info": ("info",),
    "info-linvt": ("info", "--design", "linvt"),
    "flops": ("flops", "pllava-tiny"),
}


def paths(group: Any, above: str = "") -> Iterator[str]:
    """All commands that are no groups, as they are written."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from paths(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


PATHS = set(paths(get_command(app)))


def run(arguments: tuple[str, ...], folder: Path, *start: str) -> subprocess.CompletedProcess[str]:
    """A command in an interpreter that has loaded the large libraries already."""
    environment = {**os.environ, "COLUMNS": "200"}
    start = start or ("-m", "hf_videollm.cli")
    return ready_python.run(*start, *arguments, input=QUESTION, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

    path = tmp_path_factory.mktemp("quiet")
    write_scene_mp4(make_scene(2_000_000, kind="motion"), path / "clip.mp4")
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_ends_well_says_nothing_on_stderr(name: str, folder: Path) -> None:
    """What libraries say while they are loaded is seen by the next test, whose process has not loaded them."""
    result = run(COMMANDS[name], folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == ""


# The others, one after the other in one process: what is said while a library is loaded, is said once.
OTHERS = [
    "ask clip.mp4 What? --max-new-tokens 2",
    "data clips clips --num-videos 2",
    "data long long --num-videos 1 --shortest 8 --longest 8",
    "data check mix.yaml --sample 1",
    "data push mix.yaml me/clips --licence cc0-1.0 --dry-run",
    "convert pllava pllava-official pllava",
    "convert videollama2 videollama2-official videollama2 --vision-config vision.json",
    "convert ftfv qwen-vl llama ftfv --tokens-per-frame 8",
    "convert iva clip llama iva --num-insertions 1",
    "convert xgen-mm xgen-mm-official xgen-mm --vision-config siglip.json",
    "build pllava --vision clip --llm llama built",
    "build pllava --vision clip --llm llama built --overwrite --json",
    "quantize pllava-tiny quantized --preset consumer-nf4",
    "tune-alpha pllava validation.jsonl --alphas 0,4 --max-new-tokens 2",
    "train recipe.yaml --dry-run",
    "train recipe.yaml",
    "train qlora.yaml",
    "finish checkpoint run finished",
    "finish adjustable run-qlora adjustable",
    "finish merged adapter merged",
    "finish qlora run-qlora dequantized",
    "finish linvt before-image-llm linvt-alone",
    "evaluate --model videollama2-av-tiny --tasks music_avqa --data benchmarks --output runs --limit 2 --device cpu",
    "results runs/music_avqa",
    "sweep frames --model videollama2-av-tiny --task music_avqa --data benchmarks --output s1 --values 8 --device cpu",
    "sweep alpha --model pllava --task msvd_qa --data benchmarks --output s2 --values 4 --limit 1 --judge rule",
    "sweep pooling --task msvd_qa --data benchmarks --output s3 --values 1x1x1 --judge rule",
    "sweep tokens-per-frame --model ftfv-tiny --task msvd_qa --data benchmarks --output s4 --values 2 --judge rule",
    "sweep prompt-styles --task msvd_qa --data benchmarks --output s5 --judge rule --values default",
    "look clip.mp4 What? --model linvt-tiny --output look.png --json",
    "recaption frames --model pllava-tiny --output captions.jsonl --max-new-tokens 2",
    "judge-agreement labels.jsonl --judge rule",
    "card pllava-tiny --output card/README.md --repo-id me/pllava-tiny",
    "push start me/start --licence apache-2.0 --dry-run",
]
# Its source is among the reference tensors, which are not in the repository.
NEEDS_REFERENCES = {"convert beats"}
RUN_ALL = """
import sys
from hf_videollm.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as stop:
        print("ended with", stop.code, line)
"""


@pytest.fixture(scope="module")
def sources(folder: Path) -> Path:
    """What the other commands read."""
    pllava_sources.write_tokenizer(
        pllava_sources.write_source(
            folder / "pllava-official", pllava_sources.released_tensors(), pllava_sources.raw_config()
        )
    )
    config = videollama2_sources.raw_config(mm_projector_type="mlp2x_gelu")
    videollama2_sources.write_source(
        folder / "videollama2-official", config, videollama2_sources.official_tensors(config)
    )
    videollama2_sources.write_vision_config(folder / "vision.json")
    ftfv_sources.write_qwen_vl(folder / "qwen-vl")
    ftfv_sources.write_llama(folder / "llama")
    CLIPVisionModel(CLIPVisionConfig(**videollama2_sources.VISION_CONFIG)).save_pretrained(folder / "clip")
    xgen_mm_sources.write_xgen_mm(folder / "xgen-mm-official")
    xgen_mm_sources.write_vision_config(folder / "siglip.json")
    shutil.copytree(default_checkpoint(), folder / "start")
    question = {"role": "user", "content": [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What?"}]}
    record = {"id": "1", "messages": [question, {"role": "assistant", "content": "a dog"}]}
    (folder / "validation.jsonl").write_text(json.dumps(record))
    for task in ("music_avqa", "msvd_qa"):
        write_stand_in(task, folder / "benchmarks" / task, 2)
    (folder / "frames").mkdir()
    shutil.copy(folder / "clip.mp4", folder / "frames")
    label = {"id": "1", "question": "Who?", "answer": "a dog", "prediction": "a dog", "label": "yes"}
    (folder / "labels.jsonl").write_text(json.dumps(label))
    arguments = "{output_dir: run, max_steps: 1, per_device_train_batch_size: 1, use_cpu: true}"
    (folder / "mix.yaml").write_text("sources: [{annotation: clips/records.jsonl, source: clips}]")
    (folder / "recipe.yaml").write_text(f"model: start\nrecords: clips/records.jsonl\narguments: {arguments}")
    lora = "quantize: nf4\nlora: {target_modules: [q_proj]}\n"
    recipe = f"model: start\nrecords: clips/records.jsonl\narguments: {arguments.replace('run', 'run-qlora')}"
    (folder / "qlora.yaml").write_text(f"{lora}{recipe}")
    base = hf_videollm.PllavaForConditionalGeneration.from_pretrained(folder / "start")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    hf_videollm.save_checkpoint(*make_linvt(write_llava(folder / "llava")), folder / "before-image-llm")
    return folder


def test_the_other_commands_say_nothing_on_stderr_either(sources: Path) -> None:
    """What torch says while it is loaded is seen by the test of the README's demo, in an interpreter of its own."""
    result = ready_python.run("-c", RUN_ALL, *OTHERS, cwd=sources, timeout=600, with_transformers=False)
    ended = [line for line in result.stdout.splitlines() if line.startswith("ended with")]
    assert ended == [f"ended with 0 {line}" for line in OTHERS], result.stderr
    assert result.stderr == ""


def test_every_command_is_run_above() -> None:
    lines = {" ".join(arguments) for arguments in COMMANDS.values()} | set(OTHERS)
    run_above = {path for path in PATHS if any(line == path or line.startswith(f"{path} ") for line in lines)}
    assert run_above == PATHS - NEEDS_REFERENCES


@pytest.mark.parametrize("module", ["training.sft", "synthetic.clips", "data.synthetic_long"])
def test_modules_that_are_commands_say_nothing_on_stderr(module: str, folder: Path) -> None:
    """They are run before anything could be hidden."""
    result = ready_python.run("-m", f"hf_videollm.{module}", "--help", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Examples:" in result.stdout


FUTURE_WARNINGS_ARE_ERRORS = """
import warnings
warnings.simplefilter("error", FutureWarning)
from hf_videollm.cli import main
main()
"""


@pytest.mark.parametrize(
    "name",
    [
        "ask-sound",
        "flops",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ask", "ask-linvt", "ask-ftfv", "ask-iva")),
    ],
)
def test_with_debug_nothing_that_we_call_is_deprecated(name: str, folder: Path) -> None:
    """The same commands with the messages of libraries shown: none of them is about our calls."""
    result = run((*COMMANDS[name], "--debug"), folder, "-c", FUTURE_WARNINGS_ARE_ERRORS)
    assert result.returncode == 0, result.stderr
    for word in ("FutureWarning", "deprecated. Use", "will be removed"):
        assert word not in result.stderr


def test_messages_are_hidden_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those of loggers with a level of their own; the process is left as it was."""
    logger = logging.getLogger("some_library")
    logger.setLevel(logging.DEBUG)
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn("outside", UserWarning, stacklevel=1)
    with quiet_libraries():
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
        warnings.warn("noise of a library", FutureWarning, stacklevel=1)
        warnings.warn("clip.mp4: the video is damaged", MediaWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: clip.mp4: the video is damaged\n"
    assert logger.isEnabledFor(logging.WARNING)
    with pytest.warns(FutureWarning):
        warnings.warn("noise of a library", FutureWarning, stacklevel=1)


def test_with_debug_messages_of_libraries_are_shown(
    folder: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A control: the same noise is hidden without the option."""
    import hf_videollm.costs.info as module

    facts = module.describe_checkpoint

    def noisy(*arguments: Any, **options: Any) -> Any:
        warnings.warn("noise of a library", UserWarning, stacklevel=1)
        return facts(*arguments, **options)

    monkeypatch.setattr(module, "describe_checkpoint", noisy)
    code, _, _ = cli("info", "--json")
    assert code == 0
    with pytest.warns(UserWarning, match="noise of a library"):
        cli("info", "--json", "--debug")


@pytest.mark.parametrize("ours", [True, False], ids=["transformers", "no-transformers"])
@pytest.mark.parametrize("hubs", [True, False], ids=["hub", "no-hub"])
def test_progress_bars_are_hidden_and_come_back(ours: bool, hubs: bool) -> None:
    """Of both libraries, as they were before; the environment of other programs stays as it is."""
    environment = dict(os.environ)
    shown = (transformers_logging.is_progress_bar_enabled, lambda: not are_progress_bars_disabled())
    before = [is_shown() for is_shown in shown]
    try:
        (transformers_logging.enable_progress_bar if ours else transformers_logging.disable_progress_bar)()
        (enable_progress_bars if hubs else disable_progress_bars)()
        with quiet_libraries():
            assert [is_shown() for is_shown in shown] == [False, False]
            assert tqdm(range(2), file=io.StringIO()).disable
        assert [is_shown() for is_shown in shown] == [ours, hubs]
        assert dict(os.environ) == environment
    finally:
        (transformers_logging.enable_progress_bar if before[0] else transformers_logging.disable_progress_bar)()
        (enable_progress_bars if before[1] else disable_progress_bars)()


def test_main_leaves_signals_as_they_were(cli: Any) -> None:
    def mine(*_: Any) -> None:
        raise AssertionError

    numbers = [signal.SIGTERM, signal.SIGHUP]
    before = [signal.signal(number, mine) for number in numbers]
    try:
        for arguments in (["--version"], ["ask", "gone.mp4", "Q"]):
            cli(*arguments)
            assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_main_ends_as_after_ctrl_c(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: while a command runs, the signals are ours."""
    import hf_videollm.costs.info as module

    for number in (signal.SIGTERM, signal.SIGHUP):
        monkeypatch.setattr(module, "describe_checkpoint", lambda *_, number=number: signal.raise_signal(number))
        code, _, err = cli("info")
        assert (code, err) == (130, "Stopped; nothing half-written is left behind.\n")


def test_main_runs_in_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes = []

    def call() -> None:
        try:
            main(["--version"])
        except SystemExit as stop:
            codes.append(stop.code)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert codes == [0]
    assert capsys.readouterr().out == f"{hf_videollm.__version__}\n"
