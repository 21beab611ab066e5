"""Scales the new parts of a model, so that the vectors that they make are about as large as the embeddings of words.

Both stand in one prompt, and run through the same layers. A layer of a language model normalises its input and adds its
output to it. Beside vectors that are much too large, what the first layers add is lost. Vectors that are much too small
are drowned by it, and their gradients, which the norm divides by their size, are much larger than those of other parts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..models.media_blank import blank_frames
from ..models.video_llm_word_size import word_size

# Side of the squares of the picture below, in pixels: about that of a patch of the usual towers.
SQUARE = 16


def size_outputs(model: Any) -> None:
    """Scale the weights that the base model of a design names in `output_weights`.

    Args:
        model: the base model with all its parts. Those in `new_parts` are float32, and their biases are 0.
    """
    config, children = model.config, dict(model.named_children())
    picture = sample_picture(config.vision_config, model.vision_tower.dtype)

    def run() -> None:
        model.encode_blank_frames(picture)
        if "audio" in config.modalities:
            model.get_audio_features(sample_sound(config.audio_config))

    parts = [children[name] for name in model.new_parts if name in children]
    scale_weights(model, parts, model.output_weights(), run, word_size(model.get_input_embeddings()))


@torch.no_grad()
def scale_weights(
    model: nn.Module,
    parts: Iterable[nn.Module],
    weights: Mapping[str, Sequence[torch.Tensor]],
    run: Callable[[], object],
    size: float | None,
) -> None:
    """Scale weights until the outputs of some submodules are about of a given size.

    If there are several weights for an output, they share the change. If the last one took all of it, its gradient
    would be as many times larger than those of the layers before it as its inputs are larger than its outputs.

    Each factor is a power of two, so outputs differ from `size` by a factor of up to 1.4. Other factors would depend on
    how the machine rounds, and the same seed would not give the same weights in float32 and in bfloat16.

    Args:
        model: the model.
        parts: its new parts, which are float32. The outputs of its other parts may be of another type.
        weights: see `ModelContract.output_weights`.
        run: runs all these submodules once.
        size: the root mean square that the outputs should have; `None` changes nothing.
    """
    if size is None:
        return
    hooks = [module.register_forward_pre_hook(_in_float32) for part in parts for module in part.modules()]
    try:
        found = _output_sizes(model, weights, run)
        for name, chain in weights.items():
            for weight in chain[:-1]:
                weight.mul_(_power_of_two((size / found[name]) ** (1 / len(chain))))
        # Activations are not quite proportional to their inputs, so outputs are measured again.
        found = _output_sizes(model, weights, run)
        for name, chain in weights.items():
            chain[-1].mul_(_power_of_two(size / found[name]))
    finally:
        for hook in hooks:
            hook.remove()


def _output_sizes(model: nn.Module, names: Iterable[str], run: Callable[[], object]) -> dict[str, float]:
    """The root mean squares of the outputs of submodules, tensors or lists of tensors."""
    found: dict[str, float] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            vectors = output if isinstance(output, torch.Tensor) else torch.cat(list(output))
            found[name] = vectors.square().mean().sqrt().item()

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(record(name)) for name in names]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _power_of_two(factor: float) -> float:
    """The nearest power of two; 1 if the factor is no positive number, which weights of 0 and towers of NaN lead to."""
    return 2.0 ** round(math.log2(factor)) if 0.0 < factor < math.inf else 1.0


def _in_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: the inputs of a layer in the type of the new parts."""
    return tuple(
        value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for value in inputs
    )


def sample_picture(vision_config: Any, dtype: torch.dtype) -> torch.Tensor:
    """A picture of squares in random colours, with some noise: `(1, channels, height, width)`.

    Its values are as large as those of normalised photographs. It is the same picture in every call.
    """
    channels, height, width = blank_frames(vision_config, torch.device("cpu")).shape[1:]
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(1, channels, -(-height // SQUARE), -(-width // SQUARE), generator=generator)
    picture = colours.repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)[..., :height, :width]
    return (picture + 0.1 * torch.randn(picture.shape, generator=generator)).to(dtype)


def sample_sound(audio_config: Any) -> torch.Tensor:
    """The spectrogram of a noise, `(1, frames, bins)`, of four patches in time. It is the same in every call."""
    shape = (1, 4 * audio_config.patch_size, audio_config.num_mel_bins)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return audio_config.fbank_mean + audio_config.fbank_std * noise


__all__ = ["sample_picture", "sample_sound", "scale_weights", "size_outputs"]
