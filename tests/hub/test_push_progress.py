"""Hashing and copying before an upload: exact, shown on a terminal, and silent where stderr is none."""

import io
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from hf_videollm.hub import push_progress
from hf_videollm.hub.push_progress import copy_files, hash_files, step_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Files of all lengths around the size of a part."""
    monkeypatch.setattr(push_progress, "CHUNK", 8)
    found = {f"sub/{size}": tmp_path / f"{size}.bin" for size in (0, 1, 7, 8, 9, 16, 100)}
    for size, file in enumerate(found.values()):
        file.write_bytes(bytes(range(size)))
    return found


@pytest.fixture
def _hidden() -> Iterator[None]:
    """The bars of libraries are hidden, as in the command line."""
    disable_progress_bars()
    yield
    enable_progress_bars()


def work(files: dict[str, Path], folder: Path, show: bool) -> None:
    assert hash_files(files, "Hashing me/x", show) == {
        path: sha256(file.read_bytes()).digest() for path, file in files.items()
    }
    copy_files(files, folder, "Copying x", show)
    assert {path: (folder / path).read_bytes() for path in files} == {
        path: file.read_bytes() for path, file in files.items()
    }
    with step_line("nf4", show) as tell:
        tell("Writing")


@pytest.mark.usefixtures("_hidden")
def test_a_terminal_sees_what_is_done(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    work(files, tmp_path / "copy", show=True)
    for words in ("Hashing me/x", "Copying x", "nf4: Writing"):
        assert words in terminal.getvalue()
    assert are_progress_bars_disabled(), "they were hidden before, and are so again"


@pytest.mark.usefixtures("_hidden")
def test_hidden_bars_stay_hidden_unless_asked_for(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    work(files, tmp_path / "copy", show=False)
    assert terminal.getvalue() == ""


def test_a_pipe_gets_nothing(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work(files, tmp_path / "copy", show=True)
    assert capsys.readouterr().err == ""
