"""The two sources of an FTFV, tiny."""

from pathlib import Path

import pytest
from ftfv_sources import write_llama, write_qwen_vl


@pytest.fixture
def qwen_vl(tmp_path: Path) -> Path:
    """Folder of a Qwen-VL."""
    return write_qwen_vl(tmp_path / "qwen_vl")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Folder of a language model."""
    return write_llama(tmp_path / "llama")
