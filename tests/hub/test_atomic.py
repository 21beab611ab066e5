"""Folders appear complete or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from hf_videollm.hub import atomic
from hf_videollm.hub.atomic import atomic_folder


def fill(destination: Path, then: type[BaseException], overwrite: bool = False) -> None:
    with atomic_folder(destination, overwrite=overwrite) as folder:
        (folder / "file").write_text("half")
        raise then


def test_a_folder_appears_with_everything_in_it(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "down") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "deep" / "down").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["down"]
    assert (tmp_path / "deep" / "down" / "file").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fill(tmp_path / "deep" / "down", then=error)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("old")
    with pytest.raises(RuntimeError):
        fill(tmp_path / "old", then=RuntimeError, overwrite=True)
    assert (tmp_path / "old" / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_overwriting_replaces_everything(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "left_over").write_text("old")
    with pytest.raises(FileExistsError, match="is not empty"), atomic_folder(tmp_path / "old"):
        pass
    with atomic_folder(tmp_path / "old", overwrite=True) as folder:
        (folder / "file").write_text("new")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "empty" / "file").read_text() == "new"


def test_a_destination_filled_meanwhile_is_refused(tmp_path: Path) -> None:
    context = atomic_folder(tmp_path / "new")
    (context.__enter__() / "file").write_text("ours")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("theirs")
    with pytest.raises(FileExistsError, match="is not empty"):
        context.__exit__(None, None, None)
    assert (tmp_path / "new" / "file").read_text() == "theirs"


def test_files_are_never_replaced_by_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(FileExistsError, match="is a file"), atomic_folder(tmp_path / "file", overwrite=True):
        pass
    with pytest.raises(FileExistsError, match="lies below"), atomic_folder(tmp_path / "file" / "below"):
        pass
    assert (tmp_path / "file").read_text() == "keep"


def test_an_interrupt_between_the_two_renames_restores_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(atomic.Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "old", overwrite=True) as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "old" / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_of_schedulers_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    """kill, containers and job schedulers do not send Ctrl-C; the command line treats their signals alike."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from hf_videollm import cli
from hf_videollm.hub.atomic import atomic_folder

def work(*_, **__):
    with atomic_folder({str(tmp_path / "a" / "b")!r}) as folder:
        (folder / "half").write_text("written")
        os.kill(os.getpid(), signal.{name})
        time.sleep(30)

cli.app = work
cli.main(["convert"])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 130, result.stderr
    assert "nothing half-written" in result.stderr
    assert list(tmp_path.iterdir()) == []
