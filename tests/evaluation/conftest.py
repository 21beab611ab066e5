"""Bundled checkpoints and synthetic clips for the tests of evaluation, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from evaluated_clips import clip_questions

from hf_videollm import load_pipeline
from hf_videollm.synthetic.check import ClipQuestion


@pytest.fixture(scope="session")
def bundled_pipe() -> Callable[[str], Any]:
    """A bundled checkpoint by name, in float32 on the CPU."""
    return cache(lambda name: load_pipeline(name, dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clip_benchmark")


@pytest.fixture(scope="session")
def questions(clip_folder: Path) -> list[ClipQuestion]:
    """Four questions of each kind about held-out clips."""
    return clip_questions(clip_folder)
