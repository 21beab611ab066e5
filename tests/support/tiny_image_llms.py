"""Tiny random image-LLMs of transformers, their image processors, and prompts for them."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_videollm.models.configuration_linvt import LinVTConfig
from hf_videollm.models.linvt_backbones import Backbone
from hf_videollm.models.linvt_families import TYPE_RULES
from hf_videollm.models.linvt_frames import frame_inputs
from hf_videollm.models.modeling_linvt import LinVTForCausalLM

PAD, IMAGE, VIDEO, VOCAB_SIZE = 0, 90, 91, 100
MODULE = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_selected_tokens": 12,
    "num_queries": [4, 2, 1],
    "initializer_range": 0.5,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "initializer_range": 0.2,
}
SIGLIP = {"model_type": "siglip_vision_model", **VISION}
CLIP = {"model_type": "clip_vision_model", **VISION}
QWEN = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "initializer_range": 0.2}
QWEN3_VISION = {
    **QWEN_VISION,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 48,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
SQUARE = {"height": 56, "width": 56}
EDGES = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
IDS = {"image_token_id": IMAGE}
BOTH = {**IDS, "video_token_id": VIDEO}

# Name -> model type, configuration, image processor and its options.
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "llava_siglip_phi": (
        "llava",
        {
            "vision_config": SIGLIP,
            "text_config": {"model_type": "phi", **TEXT},
            **IDS,
            "vision_feature_select_strategy": "full",
        },
        "SiglipImageProcessor",
        {"size": SQUARE},
    ),
    "llava_clip_llama": (
        "llava",
        {"vision_config": CLIP, "text_config": {"model_type": "llama", **TEXT}, **IDS},
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 56}, "crop_size": SQUARE},
    ),
    "llava_onevision": (
        "llava_onevision",
        {
            "vision_config": SIGLIP,
            "text_config": {"model_type": "qwen2", **TEXT},
            **BOTH,
            "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
        },
        "LlavaOnevisionImageProcessor",
        {"size": SQUARE, "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]},
    ),
    "internvl": (
        "internvl",
        {
            "vision_config": {
                "model_type": "internvl_vision",
                **VISION,
                "image_size": [56, 56],
                "patch_size": [14, 14],
                "layer_scale_init_value": 1.0,
            },
            "text_config": {"model_type": "qwen2", **TEXT},
            **IDS,
        },
        "GotOcr2ImageProcessor",
        {"size": SQUARE},
    ),
    "qwen2_vl": (
        "qwen2_vl",
        {
            "vision_config": {**QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
            "text_config": QWEN,
            **BOTH,
        },
        "Qwen2VLImageProcessor",
        {"size": EDGES},
    ),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        {
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "out_hidden_size": 32,
                "intermediate_size": 48,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
            "text_config": QWEN,
            **BOTH,
        },
        "Qwen2VLImageProcessor",
        {"size": EDGES},
    ),
    "aya_vision": (
        "aya_vision",
        {
            "vision_config": SIGLIP,
            "text_config": {"model_type": "cohere2", **TEXT},
            **IDS,
            "adapter_layer_norm_eps": 1e-6,
            "vision_feature_select_strategy": "full",
        },
        "GotOcr2ImageProcessor",
        {"size": SQUARE},
    ),
    "cohere2_vision": (
        "cohere2_vision",
        {
            "vision_config": SIGLIP,
            "text_config": {"model_type": "cohere2", **TEXT},
            **IDS,
            "alignment_intermediate_size": 32,
            "downsample_factor": 2,
        },
        "Cohere2VisionImageProcessor",
        {"size": SQUARE, "patch_size": 14},
    ),
    "mistral3": (
        "mistral3",
        {
            "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 16},
            "text_config": {"model_type": "mistral", **TEXT},
            **IDS,
            "vision_feature_layer": -1,
        },
        "PixtralImageProcessor",
        {"size": {"longest_edge": 56}, "patch_size": 28},
    ),
    "idefics3": (
        "idefics3",
        {"vision_config": VISION, "text_config": {"model_type": "llama", **TEXT}, **IDS, "scale_factor": 2},
        "Idefics3ImageProcessor",
        {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}},
    ),
    # Four tokens per image and patches of four: transformers 5.20 can merge no other multiples (its own SmolVLM fails).
    "smolvlm": (
        "smolvlm",
        {
            "vision_config": {**VISION, "image_size": 16, "patch_size": 4},
            "text_config": {"model_type": "llama", **TEXT},
            **IDS,
            "scale_factor": 2,
        },
        "SmolVLMImageProcessor",
        {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}},
    ),
    "lfm2_vl": (
        "lfm2_vl",
        {
            "vision_config": {
                "model_type": "siglip2_vision_model",
                **{key: value for key, value in VISION.items() if key != "image_size"},
                "num_patches": 16,
            },
            "text_config": {
                "model_type": "lfm2",
                **TEXT,
                "layer_types": ["conv", "full_attention"],
                "conv_L_cache": 3,
                "block_multiple_of": 8,
            },
            **IDS,
            "downsample_factor": 2,
        },
        "Lfm2VlImageProcessor",
        {"tile_size": 56, "encoder_patch_size": 14, "min_image_tokens": 1, "max_image_tokens": 4},
    ),
    "video_llama_3": (
        "video_llama_3",
        {
            "vision_config": {**VISION, "model_type": "video_llama_3_vision"},
            "text_config": {"model_type": "qwen2", **TEXT},
            **BOTH,
        },
        "VideoLlama3ImageProcessor",
        {"size": EDGES, "merge_size": 1},
    ),
    "glm4v": (
        "glm4v",
        {
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "out_hidden_size": 32,
                "intermediate_size": 48,
                "image_size": 56,
            },
            "text_config": {**QWEN, "rope_parameters": {**QWEN["rope_parameters"], "partial_rotary_factor": 1.0}},
            **BOTH,
        },
        "Glm4vImageProcessor",
        {"size": {"shortest_edge": 28 * 28, "longest_edge": 2 * 56 * 56}},
    ),
    "janus": (
        "janus",
        {
            "vision_config": {**VISION, "projection_dim": 32, "num_image_tokens": 16, "depth": 2},
            "text_config": {"model_type": "llama", **TEXT},
            **IDS,
            "vq_config": {
                "embed_dim": 8,
                "num_embeddings": 16,
                "base_channels": 32,
                "num_res_blocks": 1,
                "channel_multiplier": [1, 1],
                "projection_dim": 32,
                "image_token_embed_dim": 32,
            },
        },
        "JanusImageProcessor",
        {"size": SQUARE, "min_size": 14},
    ),
    "qwen3_vl": (
        "qwen3_vl",
        {"vision_config": QWEN3_VISION, "text_config": {**QWEN, "head_dim": 8}, **BOTH},
        "Qwen2VLImageProcessor",
        {"size": EDGES},
    ),
    "qwen3_vl_moe": (
        "qwen3_vl_moe",
        {
            "vision_config": QWEN3_VISION,
            "text_config": {**QWEN, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
            **BOTH,
        },
        "Qwen2VLImageProcessor",
        {"size": EDGES},
    ),
    "gemma3": (
        "gemma3",
        {
            "vision_config": SIGLIP,
            "text_config": {
                **TEXT,
                "model_type": "gemma3_text",
                "head_dim": 8,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "image_token_index": IMAGE,
            "mm_tokens_per_image": 4,
            "tie_word_embeddings": False,
        },
        "Gemma3ImageProcessor",
        {"size": SQUARE},
    ),
    "paligemma": (
        "paligemma",
        {
            "vision_config": {**SIGLIP, "projection_dim": 32},
            "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8},
            "image_token_index": IMAGE,
            "projection_dim": 32,
            "hidden_size": 32,
            "tie_word_embeddings": False,
        },
        "SiglipImageProcessor",
        {"size": SQUARE},
    ),
    "molmo2": (
        "molmo2",
        {
            "vision_config": {
                **VISION,
                "image_size": [28, 28],
                "patch_size": 7,
                "num_key_value_heads": 2,
                "head_dim": 16,
            },
            "adapter_config": {
                "vision_feature_layer": [-1, -2],
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "intermediate_size": 32,
                "text_hidden_size": 32,
                "initializer_range": 0.2,
            },
            "text_config": {**TEXT, "head_dim": 8, "additional_vocab_size": 8},
            "image_patch_id": IMAGE,
            "initializer_range": 0.2,
        },
        "Molmo2ImageProcessor",
        {"size": {"height": 28, "width": 28}, "patch_size": 7, "overlap_margins": [1, 1]},
    ),
    "ovis2": (
        "ovis2",
        {
            "vision_config": {
                **VISION,
                "num_attention_heads": 2,
                "vocab_size": 40,
                "hidden_stride": 2,
                "num_visual_indicator_tokens": 5,
            },
            "text_config": {"model_type": "qwen2", **TEXT},
            "image_token_id": IMAGE,
            "visual_indicator_token_ids": [92, 93, 94, 95, 96],
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "tie_word_embeddings": False,
        },
        "Ovis2ImageProcessor",
        {"size": SQUARE},
    ),
    "xgen_mm": (
        "xgen_mm",
        {
            "vision_config": {**SIGLIP, "vision_use_head": False},
            "text_config": {"model_type": "phi3", **TEXT},
            **IDS,
            "num_query_tokens": 5,
            "resampler_num_layers": 1,
            "resampler_num_heads": 2,
            "resampler_head_dim": 8,
        },
        "SiglipImageProcessor",
        {"size": SQUARE},
    ),
    "perception_lm": (
        "perception_lm",
        {
            # Not its own tower, which is one of timm; its projector reads the width there.
            "vision_config": {**SIGLIP, "model_args": {"embed_dim": 32}},
            "text_config": {"model_type": "llama", **TEXT},
            **BOTH,
            "vision_use_cls_token": False,
            "projector_pooling_ratio": 2,
        },
        "PerceptionLMImageProcessor",
        {"tile_size": 56, "size": SQUARE},
    ),
}


def make_image_llm(name: str) -> Any:
    """A tiny random image-LLM."""
    model_type, options, _, _ = CASES[name]
    torch.manual_seed(0)
    image_llm = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **options)).eval()
    for parameter in image_llm.parameters():
        # Gemma3's projector begins with zeros: its images would not count.
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return image_llm


def without_foreign(image_llm: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that the image-LLM itself takes: most know no token types."""
    accepted = inspect.signature(type(image_llm).forward).parameters
    return {key: value for key, value in batch.items() if key in accepted}


def make_linvt(name: str, **options: Any) -> LinVTForCausalLM:
    """The same image-LLM with a random LinVT."""
    image_llm = make_image_llm(name)
    config = LinVTConfig(backbone_config=image_llm.config, linvt_config={**MODULE, **options})
    torch.manual_seed(1)
    model = LinVTForCausalLM(config).eval()
    model.model.backbone.load_state_dict(image_llm.model.state_dict())
    model.lm_head.load_state_dict(image_llm.lm_head.state_dict())
    return model


def make_processor(name: str) -> Any:
    """The image processor that fits the tiny image-LLM."""
    _, _, processor, options = CASES[name]
    return getattr(transformers, processor)(**options)


def make_frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """Random frames of one video."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8))


def image_media(name: str, base: torch.nn.Module, images: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int]]:
    """What the base model's forward takes for images that stand in one prompt, and the placeholders of each."""
    named = frame_inputs(make_processor(name), CASES[name][0], [images])
    del named["num_video_frames"]
    media = {key.removesuffix("_videos"): value for key, value in named.items()}
    accepted = inspect.signature(type(base).forward).parameters
    with torch.no_grad():
        lengths = [len(part) for part in Backbone(base).encode_images(media).tokens]
    return {key: value for key, value in media.items() if key in accepted}, lengths


def prompt(linvt: LinVTForCausalLM, rows: Sequence[Sequence[Any]]) -> dict[str, torch.Tensor]:
    """Left-padded prompts. A row is of ids, `"v"` for a video, and `("i", n)` for an image of n tokens."""
    ids, types = [], []
    for row in rows:
        parts = []
        for part in row:
            if part == "v":
                parts += [(linvt.config.video_token_id, 2)] * linvt.config.num_video_tokens(1)
            elif isinstance(part, tuple):
                parts += [(linvt.config.image_token_id, 1)] * part[1]
            else:
                parts.append((part, 0))
        ids.append([token for token, _ in parts])
        types.append([kind for _, kind in parts])
    length = max(map(len, ids))
    batch = {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids]),
        "mm_token_type_ids": torch.tensor([[0] * (length - len(row)) + row for row in types]),
    }
    # As the image-LLM's own processor gives them.
    rule = TYPE_RULES.get(linvt.model.backbone.config.model_type)
    if rule is not None and rule.argument == "token_type_ids":
        is_image = batch["mm_token_type_ids"] == 1
        batch["token_type_ids"] = is_image.long() if rule.meaning == "media" else torch.zeros_like(is_image).long()
    return batch


def extend(linvt: LinVTForCausalLM, batch: dict[str, Any], tokens: torch.Tensor) -> dict[str, Any]:
    """A batch with further tokens behind its prompts: an answer, or the next question."""
    filling = {"attention_mask": 1, "mm_token_type_ids": 0}
    if "token_type_ids" in batch:
        rule = TYPE_RULES[linvt.model.backbone.config.model_type]
        filling["token_type_ids"] = 1 if rule.meaning == "prefix" else 0
    longer = {name: torch.cat([batch[name], torch.full_like(tokens, value)], 1) for name, value in filling.items()}
    return {**batch, **longer, "input_ids": torch.cat([batch["input_ids"], tokens], 1)}


def videos(name: str, clips: Sequence[Sequence[np.ndarray]]) -> dict[str, torch.Tensor]:
    """Videos as the model takes them."""
    return frame_inputs(make_processor(name), CASES[name][0], clips)
