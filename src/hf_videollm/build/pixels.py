"""The settings with which frames and images become pixel values for a vision tower."""

from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor

from ..convert.parts import IMAGE_PROCESSORS
from ..convert.stream import read_json
from ..models.errors import CheckpointError

# Settings that are taken from the tower's own image processor. Sizes come from the tower's configuration instead.
STORED = ("image_mean", "image_std", "rescale_factor", "resample", "do_rescale", "do_normalize")
FILES = ("preprocessor_config.json", "processor_config.json")


def image_processor_class(vision: Any) -> Any:
    """The class of the image processor for a tower."""
    return IMAGE_PROCESSORS.get(vision.model_type, CLIPImageProcessor)


def pixel_settings(folder: Path, vision: Any, crops: bool = True) -> dict[str, Any]:
    """The options that image processor and video processor share.

    Args:
        folder: folder of the tower.
        vision: configuration of the tower.
        crops: whether to crop a square if the tower was trained so; otherwise frames are resized to a square without
            cropping.

    Raises:
        CheckpointError: the folder does not say how pixels are normalised, and no default is known for this family.
    """
    stored = _stored(folder)
    is_known = vision.model_type in IMAGE_PROCESSORS
    if not stored and not is_known:
        raise CheckpointError(
            f"{folder} has no {FILES[0]}, which says how pixels are normalised for a tower of type "
            f"{vision.model_type!r}: add this "
            "file."
        )
    settings: dict[str, Any] = {name: stored[name] for name in STORED if stored.get(name) is not None}
    if vision.model_type == "siglip_vision_model":
        settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings}
    sides = vision.image_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    square = {"height": height, "width": width}
    was_cropped = vision.model_type == "clip_vision_model" if is_known else bool(stored.get("do_center_crop"))
    if crops and was_cropped:
        return {**settings, "size": {"shortest_edge": min(height, width)}, "crop_size": square}
    return {**settings, "size": square, "do_center_crop": False}


def _stored(folder: Path) -> dict[str, Any]:
    for name in FILES:
        if (folder / name).is_file():
            values = read_json(folder / name)
            found = values.get("image_processor", values)
            if isinstance(found, dict):
                return found
    return {}


__all__ = ["image_processor_class", "pixel_settings"]
