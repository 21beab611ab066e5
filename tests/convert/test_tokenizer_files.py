"""Reading tokenizers of official checkpoints."""

from pathlib import Path

import pytest

from hf_videollm import CheckpointError
from hf_videollm.convert import tokenizers as tokenizer_files


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks for tiktoken here, which would not help."""
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install \"hf-videollm\[sentencepiece\]\""):
        tokenizer_files.load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tokenizer_files.load_tokenizer(tmp_path)
