"""Folders and files appear complete or not at all, and a killed run leaves nothing for good."""

import contextlib
import errno
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_steps import NEW, OLD, names, read, write
from killing import killed_at
from safetensors import SafetensorError

from hf_videollm import atomic, atomic_claim, atomic_exchange
from hf_videollm.atomic import DiskFullError, atomic_file, atomic_folder
from hf_videollm.disk_full import full_disk_reason, name_full_disk

SUPPORT = Path(__file__).with_name("support")


def save(destination: Path, content: dict[str, str]) -> None:
    with atomic_folder(destination, overwrite=True) as folder:
        write(folder, content)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a full destination is replaced: at once, or in two steps where the file system cannot do that."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    else:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        can = atomic_exchange.exchange(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a").rmdir()
        (tmp_path / "b").rmdir()
        if not can:
            pytest.skip("this file system cannot exchange two paths")
    return str(request.param)


@pytest.fixture(params=["flock", "process number"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a dead run is told from a live one: by its lock, or by its process where the file system has no locks."""
    if request.param == "process number":
        monkeypatch.setattr(atomic_claim, "try_lock", lambda descriptor: None)
    return str(request.param)


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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_of_schedulers_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    """kill, containers and job schedulers do not send Ctrl-C; the command line treats their signals alike."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from hf_videollm.cli import commands as cli
from hf_videollm.atomic import atomic_folder

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


# Killed runs


@pytest.mark.parametrize(
    ("what", "way", "locks", "states"),
    [
        ("replace", "exchange", "flock", ["new", "old"]),
        ("replace", "two renames", "flock", ["new", "old"]),
        ("make", "exchange", "flock", ["new", "none"]),
        ("make", "exchange", "process number", ["new", "none"]),
        ("file", "exchange", "flock", ["new", "old"]),
    ],
    indirect=["way", "locks"],
)
def test_a_run_that_is_killed_at_any_step_leaves_the_old_content_or_the_new(
    tmp_path: Path, what: str, way: str, locks: str, states: list[str]
) -> None:
    """And the next run finds it, removes what the dead one left, and writes its own."""
    (tmp_path / "work").mkdir()
    command = [sys.executable, SUPPORT / "kill_steps.py", tmp_path / "work", what]
    flags = [str(int(way == "exchange")), str(int(locks == "flock"))]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # The control: it was killed early and late, often, and in the end not at all.
    assert report["seen"] == states
    assert (report["first"], report["last"]) == (states[1], "new")
    assert report["steps"] > 50


def test_a_plain_writer_fails_the_same_test(tmp_path: Path) -> None:
    """The control: writing in place is caught in the middle."""

    def in_place() -> None:
        for path in OLD:
            (tmp_path / "model" / path).unlink(missing_ok=True)
        write(tmp_path / "model", NEW)

    found = []
    for step in range(30):
        save(tmp_path / "model", OLD)
        killed_at(step, in_place, ())
        found.append(read(tmp_path / "model"))
    assert [state for state in found if state not in (OLD, NEW)]


def test_what_a_live_run_writes_is_left_alone(tmp_path: Path, locks: str) -> None:
    """The same names, the same next run: only death makes the difference."""
    if locks == "process number" and not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    destination = tmp_path / "model"
    told, to_end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_end[1])
        with atomic_folder(destination) as folder:
            write(folder, OLD)
            os.write(told[1], b"x")
            os.read(to_end[0], 1)
            os._exit(0)  # without cleaning up: to everybody else this is as good as a kill
    os.read(told[0], 1)
    save(destination, NEW)
    assert ".model.partial" in names(tmp_path)
    assert [read(path) for path in (tmp_path / ".model.partial").glob("*.new")] == [OLD]
    os.write(to_end[1], b"x")
    os.waitpid(child, 0)
    save(destination, NEW)
    assert names(tmp_path) == ["model"]


def test_runs_of_other_machines_are_never_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_claim, "try_lock", lambda descriptor: None)
    there = atomic_claim._identity(os.getpid())
    assert not atomic_claim._process_is_gone(there)
    place, pid, start = there.rsplit(" ", 2)
    assert atomic_claim._process_is_gone(f"{place} {pid} {int(start) + 1}")  # the number was given away again
    for other in (f"elsewhere {pid} 1", "", "unknown 1 1", f"{place} x 1", "broken"):
        assert not atomic_claim._process_is_gone(other)


class Interleaving:
    """Counts the calls of one run that see or change names on the disk, and lets another run work between two of them.

    The other run of the same destination begins just before the call number `begin`, and ends just before `end`.
    """

    CALLS = ("mkdir", "rmdir", "rename", "replace", "stat", "lstat", "open", "listdir", "scandir", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch, destination: Path, begin: int, end: int) -> None:
        self.count, self.begin, self.end, self.other = 0, begin, end, contextlib.ExitStack()
        self.destination, self.busy = destination, False
        for name in self.CALLS:
            patch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            if not self.busy:
                self.count += 1
                self.busy = True
                if self.count == self.begin:
                    write(self.other.enter_context(atomic_folder(self.destination, overwrite=True)), OTHER)
                if self.count == self.end:
                    self.other.close()
                self.busy = False
            return call(*arguments, **options)

        return wrapper


OTHER = {"config": "of another run", "deep/weights": "of another run"}


def save_with(patch: pytest.MonkeyPatch, destination: Path, begin: int, end: int) -> int:
    """Save NEW over OLD while another run saves OTHER; returns how many calls that took."""
    write(destination, OLD)
    with patch.context() as during:
        between = Interleaving(during, destination, begin, end)
        save(destination, NEW)
        between.busy = True
        between.other.close()
    return between.count


@pytest.mark.parametrize("length", [1, 5])
def test_another_run_may_come_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, length: int
) -> None:
    monkeypatch.setattr(atomic, "sync", lambda path: None)
    monkeypatch.setattr(atomic, "sync_tree", lambda path: None)
    calls = save_with(monkeypatch, tmp_path / "alone", -1, -1)
    assert calls > 20
    for begin in range(1, calls + 1):
        folder = tmp_path / str(begin)
        save_with(monkeypatch, folder / "model", begin, begin + length)
        assert read(folder / "model") in (NEW, OTHER), begin
        assert names(folder) == ["model"], begin


def test_several_live_runs_of_one_destination_end_with_one_whole_content(tmp_path: Path, way: str) -> None:
    contents = [{"config": str(number), "deep/weights": str(number) * 1000} for number in range(4)]
    errors: list[BaseException] = []

    def work(content: dict[str, str]) -> None:
        try:
            for _ in range(5):
                save(tmp_path / "model", content)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read(tmp_path / "model") in contents
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_between_two_renames_restores_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def interrupted(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 3:  # refused as occupied, put aside, and now the new one
            raise error
        rename(source, target)

    write(tmp_path / "old", OLD)
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(error):
        save(tmp_path / "old", NEW)
    assert read(tmp_path / "old") == OLD
    assert names(tmp_path) == ["old"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / ".model.partial").write_text("mine")
    with pytest.raises(FileExistsError, match=r"\.model\.partial must be a folder"):
        save(tmp_path / "model", NEW)
    (tmp_path / ".model.partial").unlink()
    (tmp_path / ".model.partial").symlink_to(tmp_path)
    with pytest.raises(FileExistsError, match=r"\.model\.partial must be a folder"):
        save(tmp_path / "model", NEW)


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, ".hidden", "two words", "x" * 244, "x" * 246])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, OLD)
    save(tmp_path / name, NEW)
    assert read(tmp_path / name) == NEW
    assert names(tmp_path) == [name]


# Permissions


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_modes_are_those_of_new_files_and_the_umask_is_never_touched(tmp_path: Path, mask: int) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(SUPPORT)!r})
from kill_steps import load_atomic
atomic = load_atomic()
atomic_file, atomic_folder = atomic.atomic_file, atomic.atomic_folder
os.umask({mask})
os.umask = None
with atomic_folder("model") as folder:
    (folder / "deep").mkdir(mode=0o700)
    for name in ("private", "deep/private"):
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
with atomic_file("file") as temporary:
    temporary.unlink()
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
with atomic_file("exact", mode=0o640):
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    folder, file = 0o777 & ~mask, 0o666 & ~mask
    assert modes == {
        "model": folder,
        "model/deep": folder,
        "model/private": file,
        "model/deep/private": file,
        "file": file,
        "exact": 0o640,
    }


# What is no file


def test_a_file_replaces_only_files(tmp_path: Path) -> None:
    """Not a pipe, which stands here for a device, nor what a link leads to; a file is replaced."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link", "folder"):
        with pytest.raises(FileExistsError, match="not a regular file"), atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["folder", "link", "pipe"]
    (tmp_path / "file").write_text("old")
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


# Full disks


def _full(number: int) -> Callable[[Path], None]:
    def write_until_full(folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder / "weights"))

    return write_until_full


def _rust(folder: Path) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def _caused(folder: Path) -> None:
    try:
        _rust(folder)
    except SafetensorError as error:
        raise RuntimeError("could not save") from error


@pytest.mark.parametrize(
    ("fail", "number"),
    [(_full(number), number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    + [(_rust, errno.ENOSPC), (_caused, errno.ENOSPC)],
)
def test_a_full_disk_is_one_line_and_the_old_content_stays(
    tmp_path: Path, fail: Callable[[Path], None], number: int
) -> None:
    write(tmp_path / "model", OLD)
    with (
        pytest.raises(DiskFullError, match=r"model was not written: .* is kept; make room") as caught,
        atomic_folder(tmp_path / "model", overwrite=True) as folder,
    ):
        fail(folder)
    assert caught.value.errno == number
    assert "\n" not in str(caught.value)
    assert read(tmp_path / "model") == OLD
    assert names(tmp_path) == ["model"]


def test_a_folder_inside_of_a_temporary_one_is_told_by_the_name_that_the_user_gave(tmp_path: Path) -> None:
    """As when a command writes several things, each complete or not at all, into a destination."""
    with (
        pytest.raises(DiskFullError) as caught,
        atomic_folder(tmp_path / "model") as outer,
        atomic_folder(outer / "part", overwrite=True) as inner,
    ):
        _full(errno.ENOSPC)(inner)
    assert str(caught.value).startswith(f"{tmp_path / 'model'} was not written: ")
    assert ".partial" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("space"), SafetensorError("(os error 5)")])
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception) -> None:
    assert full_disk_reason(error) is None


@pytest.mark.parametrize("place", ["elsewhere/copy", "model2/weights", "modelx", ".model/x"])
def test_a_disk_that_is_full_elsewhere_is_named(tmp_path: Path, place: str) -> None:
    """Room in the destination would help nobody when it is the one of temporary files that is full."""

    def told(file: Path | None, destination: Path) -> str:
        with pytest.raises(DiskFullError) as caught, name_full_disk(destination):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None if file is None else str(file))
        return str(caught.value)

    other = tmp_path / place
    told_elsewhere = told(other, tmp_path / "model")
    assert f"(for {other})" in told_elsewhere
    assert "choose a destination" not in told_elsewhere
    # Control: what belongs to the destination, and what has no name, is told as the destination's.
    for own in (None, tmp_path, tmp_path / "model", tmp_path / "model" / "x", tmp_path / ".model.partial" / "a" / "x"):
        message = told(own, tmp_path / "model")
        assert "(for" not in message
        assert "or choose a destination on another disk" in message


def test_what_a_library_says_of_a_full_disk_is_repeated(tmp_path: Path) -> None:
    words = "unable to write to file </torch_1_2>: No space left on device (28)"
    with pytest.raises(DiskFullError) as caught, name_full_disk(tmp_path / "model"):
        raise RuntimeError(f"Caught RuntimeError in a worker.\nOriginal Traceback:\n  File x\nRuntimeError: {words}\n")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_limit_on_file_sizes_is_told_alike(tmp_path: Path, kind: str) -> None:
    """A real one, of the system (EFBIG)."""

    def save_file(text: str) -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text(text)

    save_as = {"folder": lambda text: save(tmp_path / "model", {"weights": text}), "file": save_file}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    save(tmp_path / "model", OLD)
    save_file("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(DiskFullError, match="file too large"):
            save_as[kind]("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (read(tmp_path / "model"), (tmp_path / "file").read_text()) == (OLD, "old")
    assert names(tmp_path) == ["file", "model"]
