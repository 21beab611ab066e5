"""The command line hides the messages of the libraries below it; `--debug` brings them back."""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, tqdm
from transformers.utils import logging as transformers_logging

import hf_videollm
from hf_videollm.cli.commands import main
from hf_videollm.cli.quiet import quiet_libraries
from hf_videollm.models.errors import MediaWarning

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
    "caption": ("caption", "clip.mp4", "--model", "pllava-tiny", "--max-new-tokens", "2"),
    "info": ("info",),
    "info-linvt": ("info", "--design", "linvt"),
    "flops": ("flops", "--design", "ftfv"),
}


def run(arguments: tuple[str, ...], folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *flags, "-m", "hf_videollm.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

    path = tmp_path_factory.mktemp("quiet")
    write_scene_mp4(make_scene(2_000_000, kind="motion"), path / "clip.mp4")
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_ends_well_says_nothing_on_stderr(name: str, folder: Path) -> None:
    result = run(COMMANDS[name], folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["ask", "ask-sound", "ask-linvt", "ask-ftfv", "ask-iva", "flops"])
def test_with_debug_nothing_that_we_call_is_deprecated(name: str, folder: Path) -> None:
    """The same commands with the messages of libraries shown: none of them is about our calls."""
    result = run((*COMMANDS[name], "--debug"), folder, "-W", "error::FutureWarning")
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

    def noisy(source: str) -> Any:
        warnings.warn("noise of a library", UserWarning, stacklevel=1)
        return facts(source)

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
        monkeypatch.setattr(module, "describe_checkpoint", lambda _, number=number: signal.raise_signal(number))
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
