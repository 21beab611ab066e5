"""Tiny random language models of many families, each with a tokenizer and a chat template in the family's layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    GenerationConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from hf_videollm import BeatsConfig, BeatsModel

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}\n{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '<|im_end|>\n\n' + message['content'] | trim + '<|eot|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant<|im_end|>\n\n' }}\n{%- endif %}\n"
)
# Refuses system messages, and roles that do not alternate.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>model\n'}}{% endif %}"
)
# Ends texts, but not prompts, with the end of text, and answers with a token of their own.
PHI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# Shows the thoughts of the last answer alone.
THINKING = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message['content'] %}{%- set thought = '' %}"
    "{%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}{{- content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
# Has its own tags, which leave out the end of the answer.
TAGGED = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}{%- generation -%}{{- message['content'] -}}{%- endgeneration -%}"
    "{{- '<|im_end|>\n' -}}{%- else -%}{{- message['content'] + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama_3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi": PHI,
    "thinking": THINKING,
    "tagged": TAGGED,
}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 32}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Family:
    """A language model.

    Attributes:
        config: fields of its configuration.
        template: name of its chat template.
        pieces: the tokenizer is of SentencePiece's kind, instead of bytes.
        adds_bos: the tokenizer itself puts the beginning of text before a text.
        pad: the tokenizer has a padding token.
        spare_rows: rows of the embedding behind the tokenizer's last token.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    template: str | None = "chatml"
    pieces: bool = False
    adds_bos: bool = False
    pad: bool = True
    spare_rows: int = 0


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", {"rope_parameters": LLAMA3_ROPE}, "llama_3", pieces=True, adds_bos=True, pad=False),
    "llama_tied": Family("llama", {"tie_word_embeddings": True}, adds_bos=True),
    "mistral": Family("mistral", {"sliding_window": 7}, "mistral", pieces=True, adds_bos=True, pad=False),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}, spare_rows=23),
    "qwen3": Family("qwen3", {"rope_parameters": YARN}, "thinking", spare_rows=3),
    "gemma2": Family(
        "gemma2",
        {"sliding_window": 9, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None, "tie_word_embeddings": True},
        "gemma",
        pieces=True,
        adds_bos=True,
    ),
    "phi3": Family("phi3", {}, "phi", pieces=True),
    "gpt2": Family("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}, None, pad=False),
    "smollm3": Family("smollm3", {"no_rope_layer_interval": 2, "tie_word_embeddings": True}, "tagged"),
    "olmo2": Family("olmo2", {}, pad=False),
    "mixtral": Family("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2}, "mistral", adds_bos=True),
    "granite": Family("granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0}, "chatml"),
    "cohere": Family("cohere", {"logit_scale": 0.25, "tie_word_embeddings": True}, "chatml"),
}
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot|>", "<|end|>", "<|user|>", "<|assistant|>"]


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """One token per byte or character, with special tokens before them."""
    words = [*SPECIAL, *(["<pad>"] if family.pad else [])]
    if family.pieces:
        words += [f"<0x{number:02X}>" for number in range(256)] + [BLANK, *"abcdefghijklmnopqrstuvwxyzWAH.?"]
    else:
        words += BYTES
    model = BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=family.pieces)
    tokenizer = Tokenizer(model)
    if family.pieces:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
        tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    if family.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>" if family.pad else None,
        additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATES.get(family.template or "")
    return wrapped


def write_llm(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    """A random language model with its tokenizer and generation settings, as a folder."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
    sizes = {} if family.model_type == "gpt2" else SMALL
    options = {**sizes, "vocab_size": len(tokenizer) + family.spare_rows, **special, **family.config}
    config = AutoConfig.for_model(family.model_type, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        # Nobody has trained these rows, and no language model writes them.
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[len(tokenizer) :] = 0
    model.config.dtype = dtype
    # As most released ones: made for sampling.
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8, **special)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
TOWERS: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**TOWER)),
}


def write_tower(folder: Path, name: str = "clip") -> Path:
    """A random vision tower, as a folder; one of DINOv2 with its preprocessing."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        TOWERS[name]().save_pretrained(folder)
    if name == "dinov2":
        values = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_center_crop": True, "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def write_beats(folder: Path) -> Path:
    """A random BEATs, as a folder."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BeatsConfig(**sizes, patch_embedding_dim=16, conv_pos_kernel=8, conv_pos_groups=4)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        BeatsModel(config).save_pretrained(folder)
    return folder
