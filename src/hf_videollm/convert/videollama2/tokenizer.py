"""The tokenizer of a VideoLLaMA2 checkpoint, made to give the ids of the official code by itself.

The official code cuts a prompt at the placeholder and tokenises the pieces one by one, without special tokens. With
placeholders as special tokens that no normalizer touches, tokenizers cuts at the same places; what is left is how
SentencePiece begins a piece.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["prepare_tokenizer"]

# Not a low line: what SentencePiece writes for a blank.
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


def prepare_tokenizer(tokenizer: Any, tokens: Sequence[str] = ("<image>", "<video>")) -> Any:
    """A copy of the tokenizer with placeholder tokens, which gives the ids of the official code.

    A tokenizer from SentencePiece begins every piece of text with a blank of its own, also behind a special token and
    also before a blank: the `legacy` mode of LLaMA's tokenizer, in which the language models of the official
    checkpoints were trained. It adds no special tokens, because a prompt of the chat template begins with its `<s>`.
    Where nothing is to pad with, `<unk>` pads, or else the end of text. Padding is on the left, for generation in
    batches.

    Args:
        tokenizer: the checkpoint's, as `AutoTokenizer` loads it.
        tokens: placeholders to add; their ids follow the vocabulary, where they are not in it.

    Returns:
        A tokenizer that keeps all this when it is saved, and loaded with `AutoTokenizer`.
    """
    prepared = copy.deepcopy(tokenizer)
    if _begins_pieces(prepared):
        prepared = _in_legacy_mode(prepared)
    prepared.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    if prepared.pad_token is None:
        prepared.pad_token = prepared.unk_token or prepared.eos_token
    # Both: the first counts now, the second is what is saved.
    prepared.padding_side = prepared.init_kwargs["padding_side"] = "left"
    return prepared


def _begins_pieces(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a blank of its own before text, as the BPE of SentencePiece does."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        return False
    # There are two ways to write it. Files that do not say `legacy` meant it, but transformers 5 reads them as "first".
    pre_tokenizer = backend["pre_tokenizer"] or {}
    if pre_tokenizer.get("type") == "Metaspace":
        return pre_tokenizer["prepend_scheme"] != "never"
    normalizer = backend["normalizer"] or {}
    return any(step.get("prepend") == BLANK for step in normalizer.get("normalizers", [normalizer]))


def _in_legacy_mode(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The same vocabulary behind a normalizer that puts a blank before every piece, whatever the piece begins with."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.pre_tokenizer = None
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    # The general class keeps what the file says; LlamaTokenizer would make its own of it on loading.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
    )
