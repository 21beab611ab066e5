"""A tiny random LLaVA of transformers with LinVT, and everything a checkpoint folder needs."""

from pathlib import Path
from typing import Any

import torch
from tiny_checkpoint import CHARACTERS, SPECIAL, make_tokenizer
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from hf_videollm import LinVTForCausalLM, LinVTProcessor

SIDE, NUM_FRAMES = 32, 4
IMAGE = SPECIAL.index("<image>")
MODULE = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_selected_tokens": 24,
    "num_queries": [4, 2, 1],
    "initializer_range": 0.5,
}
# As LLaVA's: images of a message before its text, whatever their order. With what training needs (generation).
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for block in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% set texts = message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{% for block in texts %}{{ block['text'] + '</s>' }}{% endfor %}{% endgeneration %}"
    "{% else %}{% for block in texts %}{{ block['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_llava_processor(**options: Any) -> LlavaProcessor:
    """For images of 32 pixels: 16 placeholders each."""
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return LlavaProcessor(
        **{
            "image_processor": CLIPImageProcessor(**size),
            "tokenizer": make_tokenizer(),
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": CHAT_TEMPLATE,
            **options,
        }
    )


def make_llava(seed: int = 0) -> LlavaForConditionalGeneration:
    """Random, with weights of a size at which images matter."""
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(SPECIAL) + len(CHARACTERS),
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config).eval()
    # Only characters that can be seen.
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    return model


def write_llava(folder: Path) -> str:
    """The image-LLM as anyone would publish it."""
    make_llava().save_pretrained(folder)
    make_llava_processor().save_pretrained(folder)
    return str(folder)


def make_linvt(image_llm: str, **options: Any) -> tuple[LinVTForCausalLM, LinVTProcessor]:
    """LinVT before the image-LLM of a folder, random."""
    torch.manual_seed(1)
    module = {**MODULE, **options}
    model = LinVTForCausalLM.from_image_llm(image_llm, linvt_config=module, num_frames=NUM_FRAMES)
    return model, LinVTProcessor.from_image_llm(image_llm, linvt_config=module, num_frames=NUM_FRAMES)
