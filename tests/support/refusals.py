"""What can be wrong with the source of a converter, and how it is refused: one line, and nothing is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_videollm.models.errors import CheckpointError

Change = Callable[[dict[str, torch.Tensor]], Any]


def without(name: str) -> Change:
    """The tensor is missing."""
    return lambda tensors: tensors.pop(name)


def put(name: str, value: torch.Tensor) -> Change:
    """The tensor is another one, or one that does not belong there."""
    return lambda tensors: tensors.update({name: value})


def siblings(folder: Path) -> list[str]:
    """Names of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def refusal(folder: Path, words: str) -> Iterator[pytest.ExceptionInfo[CheckpointError]]:
    """A conversion fails with one short line that holds `words` (a pattern), and leaves the folder as it was."""
    before = siblings(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        yield caught
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert siblings(folder) == before
