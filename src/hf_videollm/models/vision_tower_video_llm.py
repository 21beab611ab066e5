"""What the base needs to know of vision towers of any family."""

from typing import Any

import torch
from torch import nn


def check_frames(frames: torch.Tensor, vision_config: Any) -> None:
    """Refuse what a tower would misread, or stumble over in its convolution.

    SigLIP takes frames of any size that have as many patches as its own, and gives them places in a wrong grid. Other
    towers check the size themselves, or take any.

    Raises:
        ValueError: frames of another number of channels, or of a size that does not fit.
    """
    channels = getattr(vision_config, "num_channels", None)
    if frames.ndim != 4 or channels not in (None, frames.shape[1]):
        raise ValueError(
            f"Frames must be (frames, {channels or 'channels'}, height, width), not of shape {tuple(frames.shape)}."
        )
    side = getattr(vision_config, "image_size", None)
    if vision_config.model_type == "siglip_vision_model" and tuple(frames.shape[2:]) != (side, side):
        raise ValueError(
            f"Frames of {frames.shape[2]} x {frames.shape[3]} pixels do not fit the vision tower, which takes "
            f"{side} x {side}: set size and crop_size of the processor."
        )


def vision_layers(vision_tower: Any) -> nn.ModuleList:
    """The transformer layers of a vision tower of transformers, wherever the family keeps them.

    Raises:
        ValueError: no list of layers was found.
    """
    num_layers = vision_tower.config.num_hidden_layers
    for module in vision_tower.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"No list of {num_layers} layers found in the vision tower {type(vision_tower).__name__}.")


def concatenate_layers(chunks: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Join per-chunk tuples of per-layer tensors along the frames."""
    return tuple(torch.cat(layer) for layer in zip(*chunks, strict=True))


__all__ = ["check_frames", "concatenate_layers", "vision_layers"]
