"""Stand-ins of the benchmarks, each written once, and PLLaVA's processor, which renders chat templates."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks import write_stand_in
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a task -> folder of its stand-in, which tests only read."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            written = tmp_path_factory.mktemp(name)
            write_stand_in(name, written)
            # Known only now: where PyAV cannot write its sound, every test that asks for it is skipped.
            made[name] = written
        return made[name]

    return folder


@pytest.fixture
def copied(stand_in: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Name of a task -> a copy of its stand-in, which a test may spoil."""

    def folder(name: str) -> Path:
        return shutil.copytree(stand_in(name), tmp_path / name)

    return folder


@pytest.fixture
def load() -> Callable[[str, Path], list[Item]]:
    """Reads all items of a task from a folder."""

    def items(name: str, folder: Path) -> list[Item]:
        return list(find_task(name).items(DataFiles(folder)))

    return items


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], Any]], None]:
    """Changes a JSON file: the function gets its content and changes it, or gives back another."""

    def change(path: Path, function: Callable[[Any], Any]) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        changed = function(value)
        path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")

    return change


@pytest.fixture(scope="session")
def render() -> Callable[[Item, Prompt], str]:
    """A prompt as text, through the chat template that it brings (PLLaVA's own where it brings none)."""
    processor = build_tiny_pllava(num_frames=2, image_size=32, patch_size=16, pooling_shape=(2, 2, 2))[1]

    def text(item: Item, prompt: Prompt) -> str:
        options = {} if prompt.chat_template is None else {"chat_template": prompt.chat_template}
        rendered: str = processor.apply_chat_template(
            prompt.messages(item), add_generation_prompt=True, tokenize=False, **options
        )
        return rendered

    return text
