"""Encoded media as named tensors and a description that JSON can hold, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .iva_frames import IvaMediaOutput, MediumFrames
from .linvt_selection import LinVTSelection

# Classes of encoded media, with the attributes that later questions need.
FIELDS: dict[type, tuple[str, ...]] = {
    IvaMediaOutput: ("pooler_output", "frames"),
    BaseModelOutputWithPooling: ("pooler_output",),
    MediumFrames: ("global_features", "chunks"),
    LinVTSelection: ("tokens", "mask", "indices", "scores", "frame_codes", "deepstack"),
}
CLASSES = {kind.__name__: kind for kind in FIELDS}


def pack(value: Any, tensors: dict[str, torch.Tensor], name: str = "") -> Any:
    """The description of a value; its tensors are added to `tensors`.

    Raises:
        TypeError: a part of the value is of another class than encoded media.
    """
    if isinstance(value, torch.Tensor):
        # A copy, because parts of one tensor would be stored with the whole of it.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    for kind, names in FIELDS.items():
        if isinstance(value, kind):
            parts = {part: pack(getattr(value, part), tensors, f"{name}.{part}") for part in names}
            return {"class": kind.__name__, "fields": parts}
    if isinstance(value, Mapping):
        return {"dict": {str(key): pack(item, tensors, f"{name}.{key}") for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [pack(item, tensors, f"{name}.{number}") for number, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be stored.")


def unpack(described: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The value that `pack` described."""
    if "tensor" in described:
        return tensors[described["tensor"]]
    if "class" in described:
        fields = {name: unpack(item, tensors) for name, item in described["fields"].items()}
        return CLASSES[described["class"]](**fields)
    if "dict" in described:
        return {name: unpack(item, tensors) for name, item in described["dict"].items()}
    if "list" in described:
        return [unpack(item, tensors) for item in described["list"]]
    return described["value"]


def slim(value: Any) -> Any:
    """Encoded media without what later questions do not need, such as the features of all patches."""
    for kind, names in FIELDS.items():
        if isinstance(value, kind):
            return kind(**{name: slim(getattr(value, name)) for name in names})
    if isinstance(value, Mapping):
        return {name: slim(item) for name, item in value.items()}
    return [slim(item) for item in value] if isinstance(value, list | tuple) else value


def num_bytes(value: Any) -> int:
    """Memory of all tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    for kind, names in FIELDS.items():
        if isinstance(value, kind):
            return sum(num_bytes(getattr(value, name)) for name in names)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(num_bytes, items))


__all__ = ["num_bytes", "pack", "slim", "unpack"]
