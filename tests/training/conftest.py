"""A small checkpoint of each design, and a question about clips, for tests of trainers."""

from collections.abc import Callable

import pytest
from tiny_videollama2_checkpoint import write_videollama2

import hf_videollm


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a bundled checkpoint, or of a random one of VideoLLaMA2 without sound."""

    def find(name: str) -> str:
        if name != "videollama2":
            return str(hf_videollm.default_checkpoint(name))
        folder = tmp_path_factory.getbasetemp() / "videollama2_of_training"
        return str(folder if folder.exists() else write_videollama2(folder))

    return find
