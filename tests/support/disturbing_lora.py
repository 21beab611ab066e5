"""The bundled PLLaVA with a LoRA of noise: without it, it answers well, and worse the stronger it is."""

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model

from hf_videollm import load_pipeline
from hf_videollm.models.pllava_lora import LORA_TARGETS


def disturbed_pipe(alpha: float = 2.5) -> Any:
    """In float32 on the CPU."""
    pipe = load_pipeline("pllava-tiny", dtype="float32", device="cpu")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=LORA_TARGETS, init_lora_weights=False)
    inject_adapter_in_model(config, pipe.model, "default")
    pipe.model.set_lora_alpha(alpha)
    pipe.model.eval()
    return pipe
