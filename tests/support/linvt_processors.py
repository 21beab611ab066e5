"""Processors of the tiny image-LLMs of `tiny_image_llms.py`, and LinVT's processor around them."""

from typing import Any

import torch
import transformers
from tiny_checkpoint import CHARACTERS
from tiny_image_llms import CASES, MODULE
from tiny_image_llms import make_processor as make_image_processor
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from hf_videollm import LinVTConfig, LinVTForCausalLM, LinVTProcessor

VOCAB_SIZE = 130
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
AYA_TOKENS = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
MOLMO_TOKENS = [
    "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>",
    "<frame_end>", "<im_low>",
]  # fmt: skip
IDEFICS_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]

# Case -> processor, its special tokens (named, if the tokenizer must say which is which), its video processor, options,
# and what the chat template writes for an image.
PROCESSORS: dict[str, tuple[str, Any, str | None, dict[str, Any], str]] = {
    "llava_siglip_phi": (
        "LlavaProcessor",
        ["<image>"],
        None,
        {"patch_size": 14, "vision_feature_select_strategy": "full"},
        "<image>",
    ),
    "llava_clip_llama": (
        "LlavaProcessor",
        ["<image>"],
        None,
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        "<image>",
    ),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        ["<image>", "<video>"],
        "LlavaOnevisionVideoProcessor",
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        "<image>",
    ),
    "internvl": (
        "InternVLProcessor",
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "InternVLVideoProcessor",
        {"image_seq_length": 4},
        "<IMG_CONTEXT>",
    ),
    "qwen2_vl": (
        "Qwen2VLProcessor",
        VISION_TOKENS,
        "Qwen2VLVideoProcessor",
        {},
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "qwen3_vl": (
        "Qwen3VLProcessor",
        VISION_TOKENS,
        "Qwen3VLVideoProcessor",
        {},
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "aya_vision": (
        "AyaVisionProcessor",
        ["<image>", *AYA_TOKENS],
        None,
        {"patch_size": 14, "img_size": 56, "downsample_factor": 2},
        "<image>",
    ),
    "mistral3": (
        "PixtralProcessor",
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        None,
        {"patch_size": 14, "spatial_merge_size": 2},
        "[IMG]",
    ),
    "idefics3": ("Idefics3Processor", IDEFICS_TOKENS, None, {"image_seq_len": 4}, "<image>"),
    "lfm2_vl": (
        "Lfm2VlProcessor",
        {
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
        None,
        {},
        "<image>",
    ),
    "video_llama_3": ("VideoLlama3Processor", VISION_TOKENS, "VideoLlama3VideoProcessor", {}, "<|image_pad|>"),
    "janus": (
        "JanusProcessor",
        {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
        None,
        {"num_image_tokens": 16},
        "<image_placeholder>",
    ),
    "gemma3": (
        "Gemma3Processor",
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        None,
        {"image_seq_length": 4},
        "<start_of_image>",
    ),
    "molmo2": (
        "Molmo2Processor",
        {"image_token": "<|image|>", "video_token": "<|video|>"} | {token: token for token in MOLMO_TOKENS[2:]},
        "Molmo2VideoProcessor",
        {},
        "<|image|>",
    ),
}
# Where the model reads another token than the one that marks the place of an image.
WRITTEN_TOKENS = {"aya_vision": "<|IMG_PATCH|>", "gemma3": "<image_soft_token>", "molmo2": "<im_patch>"}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ 'IMAGE\n' }}"
    "{% elif message['role'] == 'assistant' %}{% generation %}{{ block['text'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ block['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_tokenizer(special: Any) -> PreTrainedTokenizerFast:
    """One token per character, and the special ones."""
    tokens = list(special.values()) if isinstance(special, dict) else special
    words = ["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS, *tokens]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special,
    )


def make_image_llm_processor(name: str) -> Any:
    """The processor of transformers for the image-LLM of that case."""
    processor, special, video_processor, options, image = PROCESSORS[name]
    parts = {"image_processor": make_image_processor(name), "tokenizer": make_tokenizer(special)}
    if video_processor is not None:
        parts["video_processor"] = getattr(transformers, video_processor)()
    template = CHAT_TEMPLATE.replace("IMAGE", image)
    return getattr(transformers, processor)(**parts, **options, chat_template=template)


def make_image_llm_config(name: str, processor: Any) -> Any:
    """The configuration of that case with the ids of the processor's tokenizer."""
    model_type, options, _, _ = CASES[name]
    options = {**options, "text_config": {**options["text_config"], "vocab_size": VOCAB_SIZE}}
    ids = {"image_token_id": WRITTEN_TOKENS.get(name, processor.image_token)}
    if "video_token_id" in options:
        ids["video_token_id"] = processor.video_token
    to_id = processor.tokenizer.convert_tokens_to_ids
    return AutoConfig.for_model(model_type, **{**options, **{key: to_id(token) for key, token in ids.items()}})


def make_processor(name: str, **options: Any) -> LinVTProcessor:
    """LinVT's processor around that of the case: 7 placeholders a video, 3 frames."""
    inner = make_image_llm_processor(name)
    backbone = make_image_llm_config(name, inner)
    config = LinVTConfig(backbone_config=backbone, linvt_config=MODULE, num_frames=3, **options)
    return LinVTProcessor.from_image_llm_processor(inner, config)


def make_pair(name: str) -> tuple[LinVTForCausalLM, LinVTProcessor]:
    """A random model before the image-LLM of the case, and its processor."""
    processor = make_processor(name)
    torch.manual_seed(0)
    backbone = make_image_llm_config(name, processor.image_llm_processor)
    image_llm = AutoModelForImageTextToText.from_config(backbone).eval()
    for parameter in image_llm.parameters():
        # Gemma 3's projector begins with zeros, and lets no image through.
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    config = LinVTConfig(backbone_config=backbone, linvt_config=MODULE, num_frames=3)
    model = LinVTForCausalLM(config).eval()
    model.model.backbone.load_state_dict(image_llm.model.state_dict())
    model.lm_head.load_state_dict(image_llm.lm_head.state_dict())
    return model, processor
