"""Reading and writing safetensors folders tensor by tensor."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_videollm.convert.stream import (
    TensorPlan,
    read_header,
    read_json,
    read_tensor,
    require_folder,
    scan_weights,
    write_file,
    write_sharded,
)
from hf_videollm.models.errors import CheckpointError

TENSORS = {
    "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "full": torch.randn(4, 2),
    "double": torch.randn(3, dtype=torch.float64),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "flags": torch.tensor([True, False, True]),
    "transposed": torch.randn(3, 5).T,
    "counts": torch.tensor([1, -2], dtype=torch.int64),
}


def plans(tensors: dict[str, torch.Tensor]) -> list[TensorPlan]:
    return [TensorPlan(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]


def write_shards(folder: Path, count: int = 3) -> dict[str, torch.Tensor]:
    tensors = {f"t{number}": torch.full((4,), float(number)) for number in range(count)}
    write_sharded(folder, plans(tensors), tensors.__getitem__, max_shard_size=16)
    return tensors


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")
    stored = scan_weights(tmp_path).tensors
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        read = read_tensor(stored[name])
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_what_is_written_the_library_reads(tmp_path: Path) -> None:
    seen: list[int] = []
    write_file(tmp_path / "model.safetensors", plans(TENSORS), TENSORS.__getitem__, seen.append)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert sum(seen) == sum(tensor.nbytes for tensor in TENSORS.values())
    with (tmp_path / "model.safetensors").open("rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}


def test_shards_keep_to_their_size(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.full((number + 1,), float(number)) for number in range(8)}
    files = write_sharded(tmp_path, plans(tensors), tensors.__getitem__, max_shard_size=24)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 36, "total_size": 144}
    read = {}
    for file in files:
        part = load_file(file)
        # A tensor that is larger than a shard has a file of its own.
        assert sum(tensor.nbytes for tensor in part.values()) <= 24 or len(part) == 1
        assert all(index["weight_map"][name] == file.name for name in part)
        read |= part
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert scan_weights(tmp_path).tensors.keys() == tensors.keys()


def test_a_small_checkpoint_is_one_file_without_index(tmp_path: Path) -> None:
    files = write_sharded(tmp_path, plans(TENSORS), TENSORS.__getitem__)
    assert [file.name for file in files] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_every_tensor_is_asked_for_once_and_must_be_as_planned(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(name: str) -> torch.Tensor:
        asked.append(name)
        return TENSORS[name]

    write_sharded(tmp_path, plans(TENSORS), load, max_shard_size=20)
    assert sorted(asked) == sorted(TENSORS)
    with pytest.raises(ValueError, match=r"full has the shape \(4, 2\) instead of \(2, 4\)"):
        write_file(tmp_path / "f", [TensorPlan("full", (2, 4), torch.float32)], TENSORS.__getitem__)
    with pytest.raises(ValueError, match="full is planned twice"):
        write_sharded(tmp_path, plans({"full": TENSORS["full"]}) * 2, TENSORS.__getitem__)


def test_a_tensor_may_come_in_pieces(tmp_path: Path) -> None:
    whole = torch.randn(4, 3)
    plan = [TensorPlan("whole", (4, 3), torch.float32)]
    write_file(tmp_path / "f", plan, lambda name: iter(whole.split(1)))
    assert torch.equal(load_file(tmp_path / "f")["whole"], whole)
    with pytest.raises(ValueError, match="whole has pieces of 36 bytes instead of 48"):
        write_file(tmp_path / "f", plan, lambda name: iter(whole[:3].split(1)))
    with pytest.raises(ValueError, match=r"whole is torch\.float16 instead of torch\.float32"):
        write_file(tmp_path / "f", plan, lambda name: iter(whole.half().split(1)))


def test_shards_without_index_are_read(tmp_path: Path) -> None:
    tensors = write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    stored = scan_weights(tmp_path)
    assert stored.tensors.keys() == tensors.keys()
    assert stored.origin == tmp_path


def test_shards_win_over_a_single_file(tmp_path: Path) -> None:
    tensors = write_shards(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    stored = scan_weights(tmp_path)
    assert stored.tensors.keys() == tensors.keys()
    assert "model.safetensors was ignored" in stored.notes[0]


def test_a_single_file_is_read_beside_a_stale_index(tmp_path: Path) -> None:
    save_file({"one": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"one": "model.safetensors"}}')
    assert scan_weights(tmp_path).tensors.keys() == {"one"}


def test_shards_of_another_upload_are_left_aside(tmp_path: Path) -> None:
    tensors = write_shards(tmp_path)
    save_file({"stale": torch.zeros(1)}, tmp_path / "model-00001-of-00009.safetensors")
    stored = scan_weights(tmp_path)
    assert stored.tensors.keys() == tensors.keys()
    assert "model-00001-of-00009.safetensors were ignored" in stored.notes[0]


def _cut(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def _empty(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").write_bytes(b"")


def _garbage(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").write_bytes(b"\x80\x02" + b"x" * 200)


def _pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model-00002-of-00003.safetensors").write_text(text)


def _missing(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def _missing_without_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    _missing(folder)


def _mixed(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    save_file({"x": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")


def _twice(folder: Path) -> None:
    save_file({"t0": torch.zeros(1), "t1": torch.zeros(1)}, folder / "model-00002-of-00003.safetensors")


def _lying_index(folder: Path) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"
    file.write_text(json.dumps(index))


def _escaping_index(folder: Path) -> None:
    text = '{"weight_map": {"t0": "../secret.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(text)


def _broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def _empty_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def _pickles(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")


def _nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, r"model-00002-of-00003\.safetensors is truncated or damaged .*download it again"),
        (_empty, r"model-00002-of-00003\.safetensors is truncated or damaged"),
        (_garbage, r"model-00002-of-00003\.safetensors is truncated or damaged"),
        (_pointer, r"model-00002-of-00003\.safetensors is a Git LFS pointer .*git lfs pull"),
        (_missing, r"model-00002-of-00003\.safetensors is missing, but .*index\.json names it"),
        (_missing_without_index, r"model-00002-of-00003\.safetensors is missing"),
        (_mixed, "mixes shards of 2 and 3 files"),
        (_twice, r"t0 is in both .*model-00001-of-00003\.safetensors and .*model-00002-of-00003\.safetensors"),
        (_lying_index, "says that ghost is in model-00001-of-00003"),
        (_escaping_index, r"names '\.\./secret\.safetensors'"),
        (_broken_index, r"index\.json is no readable JSON"),
        (_empty_index, "has no 'weight_map'"),
        (_pickles, r"pytorch_model-00001-of-00002\.bin is a pickle"),
        (_nothing, r"has no weights: expected model\.safetensors.*found only adapter_model\.safetensors"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    write_shards(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        scan_weights(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_type_that_torch_lacks_is_named(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"x in .* has the type U64"):
        read_header(file)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(100)}, tmp_path / "model.safetensors")
    tensor = scan_weights(tmp_path).tensors["x"]
    tensor.file.write_bytes(tensor.file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"model\.safetensors ends in the middle of x"):
        read_tensor(tensor)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is missing"), ("{", "no readable JSON"), ("[1]", "JSON list instead of an object"), ("\xff", "readable")],
)
def test_json_files(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=words):
        read_json(file)


def test_folders_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file: pass the folder of the base"):
        require_folder(tmp_path / "file", "the base")
    with pytest.raises(CheckpointError, match=r"does not exist: .*hf download"):
        require_folder(tmp_path / "nowhere", "the base")
    require_folder(tmp_path, "the base")
