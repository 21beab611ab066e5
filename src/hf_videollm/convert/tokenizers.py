"""Finds the tokenizer files of official checkpoints, and reads them without running code."""

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from ..models.errors import CheckpointError, one_line

# A tokenizer can be loaded from a folder that has one of these files.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def find_tokenizer_folder(source: Path, tokenizer: Path | None, base: Path | None) -> Path | None:
    """The folder of the tokenizer: the one that the user passed, otherwise the checkpoint, otherwise its base.

    Raises:
        CheckpointError: the folder that the user passed has no tokenizer.
    """
    if tokenizer is not None:
        if not _has_tokenizer(tokenizer):
            raise CheckpointError(f"{tokenizer} holds no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}.")
        return tokenizer
    return next((folder for folder in (source, base) if folder is not None and _has_tokenizer(folder)), None)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(folder: Path, config: Any = None) -> Any:
    """Load the tokenizer of a folder. Code in the folder is never run.

    Args:
        folder: folder of the tokenizer.
        config: used instead of the folder's config.json, if transformers does not know the model type in that file.

    Raises:
        CheckpointError: the tokenizer cannot be read, or needs a library that is not installed.
    """
    only_sentencepiece = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if only_sentencepiece and not _can_read_sentencepiece():
        raise CheckpointError(
            f"{folder} has its tokenizer as tokenizer.model, which needs sentencepiece and protobuf: "
            'pip install "hf-videollm[sentencepiece]"'
        )
    try:
        # Generation in batches needs left padding, so that all prompts end in the same column.
        return AutoTokenizer.from_pretrained(
            str(folder), config=config, padding_side="left", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the Rust tokenizers raise plain Exception
        reason = one_line(error, 200)
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be read ({reason}): download its files again."
        ) from error


def _can_read_sentencepiece() -> bool:
    # `google` comes before `google.protobuf`, because `find_spec` raises an error if the parent package does not exist.
    return all(find_spec(name) is not None for name in ("sentencepiece", "google", "google.protobuf"))


def with_token(tokenizer: Any, token: str) -> tuple[Any, int]:
    """A copy of the tokenizer with `token` as a special token, and the id of this token."""
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return extended, extended.convert_tokens_to_ids(token)


def tokenizer_with(
    folder: Path, placeholders: Mapping[str, str], vocab_size: int
) -> tuple[Any, dict[str, int], list[str]]:
    """Load the tokenizer of a language model, and add placeholders and a padding token if they are missing.

    Args:
        folder: folder of the tokenizer.
        placeholders: maps each modality to its token. The tokens need no row in the embedding table.
        vocab_size: number of rows of the embedding table.

    Returns:
        The tokenizer, a map from each modality to the id of its placeholder, and notes for the user.

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
    """Set the padding token of a tokenizer that has none: the checkpoint's, otherwise unk, otherwise the end of text.

    Returns:
        A note, if a padding token was set.
    """
    if tokenizer.pad_token_id is None:
        pad_token = None if pad_token_id is None else tokenizer.convert_ids_to_tokens(pad_token_id)
        tokenizer.pad_token = pad_token or tokenizer.unk_token or tokenizer.eos_token
        return [f"the tokenizer had no padding token: {tokenizer.pad_token!r} is used."]
    return []


def compare_eos(tokenizer: Any, eos_token_id: int | list[int] | None) -> list[str]:
    """A note if the checkpoint ends answers with another token than the tokenizer's end-of-text token."""
    ends = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if eos_token_id is None or tokenizer.eos_token_id is None or tokenizer.eos_token_id in ends:
        return []
    return [
        f"answers end at the token id {eos_token_id} of the checkpoint, but the tokenizer's end-of-text token "
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
