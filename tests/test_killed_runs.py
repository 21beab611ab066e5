"""Saves, conversions and trainings that are killed at random moments; `test_atomic` kills at every step."""

import json
from pathlib import Path

import pytest
import ready_python

from hf_videollm.training import resume
from hf_videollm.training.resume import checkpoint_problem, last_whole_checkpoint, only_run

PROGRAM = Path(__file__).with_name("support") / "kill_saves.py"


def kill(folder: Path, what: str, moments: int) -> dict[str, int]:
    done = ready_python.run(PROGRAM, folder, what, str(moments), "11", timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.parametrize("moments", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["save", "convert", "train"])
def test_a_killed_run_leaves_what_loads_and_the_next_one_tidies_up(tmp_path: Path, what: str, moments: int) -> None:
    seen = kill(tmp_path, what, moments)
    # The control: runs were killed, not all of them after they were done. How many depends on the load of the machine.
    assert seen["killed"] > moments // 5
    assert seen.get("old", 1) + seen.get("finished", 0) > 0


def whole_checkpoint(output: Path, step: int) -> Path:
    import torch
    from safetensors.torch import save_file

    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes(b"x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", None),
        ("trainer_state.json", b""),
        ("trainer_state.json", b'{"global_step": 20, '),
        ("trainer_state.json", b'{"global_step": 10}'),
        ("trainer_state.json", b"[]"),
        ("optimizer.pt", None),
        ("scheduler.pt", None),
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        ("adapter_model.safetensors", b"cut"),
    ],
)
def test_a_half_written_checkpoint_is_passed_over_and_removed(tmp_path: Path, name: str, content: bytes | None) -> None:
    old, new = whole_checkpoint(tmp_path, 9), whole_checkpoint(tmp_path, 20)
    assert last_whole_checkpoint(tmp_path) == str(new)
    (new / name).unlink(missing_ok=True)
    if content is not None:
        (new / name).write_bytes(content)
    assert checkpoint_problem(new) is not None
    assert last_whole_checkpoint(tmp_path, remove=False) == str(old)
    assert new.exists()
    assert last_whole_checkpoint(tmp_path) == str(old)
    assert not new.exists()


def test_sharded_and_light_checkpoints_have_other_files(tmp_path: Path) -> None:
    folder = whole_checkpoint(tmp_path, 1)
    (folder / "optimizer.pt").unlink()
    assert checkpoint_problem(folder) == "optimizer.pt is missing"
    assert checkpoint_problem(folder, ()) is None
    (folder / "model.safetensors").unlink()
    assert checkpoint_problem(folder, ()) == "it holds no weights"
    assert checkpoint_problem(folder, None) is None
    assert last_whole_checkpoint(tmp_path / "absent") is None


def test_two_live_trainings_never_share_a_folder(tmp_path: Path) -> None:
    with only_run(tmp_path) as may_remove:
        assert may_remove
        with pytest.raises(FileExistsError, match="Another run is training into"), only_run(tmp_path):
            pass
        # The other processes of the same run wait for nobody, and remove nothing.
        with only_run(tmp_path, is_writer=False) as may_remove:
            assert not may_remove
    assert list(tmp_path.iterdir()) == []
    # A lock that a killed run has left holds nobody up.
    (tmp_path / ".training.lock").touch()
    with only_run(tmp_path) as may_remove:
        assert may_remove


def test_a_lock_is_never_one_of_a_file_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends, and removes its lock, after this one has opened it."""
    lock, removed = resume.try_lock, []

    def lock_what_is_gone(descriptor: int) -> bool | None:
        if not removed:
            removed.append((tmp_path / ".training.lock").unlink())
        return lock(descriptor)

    monkeypatch.setattr(resume, "try_lock", lock_what_is_gone)
    with only_run(tmp_path) as may_remove:
        assert may_remove
        assert removed
        with pytest.raises(FileExistsError, match="Another run is training into"), only_run(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    # Control: without the second look there would be two.
    removed.clear()
    monkeypatch.setattr(resume, "is_same", lambda descriptor, path: True)
    with only_run(tmp_path), only_run(tmp_path) as may_remove:
        assert may_remove
