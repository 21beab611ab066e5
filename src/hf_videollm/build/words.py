"""The tokenizer with its placeholders, and the generation settings, from the language model of a build."""

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
    """Load the tokenizer and add the placeholders to it.

    Args:
        folder: folder of the language model.
        tokenizer: folder of the tokenizer, if the language model's folder has none.
        placeholders: maps each modality to its token.
        num_rows: rows of the language model's embedding.

    Returns:
        The tokenizer, a map from each modality to the id of its placeholder, and notes for the user.

    Raises:
        CheckpointError: there is no tokenizer, it belongs to another model, or it has no end-of-text token.
    """
    place = find_tokenizer_folder(folder, tokenizer, None)
    if place is None:
        raise CheckpointError(f"{folder} has no tokenizer, but a build needs one: pass --tokenizer FOLDER.")
    words, ids, notes = tokenizer_with(place, placeholders, num_rows)
    if words.eos_token_id is None:
        raise CheckpointError(f"The tokenizer in {place} has no end-of-text token (eos_token): set it in its files.")
    if words.chat_template is None:
        notes.append("the tokenizer has no chat template: prompts are USER: ... ASSISTANT: ... (VideoLLaMA2: ChatML).")
    return words, ids, notes


def template_notes(processor: Any) -> list[str]:
    """A note if the chat template does not allow training on answers only."""
    if has_tags(processor.chat_template):
        return []
    return [
        "the chat template does not mark the answers: add {% generation %} tags to chat_template.jinja before training."
    ]


def build_generation_config(
    folder: Path, raw: dict[str, Any], text_config: Any, tokenizer: Any
) -> tuple[GenerationConfig, list[str]]:
    """The generation settings of the language model, changed to greedy decoding, and notes for the user.

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
