"""Pickled weights are read by a child process, and a hostile one gives an error and nothing else."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch

from hf_videollm.convert.pickle_child import RefusedError
from hf_videollm.convert.pickle_reader import read_weight_file, scan_any_weights
from hf_videollm.convert.stream import read_tensor
from hf_videollm.hub import pickle_child, pickle_reader
from hf_videollm.models.errors import CheckpointError

TABLE = torch.randn(4, 2)
TENSORS = {
    "model.a.weight": torch.randn(3, 5, dtype=torch.bfloat16),
    "model.b.weight": torch.randn(5, 3).T,
    "model.c.weight": torch.nn.Parameter(torch.randn(2)),
    "layers.0.table": TABLE,
    "layers.1.table": TABLE,
    "layers.2.table": TABLE[:2],
}


class Command:
    """Unpickles to the result of a command."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_arrive_unchanged(tmp_path: Path, workspace: Path, new_format: bool) -> None:
    torch.save(TENSORS, tmp_path / "w.bin", _use_new_zipfile_serialization=new_format)
    found = read_weight_file(tmp_path / "w.bin", workspace)
    assert found.tensors.keys() == TENSORS.keys()
    assert found.settings == {}
    for name, tensor in TENSORS.items():
        read = read_tensor(found.tensors[name])
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        # Messages name the file that the user knows.
        assert found.tensors[name].place == tmp_path / "w.bin"
    # Nothing that is written is a pickle.
    assert {path.suffix for path in workspace.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_settings_of_beats_come_along(tmp_path: Path, workspace: Path) -> None:
    settings = {"encoder_layers": 12, "deep_norm": True, "activation_fn": "gelu", "nested": {"dropped": 1}}
    torch.save({"cfg": settings, "model": TENSORS}, tmp_path / "beats.pt")
    found = read_weight_file(tmp_path / "beats.pt", workspace)
    assert found.tensors.keys() == TENSORS.keys()
    assert found.settings == {"encoder_layers": 12, "deep_norm": True, "activation_fn": "gelu"}


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, workspace: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"w": Command(os.system, f"touch {trap}")}, tmp_path / "evil.bin")
    with pytest.raises(CheckpointError, match=r"evil\.bin is a pickle that wants to run (posix|nt)\.system") as caught:
        read_weight_file(tmp_path / "evil.bin", workspace)
    assert "\n" not in str(caught.value)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Command(eval, f"open({str(trap)!r}, 'w')")))
    with pytest.raises(CheckpointError, match=r"plain\.bin cannot be read .* \(it holds more than tensors\)"):
        read_weight_file(tmp_path / "plain.bin", workspace)
    assert not trap.exists()
    assert not [path for path in workspace.rglob("*") if path.is_file()]


@pytest.mark.parametrize("call", [Command(os.system, "true"), Command(eval, "1"), Command(open, "trap", "w")])
def test_nothing_but_tensors_is_built(tmp_path: Path, call: Command) -> None:
    torch.save({"w": call}, tmp_path / "evil.bin")
    with pytest.raises(pickle.UnpicklingError, match="nsupported"):
        pickle_child.copy(tmp_path / "evil.bin", tmp_path)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "w.bin")
    with pytest.raises(RefusedError, match=r"tensor 'w' would need 4,000,000,000,000 bytes"):
        pickle_child.copy(tmp_path / "w.bin", tmp_path)
    # None of them alone, but all together.
    torch.save({f"w{number}": torch.zeros(1).expand(10**5) for number in range(4000)}, tmp_path / "many.bin")
    with pytest.raises(RefusedError, match=r"tensors would need 1,600,000,000 bytes"):
        pickle_child.copy(tmp_path / "many.bin", tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_compressed_bomb_is_stopped(tmp_path: Path, workspace: Path) -> None:
    """Records of a checkpoint are stored; a deflated one could grow a thousandfold in memory."""
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "plain.bin")
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, zipfile.ZipFile(tmp_path / "bomb.bin", "w") as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"bomb\.bin cannot be read as a file"):
        read_weight_file(tmp_path / "bomb.bin", workspace)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list instead of named tensors"),
        ({}, "holds a dict instead of named tensors"),
        ({"w": 3}, "entry 'w' is not a tensor but a int"),
        ({"w": {"x": torch.ones(1)}}, "entry 'w' is not a tensor but a dict"),
        ({3: torch.ones(1)}, "entry 3 is not a tensor"),
        ({"w": torch.eye(3).to_sparse()}, "tensor 'w' is sparse"),
        ({"cfg": [1], "model": {"w": torch.ones(1)}}, "'cfg' is not a dict"),
    ],
)
def test_other_content_is_named(content: Any, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        pickle_child.take_apart(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK not an archive", r"w\.bin cannot be read as a file of weights"),
        (b"\0\0\0\x20ftypisom", r"w\.bin is no PyTorch file \(it begins with .*ftypisom'\): pass a file of weights"),
        (b"", r"w\.bin is no PyTorch file \(it is empty\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"w\.bin is a Git LFS pointer"),
        (None, r"w\.bin is missing"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, workspace: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weight_file(tmp_path / "w.bin", workspace)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory can be bounded on Linux only")
def test_the_child_is_bounded(tmp_path: Path) -> None:
    """Memory that a small file could never need is not given."""
    code = (
        f"import runpy, torch; child = runpy.run_path({str(pickle_reader.CHILD)!r}); child['limit_resources'](1000); "
        "torch.zeros(3 * 2**30, dtype=torch.uint8)"
    )
    run = ready_python.run("-c", code)
    assert run.returncode == 1
    assert "memory" in run.stderr


def test_a_full_disk_is_seen_before_copying(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "w.bin")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 10}))
    with pytest.raises(CheckpointError, match=r"w\.bin must be copied to the disk .* has 10 bytes free"):
        read_weight_file(tmp_path / "w.bin", workspace)


def test_a_child_that_hangs_is_ended(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "w.bin")
    monkeypatch.setattr(pickle_reader, "BASE_SECONDS", 0.01)
    with pytest.raises(CheckpointError, match=r"w\.bin was not read within"):
        read_weight_file(tmp_path / "w.bin", workspace)


def test_a_child_that_dies_is_told(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(pickle_reader, "CHILD", tmp_path / "dies.py")
    torch.save(TENSORS, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"w\.bin cannot be read: .*\(Killed\)"):
        read_weight_file(tmp_path / "w.bin", workspace)


def write_shards(folder: Path) -> None:
    names = list(TENSORS)
    for number in (1, 2):
        part = {name: TENSORS[name] for name in names[number - 1 :: 2]}
        torch.save(part, folder / f"pytorch_model-{number:05}-of-00002.bin")


def test_folders_of_pickles(tmp_path: Path, workspace: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    assert scan_any_weights(folder, workspace) is None
    write_shards(folder)
    shards = scan_any_weights(folder, workspace)
    assert shards is not None
    assert shards.tensors.keys() == TENSORS.keys()
    assert shards.origin == shards.folder == folder
    assert "read in a separate process" in shards.notes[0]
    (folder / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00003-of-00003.bin"}}'
    )
    with pytest.raises(CheckpointError, match=r"pytorch_model-00003-of-00003\.bin is missing"):
        scan_any_weights(folder, workspace)
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../elsewhere.bin"}}')
    with pytest.raises(CheckpointError, match=r"names '\.\./elsewhere\.bin', which is no bin file of this folder"):
        scan_any_weights(folder, workspace)
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        scan_any_weights(folder, workspace)
    torch.save(TENSORS, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match=r"is in two files of"):
        scan_any_weights(folder, workspace)


def test_no_process_is_started_for_a_video(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(pickle_reader, "_run_child", lambda file, folder: started.append(file))
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    with pytest.raises(CheckpointError, match="no PyTorch file"):
        read_weight_file(tmp_path / "clip.mp4", workspace)
    assert not started
    # Control: a process is started for what could be a file of PyTorch.
    (tmp_path / "w.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"settings\.json is missing"):
        read_weight_file(tmp_path / "w.bin", workspace)
    assert started == [tmp_path / "w.bin"]
