"""What the tiny models share: vocabulary and tokenizer, sizes of towers, and the weights that they start with."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ...models.modeling_pllava import PllavaForConditionalGeneration
from ...models.modeling_video_llm import VideoLlmForConditionalGeneration
from ..scene import (
    DETAIL_TEMPLATES,
    QUESTION_TEMPLATES,
    VIDEO_QUESTION_KINDS,
    answer_vocabulary,
)

__all__ = [
    "build_tokenizer",
    "square_sizes",
    "start_linear_layers",
    "start_with_positions",
    "take_over_weights",
    "tiny_towers",
    "vocabulary",
    "words_in",
    "words_of",
]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>")
# Kinds of questions that came later are left out: the id of a token is its row in the trained weights, and more words
# would move the rows.
KINDS_OF_QUESTIONS = (*VIDEO_QUESTION_KINDS, "beeps", "pitch")
# Words that the chat template adds.
TEMPLATE_WORDS = ("user", "assistant", ":")


def vocabulary() -> list[str]:
    """Every token of the small PLLaVA: special tokens, then the words of questions and answers, sorted."""
    words = set(TEMPLATE_WORDS)
    for kind in KINDS_OF_QUESTIONS:
        words |= words_of(kind)
    for template in DETAIL_TEMPLATES:
        words.update(
            word for place in ("first", "last") for word in words_in(template.format(property="", place=place))
        )
    return [*SPECIAL_TOKENS, *sorted(words)]


def words_of(kind: str) -> set[str]:
    """The words of all questions and answers of one kind."""
    texts = [template.format(a="", b="") for template in QUESTION_TEMPLATES[kind]] + answer_vocabulary(kind)
    return {word for text in texts for word in words_in(text)}


def build_tokenizer(
    words: Sequence[str] | None = None, placeholders: Sequence[str] = ("<image>", "<video>")
) -> PreTrainedTokenizerFast:
    """One token per lower-cased word or punctuation mark. Pads on the left, as generation needs.

    Args:
        words: every token, ordered by id; `vocabulary()` by default.
        placeholders: those tokens that stand for images, videos or sounds.
    """
    ids = {word: number for number, word in enumerate(vocabulary() if words is None else words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(placeholders),
        padding_side="left",
        model_max_length=1024,
    )


def tiny_towers(
    tokenizer: PreTrainedTokenizerFast,
    image_size: int,
    patch_size: int,
    vision_width: int,
    vision_layers: int,
    text_width: int,
    text_layers: int,
) -> tuple[dict[str, Any], GenerationConfig]:
    """Configurations of the vision tower (CLIP) and the language model (LLaMA) of all small models.

    They are the same, so that a small model can start with the trained weights of another. Heads are 32 wide.

    Returns:
        `vision_config` and `text_config`, and how the model answers: in few words, without chance.
    """
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": vision_width,
        "intermediate_size": 3 * vision_width,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": vision_width // 32,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    text_config = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": text_width,
        "intermediate_size": 11 * text_width // 4,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_width // 32,
        "num_key_value_heads": text_width // 32,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        **special,
    }
    generation = GenerationConfig(max_new_tokens=8, do_sample=False, **special)
    return {"vision_config": vision_config, "text_config": text_config}, generation


def square_sizes(image_size: int) -> dict[str, Any]:
    """Options of image and video processors: resize the shorter side to `image_size`, then cut out a square."""
    return {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}


@torch.no_grad()
def take_over_weights(model: VideoLlmForConditionalGeneration, source: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Copy the weights of vision tower and language model from a checkpoint of the small PLLaVA.

    The connector is not copied, and words that the small PLLaVA does not know keep their own embeddings.

    Args:
        model: one of the small models; changed in place.
        source: folder of the checkpoint.

    Returns:
        Names of the parameters in three lists: "taken" were copied, of "partly" the rows of known words were, "new"
        kept their own weights.

    Raises:
        ValueError: the checkpoint has other sizes.
    """
    found = PllavaForConditionalGeneration.from_pretrained(source).state_dict()
    sorted_names: dict[str, list[str]] = {"taken": [], "partly": [], "new": []}
    for name, weight in model.state_dict().items():
        if name not in found or "connector" in name:
            sorted_names["new"].append(name)
            continue
        rows = len(found[name])
        is_vocabulary = "embed_tokens" in name or "lm_head" in name
        if found[name].shape != (weight[:rows] if is_vocabulary else weight).shape:
            raise ValueError(
                f"{name} has the shape {tuple(weight.shape)}, in the checkpoint {tuple(found[name].shape)}: "
                "build the model with the sizes of the checkpoint."
            )
        weight[:rows] = found[name]
        sorted_names["partly" if rows < len(weight) else "taken"].append(name)
    return sorted_names


def start_linear_layers(model: nn.Module, *parts: str) -> None:
    """Draw the linear layers of these parts of a model anew, so that their outputs are as large as their inputs."""
    for part in parts:
        for layer in model.get_submodule(part).modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)


def start_with_positions(vision_tower: Any, side: int) -> None:
    """Start the position embeddings of the patches as sine and cosine waves over rows and columns, not as small noise.

    Questions about shapes and motion need the positions of patches. From the usual noise, a tower this small would need
    most of its short training to learn which patch is where.

    Args:
        vision_tower: a CLIP tower; its position embedding is changed in place.
        side: patches in a row of the image.
    """
    weight = vision_tower.embeddings.position_embedding.weight
    count = weight.shape[1] // 4
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frequencies = 0.5 * math.pi * side ** -(torch.arange(count) / count)
    waves = [wave(axis.flatten()[:, None] * frequencies) for axis in (columns, rows) for wave in (torch.sin, torch.cos)]
    with torch.no_grad():
        # Row 0 is the class token, which keeps its noise. Patch embeddings are about 0.4 in size; so are the waves.
        weight[1:] = 0.4 * torch.cat(waves, dim=1)


def words_in(text: str) -> list[str]:
    """The tokens of a text: lower-cased words, and runs of punctuation marks."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())
