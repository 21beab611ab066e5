"""Memory and speed of a PLLaVA of real size, with random weights, in each preset."""

import time
from pathlib import Path
from typing import Any

import torch
from bench_tools import synchronize
from model_sizes import CLIP_L, LLAMA_7B
from quantized_memory import in_mb, inputs_of_prediction, load, reset_peak, stored_tensors
from transformers import AutoModelForImageTextToText

from hf_videollm import PllavaConfig
from hf_videollm.costs.live_bytes import unique_bytes
from hf_videollm.costs.memory import predict_memory
from hf_videollm.hub.presets import QuantizationPreset

# The parts of PLLaVA-7B, and a trial with the same code.
SIZES: dict[str, dict[str, Any]] = {
    "7b": {
        "vision_config": CLIP_L,
        "text_config": {**LLAMA_7B, "vocab_size": 32064},
    },
    "small": {
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 512,
        },
        "pooling_shape": [4, 4, 4],
        "num_frames": 4,
    },
}
# Tokens of the answer.
ANSWER = {"7b": 64, "small": 4}


def write_random(size: str, folder: Path, device: str) -> None:
    """Write a PLLaVA of this size with random weights in bfloat16."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(PllavaConfig(**SIZES[size]), dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder, save_original_format=False)


def measure_size(size: str, preset: QuantizationPreset, folder: Path, device: str) -> dict[str, Any]:
    """Memory and speed of one preset, quantized while it is loaded. The answers mean nothing.

    Args:
        size: key of `SIZES`.
        preset: the preset.
        folder: from `write_random`.
        device: where the model is quantized and runs.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu:
        reset_peak()
    began = time.perf_counter()
    model = load(folder, device, dtype=preset.dtype, quantization_config=preset.quantization_config())
    synchronize()
    loading = time.perf_counter() - began
    weights = unique_bytes(stored_tensors(model))
    predicted = predict_memory(PllavaConfig(**SIZES[size]), dtype=preset.dtype, weights=weights)
    inputs = inputs_of_prediction(model, predicted)
    if on_gpu:
        reset_peak()
    seconds = time_answers(model, inputs, ANSWER[size], preset.generation)
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {
        "mb_weights": in_mb(weights),
        "mb_predicted": in_mb(predicted.total),
        "mb_peak": None if peak is None else in_mb(peak),
        "error_to_peak": None if peak is None else round(predicted.total / peak - 1, 4),
        "frames": predicted.num_frames,
        "prompt_tokens": inputs["input_ids"].shape[1],
        "seconds_to_load_and_quantize": round(loading, 1),
        "seconds_to_first_token": round(seconds["first"], 3),
        "answer_tokens_per_second": round((ANSWER[size] - 1) / max(seconds["all"] - seconds["first"], 1e-9), 1),
    }


@torch.inference_mode()
def time_answers(model: Any, inputs: dict[str, torch.Tensor], length: int, options: dict[str, Any]) -> dict[str, float]:
    """Seconds to the first token and to the last. The first of two rounds compiles and warms up."""
    seconds = {}
    for _ in range(2):
        for name, tokens in (("first", 1), ("all", length)):
            synchronize()
            began = time.perf_counter()
            model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **options)
            synchronize()
            seconds[name] = time.perf_counter() - began
    return seconds
