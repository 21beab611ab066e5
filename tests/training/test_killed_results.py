"""The result of a training is replaced by another one, and killed (SIGKILL) at every step: no mixture ever loads."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from killing import killed_at
from safetensors.torch import load_file, save_file

from hf_videollm.atomic import atomic_files
from hf_videollm.training.result import save_result
from hf_videollm.training.saving import SavingMixin

FILES = ("training/result.py", "hf_videollm/atomic.py")
# Files of a result -> the numbers in its weights. One file and shards, a model and an adapter, exclude each other.
Result = dict[str, int | str]
ONE: Result = {"config.json": "one", "model.safetensors": 1}
SHARDS: Result = {
    "config.json": "two",
    "model.safetensors.index.json": "two",
    "model-00001-of-00002.safetensors": 2,
    "model-00002-of-00002.safetensors": 2,
}
ADAPTER: Result = {"adapter_config.json": "three", "adapter_model.safetensors": 3, "base_model.json": "three"}
PAIRS = [(ONE, SHARDS), (SHARDS, ONE), (ONE, ADAPTER), (ADAPTER, ONE), (SHARDS, {**SHARDS, "config.json": "again"})]


def write(folder: Path, result: Result) -> None:
    for name, content in result.items():
        if isinstance(content, int):
            save_file({"a": torch.full((3,), float(content))}, folder / name)
        else:
            (folder / name).write_text(content)


def read(folder: Path) -> Result | None:
    """What would be loaded from a folder: all files of a result; `None` if it is no model."""
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    found: Result = {}
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            found[path.name] = int(load_file(path)["a"][0])
        elif path.is_file() and not path.name.startswith("."):
            found[path.name] = path.read_text()
    return found


def trainer_of(folder: Path, result: Result) -> Any:
    arguments = SimpleNamespace(output_dir=str(folder), should_save=True)
    return SimpleNamespace(args=arguments, save_model=lambda place: write(Path(place), result))


def seen_after_kills(folder: Path, old: Result, save: Any, every: int) -> list[Result | None]:
    seen = []
    step = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder, old)
        if not killed_at(step, save, FILES):
            return [*seen, read(folder)]
        seen.append(read(folder))
        step += every


@pytest.mark.parametrize("every", [14, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_no_mixture_of_two_results_loads(tmp_path: Path, old: Result, new: Result, every: int) -> None:
    folder = tmp_path / "run"
    seen = seen_after_kills(folder, old, lambda: save_result(trainer_of(folder, new)), every)
    assert seen[0] == old
    assert seen[-1] == new
    assert all(result in (old, new, None) for result in seen)


def test_control_files_that_are_moved_one_by_one_are_a_mixture(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def save() -> None:
        with atomic_files(folder) as temporary:
            write(temporary, {**SHARDS, "config.json": "again", "model-00002-of-00002.safetensors": 5})

    seen = seen_after_kills(folder, SHARDS, save, 1)
    mixed = {**SHARDS, "config.json": "again"}
    assert mixed in seen


def test_a_checkpoint_that_is_written_over_counts_as_unfinished_meanwhile(tmp_path: Path) -> None:
    """With new weights and the old optimizer, it would look whole after a kill."""
    found: list[set[str]] = []

    class Saver:
        def save_model(self, output_dir: str, _internal_call: bool) -> None:
            found.append({path.name for path in Path(output_dir).iterdir()})

    class Trainer(SavingMixin, Saver):
        args = SimpleNamespace(should_save=True, output_dir=str(tmp_path))
        model = SimpleNamespace(name_or_path="")

    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    write(folder, {**ONE, "optimizer.pt": "old", "trainer_state.json": "old"})
    Trainer().save_model(str(folder), _internal_call=True)
    assert found == [{"optimizer.pt"}]
