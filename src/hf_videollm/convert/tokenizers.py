"""Tokenizer files of official checkpoints: where they are, and reading them without running code."""

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from ..models.errors import CheckpointError

# Any of these files makes a folder one that a tokenizer can be loaded from.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def find_tokenizer_folder(source: Path, tokenizer: Path | None, base: Path | None) -> Path | None:
    """Folder to take the tokenizer from: the one asked for, else the checkpoint, else its base.

    Raises:
        CheckpointError: a tokenizer was asked for by folder, and there is none.
    """
    if tokenizer is not None:
        if not _has_tokenizer(tokenizer):
            raise CheckpointError(f"{tokenizer} holds no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}.")
        return tokenizer
    return next((folder for folder in (source, base) if folder is not None and _has_tokenizer(folder)), None)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(folder: Path, config: Any = None) -> Any:
    """The tokenizer of a folder; code that the folder may carry is never run.

    Args:
        config: counts instead of the folder's config.json, where transformers does not know what that describes.

    Raises:
        CheckpointError: it cannot be read, or only with a library that is not installed.
    """
    only_sentencepiece = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if only_sentencepiece and not _can_read_sentencepiece():
        raise CheckpointError(
            f"{folder} has its tokenizer as tokenizer.model, which sentencepiece and protobuf read: "
            'pip install "hf-videollm[sentencepiece]"'
        )
    try:
        # Answers are generated in batches, which needs the ends of all prompts in one column: left padding.
        return AutoTokenizer.from_pretrained(
            str(folder), config=config, padding_side="left", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the Rust tokenizers raise plain Exception
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be read ({reason}): download its files again."
        ) from error


def _can_read_sentencepiece() -> bool:
    # Of google.protobuf the parent first: looking for a part of what is not there is an error.
    return all(find_spec(name) is not None for name in ("sentencepiece", "google", "google.protobuf"))


def with_token(tokenizer: Any, token: str) -> tuple[Any, int]:
    """A copy of the tokenizer that knows `token` as a special token, and its id."""
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return extended, extended.convert_tokens_to_ids(token)


def tokenizer_with(
    folder: Path, placeholders: Mapping[str, str], vocab_size: int
) -> tuple[Any, dict[str, int], list[str]]:
    """The tokenizer of a language model with placeholders added where it has none, and padding.

    Args:
        folder: of the tokenizer.
        placeholders: modality -> token. None of them needs a row in the embedding table.
        vocab_size: rows that the language model has.

    Returns:
        The tokenizer, modality -> id of its placeholder, and notes.

    Raises:
        CheckpointError: the tokenizer cannot be read, or belongs to another model.
    """
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, the language model only {vocab_size}: pass the "
            "tokenizer of this model (--tokenizer)."
        )
    ids = {}
    for modality, token in placeholders.items():
        tokenizer, ids[modality] = with_token(tokenizer, token)
    return tokenizer, ids, set_padding(tokenizer, None)


def set_padding(tokenizer: Any, pad_token_id: int | None) -> list[str]:
    """Give a tokenizer that has no padding token one, and say so: the checkpoint's, else unk, else the end of text."""
    if tokenizer.pad_token_id is None:
        pad_token = None if pad_token_id is None else tokenizer.convert_ids_to_tokens(pad_token_id)
        tokenizer.pad_token = pad_token or tokenizer.unk_token or tokenizer.eos_token
        return [f"the tokenizer had no padding token: {tokenizer.pad_token!r} is used."]
    return []


def compare_eos(tokenizer: Any, eos_token_id: int | list[int] | None) -> list[str]:
    """A note when the checkpoint ends answers with another token than its tokenizer ends texts."""
    ends = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if eos_token_id is None or tokenizer.eos_token_id is None or tokenizer.eos_token_id in ends:
        return []
    return [
        f"answers end at the token id {eos_token_id} of the checkpoint, while the tokenizer's end of text "
        f"{tokenizer.eos_token!r} is {tokenizer.eos_token_id}."
    ]


__all__ = [
    "TOKENIZER_FILES",
    "compare_eos",
    "find_tokenizer_folder",
    "load_tokenizer",
    "set_padding",
    "tokenizer_with",
    "with_token",
]
