"""Changes the tokenizer of a VideoLLaMA2 checkpoint so that it gives the ids of the official code.

The official code cuts a prompt at the placeholder, and tokenises the pieces one by one, without special tokens. If the
placeholders are special tokens that are not normalised, the library tokenizers cuts at the same places. One difference
remains, which this file removes: how SentencePiece begins a piece.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["prepare_tokenizer"]

# The character that SentencePiece writes for a blank. It is not an underscore.
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


def prepare_tokenizer(tokenizer: Any, tokens: Sequence[str] = ("<image>", "<video>")) -> Any:
    """A copy of the tokenizer with placeholder tokens, which gives the ids of the official code.

    A tokenizer made by SentencePiece adds a blank before every piece of text, also after a special token and also
    before another blank. This is the `legacy` mode of LLaMA's tokenizer, in which the language models of the official
    checkpoints were trained. The copy adds no special tokens, because the chat template writes `<s>` itself. If there
    is no padding token, `<unk>` is used, otherwise the end of text. Padding is on the left, for generation in batches.

    Args:
        tokenizer: the tokenizer of the checkpoint, as `AutoTokenizer` loads it.
        tokens: placeholders to add. Placeholders that are not in the vocabulary get ids after it.

    Returns:
        A tokenizer that keeps these changes when it is saved, and loaded with `AutoTokenizer`.
    """
    prepared = copy.deepcopy(tokenizer)
    if _begins_pieces(prepared):
        prepared = _in_legacy_mode(prepared)
    prepared.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    if prepared.pad_token is None:
        prepared.pad_token = prepared.unk_token or prepared.eos_token
    # The attribute is used now, and the entry of `init_kwargs` is saved.
    prepared.padding_side = prepared.init_kwargs["padding_side"] = "left"
    return prepared


def _begins_pieces(tokenizer: Any) -> bool:
    """Whether the tokenizer adds a blank before text, as the BPE of SentencePiece does."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        return False
    # A file can say this in two ways. Old files without `legacy` mean the legacy mode, but transformers 5 reads them as
    # the scheme "first".
    pre_tokenizer = backend["pre_tokenizer"] or {}
    if pre_tokenizer.get("type") == "Metaspace":
        return pre_tokenizer["prepend_scheme"] != "never"
    normalizer = backend["normalizer"] or {}
    return any(step.get("prepend") == BLANK for step in normalizer.get("normalizers", [normalizer]))


def _in_legacy_mode(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The same vocabulary with a normalizer that always adds a blank before a piece."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.pre_tokenizer = None
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    # The general class keeps the settings of the file. LlamaTokenizer would replace them by its own when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
    )
