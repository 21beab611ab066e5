"""A tiny random IVA with everything a checkpoint folder needs."""

from typing import Any

from factory import TEXT_TOWERS, VISION_TOWERS, randomise
from tiny_checkpoint import CHARACTERS, SPECIAL, make_tokenizer
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from hf_videollm import IvaConfig, IvaForConditionalGeneration, IvaProcessor, IvaVideoProcessor

IMAGE, VIDEO = SPECIAL.index("<image>"), SPECIAL.index("<video>")
QUERY_TOKEN, QUERY = "<iva_query>", len(SPECIAL) + len(CHARACTERS)
SIDE, QUERIES = 16, 3
SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def make_query_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the other small checkpoints with a placeholder of query tokens, behind all others."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(QUERY_TOKEN, special_tokens=True)
    return tokenizer


def make_processor(**options: Any) -> IvaProcessor:
    return IvaProcessor(
        image_processor=CLIPImageProcessor(**SIZES),
        video_processor=IvaVideoProcessor(**SIZES),
        **{"tokenizer": make_query_tokenizer(), "num_query_tokens": QUERIES, **options},
    )


def make_config(**options: Any) -> IvaConfig:
    text = {**TEXT_TOWERS["llama"], "vocab_size": len(SPECIAL) + len(CHARACTERS)}
    return IvaConfig(
        **{
            "vision_config": VISION_TOWERS["clip_vision_model"],
            "text_config": text,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "query_token_id": QUERY,
            "num_query_tokens": QUERIES,
            "num_insertions": 2,
            "num_adapter_layers": 2,
            "adapter_hidden_size": 24,
            "causal_num_layers": 1,
            "causal_num_heads": 2,
            **options,
        }
    )


def make_model(**options: Any) -> IvaForConditionalGeneration:
    """A model for the processor's tokenizer."""
    model = IvaForConditionalGeneration(make_config(**options)).eval()
    randomise(model, seed=3)
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    model.generation_config.pad_token_id = 0
    return model
