"""Tokenizer, placeholders and generation settings of a language model that learns to see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers import logging as transformers_logging

from ..convert.parts import SAMPLING, language_generation_config
from ..convert.tokenizers import find_tokenizer_folder, tokenizer_with
from ..models.errors import CheckpointError
from ..models.video_llm_chat_template import has_tags


def read_words(
    folder: Path, tokenizer: Path | None, placeholders: Mapping[str, str], num_rows: int
) -> tuple[Any, dict[str, int], list[str]]:
    """The tokenizer with the placeholders, modality -> their ids, and notes.

    Args:
        folder: of the language model.
        tokenizer: folder of the tokenizer, where the language model's has none.
        placeholders: modality -> token.
        num_rows: of the language model's embedding.

    Raises:
        CheckpointError: there is none, it is that of another model, or it says nowhere how a text ends.
    """
    place = find_tokenizer_folder(folder, tokenizer, None)
    if place is None:
        raise CheckpointError(f"{folder} has no tokenizer, which gets the placeholders: pass --tokenizer FOLDER.")
    words, ids, notes = tokenizer_with(place, placeholders, num_rows)
    if words.eos_token_id is None:
        raise CheckpointError(f"The tokenizer in {place} has no end of text (eos_token): set it in its files.")
    if words.chat_template is None:
        notes.append("the tokenizer has no chat template: prompts are USER: ... ASSISTANT: ... (VideoLLaMA2: ChatML).")
    return words, ids, notes


def template_notes(processor: Any) -> list[str]:
    """A note where training on answers alone is not possible."""
    if has_tags(processor.chat_template):
        return []
    return [
        "the chat template does not show where its answers are: put {% generation %} tags into chat_template.jinja "
        "before training."
    ]


def build_generation_config(
    folder: Path, raw: dict[str, Any], text_config: Any, tokenizer: Any
) -> tuple[GenerationConfig, list[str]]:
    """The language model's generation settings, but greedy, and notes.

    Raises:
        CheckpointError: see `language_generation_config`.
    """
    own, notes = language_generation_config(folder, raw, text_config, tokenizer)
    file = folder / "generation_config.json"
    if not file.is_file():
        return own, notes
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        settings = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
        settings.update(do_sample=False, **dict.fromkeys(SAMPLING))
    finally:
        transformers_logging.set_verbosity(level)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(settings, name, getattr(own, name))
    return settings, notes


__all__ = ["build_generation_config", "read_words", "template_notes"]
