"""The reference of a preference training: the model that the trained one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base_loading import config_for_training
from ..known_models import find_model
from ..pair_check import check_pair
from .loading import load_for_training

__all__ = ["reference_model"]


def reference_model(reference: Any, model: Any, processor: Any) -> Any:
    """The model that a training compares with, loaded if it is named.

    Args:
        reference: a model; or its folder, Hub id or bundled name.
        model: the model that is trained.
        processor: its processor, which makes the inputs of both.

    Raises:
        ValueError: the two models are of different designs or vocabularies, or the inputs do not fit the reference.
        FileNotFoundError: there is no model of the given name.
    """
    is_named = isinstance(reference, str | Path)
    source = find_model(reference) if is_named else None
    # The configuration is compared before the weights are read.
    config = config_for_training(source) if source is not None else reference.config
    name = f"ref_model ({reference})" if is_named else f"ref_model ({type(reference).__name__})"
    pairs = {
        "design": (config.model_type, model.config.model_type),
        "vocabulary, in tokens,": (_vocabulary(config), _vocabulary(model.config)),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise ValueError(
                f"{name} does not fit the model: its {what} is {found}, the model's {expected}. Name an earlier "
                "checkpoint of the same model."
            )
    if source is not None:
        _check_words(source, processor, name)
    try:
        check_pair(config, processor)
    except ValueError as error:
        # Up to the advice to pass another processor.
        reason = str(error).partition(": ")[2].partition(". ")[0]
        raise ValueError(f"{name} does not fit the inputs that the model's processor makes: {reason}.") from error
    return reference if source is None else load_for_training(source)[0]


def _vocabulary(config: Any) -> int:
    return int(config.get_text_config().vocab_size)


def _check_words(source: str, processor: Any, name: str) -> None:
    """Refuse a reference whose tokenizer gives other numbers to words.

    Raises:
        ValueError: it does; the message names a word.
    """
    from transformers import AutoTokenizer

    try:
        words = AutoTokenizer.from_pretrained(source, trust_remote_code=False).get_vocab()
    except (OSError, ValueError):  # A reference needs no tokenizer of its own.
        return
    own = processor.tokenizer.get_vocab()
    for word in sorted(own.keys() | words.keys()):
        if own.get(word) != words.get(word):
            raise ValueError(
                f"{name} does not fit the model: the word {word!r} is token {words.get(word)} there, and "
                f"{own.get(word)} here. Name an earlier checkpoint of the same model."
            )
