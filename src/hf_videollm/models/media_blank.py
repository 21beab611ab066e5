"""Training on batches without media: every part of the model still runs in every step.

Distributed training waits for the gradient of every trainable parameter (DistributedDataParallel), or for all processes
to run the same modules (FSDP, ZeRO-3). With a batch of text alone it would wait forever. So each part of the model that
gets no other input gets a blank medium (zeros). It is not part of a prompt, and its gradients are 0.
"""

from collections.abc import Iterable

import torch
from torch import nn


def must_run(modules: Iterable[nn.Module]) -> bool:
    """Whether other processes may wait for these modules: some parameter is trained, or is sharded over processes."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    return any(parameter.requires_grad or is_spread(parameter) for parameter in parameters)


def is_spread(parameter: torch.Tensor) -> bool:
    """Whether a process holds only its shard of the weight (FSDP2, or ZeRO-3 of DeepSpeed)."""
    return hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_id")


def reach(states: torch.Tensor, tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return `states` unchanged. In the backward pass, `tensors` get a gradient of 0.

    Args:
        states: of any shape.
        tensors: of any shapes with at least one dimension. Their values are not used.
    """
    for tensor in tensors:
        if tensor.requires_grad:
            states = states + tensor[:0].sum().to(states)
    return states


def blank_frames(vision_config: object, device: torch.device) -> torch.Tensor:
    """One frame of zeros, `(1, channels, height, width)`, in the size that a vision tower takes."""
    size = getattr(vision_config, "image_size", 0)
    height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
    return torch.zeros(1, getattr(vision_config, "num_channels", 3), height, width, device=device)


__all__ = ["blank_frames", "is_spread", "must_run", "reach"]
