"""Makes a model from parts that are in memory, checks it, and writes its weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..convert.options import WriteOptions
from ..convert.parts import check_text, put_in, start_parts
from ..convert.scales import size_outputs
from ..convert.stream import TensorPlan
from ..convert.writing import write_weights
from ..models.configuration_video_llm import patch_grid
from ..models.errors import CheckpointError, one_line
from .designs import Design


def join(
    design: Design,
    config: Any,
    tower: Any,
    language: Any,
    audio: Any,
    seed: int,
    check: Callable[[Any], None] = lambda model: None,
) -> tuple[Any, int]:
    """Make a model of a design from its parts.

    Args:
        design: the design.
        config: configuration of the model.
        tower: the vision tower.
        language: the language model with its head.
        audio: the audio encoder, or `None`.
        seed: random seed of the new parts.
        check: gets the model before its new parts, which need the features of the tower, are made.

    Returns:
        The model, and the number of its values that are new.

    Raises:
        CheckpointError: the design cannot be built from these parts.
    """
    with torch.device("meta"):
        model = design.model(config)
    put_in(model, tower, language)
    if audio is not None:
        model.model.audio_tower = audio
    check(model.eval())
    children = dict(model.model.named_children())
    parts = [children[name] for name in design.new_parts if name in children]
    new_parameters = start_parts(model.model, parts, seed, language.dtype, lambda: size_outputs(model.model))
    return model.eval(), new_parameters


@torch.no_grad()
def check_tower(vision: Any, folder: Path, count_features: Callable[[torch.Tensor], int]) -> None:
    """Check that the tower gives one feature per patch of its configuration.

    Args:
        vision: configuration of the tower.
        folder: folder of the tower, for messages.
        count_features: maps frames, `(1, 3, height, width)`, to the number of features of one frame.

    Raises:
        CheckpointError: the number of features differs, because the tower has additional tokens or no patches.
    """
    rows, columns = patch_grid(vision)
    sides = vision.image_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    try:
        frames = torch.zeros(1, getattr(vision, "num_channels", 3), height, width)
        count = count_features(frames)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = one_line(error, 200)
        raise CheckpointError(f"The tower in {folder} cannot process a frame ({reason}).") from error
    if count != rows * columns:
        raise CheckpointError(
            f"The tower in {folder} gives {count} features per frame, but its configuration has {rows} x {columns} "
            "patches: use a tower with at most a class token besides them, such as a CLIP, SigLIP or DINOv2."
        )


def planned_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model by name. A tensor that is shared under several names is listed once.

    Raises:
        RuntimeError: a tensor has no values yet.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        if tensor.device.type == "meta":
            raise RuntimeError(f"{name} has no values.")
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], options: WriteOptions) -> tuple[list[Path], int]:
    """Write the tensors one by one.

    Args:
        folder: folder to write.
        tensors: tensors by name.
        options: how they are written. Its `dtype` is used for floating-point tensors only.

    Returns:
        The files, and their total size in bytes.

    Raises:
        CheckpointError: the disk has not enough room.
    """
    types = {
        name: (options.dtype if tensor.is_floating_point() else None) or tensor.dtype
        for name, tensor in tensors.items()
    }
    plans = [TensorPlan(name, tuple(tensor.shape), types[name]) for name, tensor in tensors.items()]

    def load(name: str) -> torch.Tensor:
        return tensors[name].detach().to("cpu", types[name]).contiguous()

    return write_weights(folder, plans, load, options)


__all__ = ["check_text", "check_tower", "join", "planned_tensors", "write_tensors"]
