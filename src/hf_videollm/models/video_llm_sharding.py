"""Which modules a library may put on one device, or shard as one unit."""

from typing import Any

from torch import nn


def keep_present_names(model: nn.Module) -> None:
    """Take the names of classes out of `_no_split_modules` that the model has no modules of.

    transformers joins the names of all parts. CLIP also names a part of its text model, which its vision tower does not
    have, and accelerate's FSDP refuses a name without a module.

    Args:
        model: a model whose parts are made.
    """
    declared: Any = getattr(model, "_no_split_modules", None) or ()
    # A design may make a part of its own after this was called for the parts of the base class.
    own: Any = getattr(type(model), "_no_split_modules", None) or ()
    present = {type(module).__name__ for module in model.modules()}
    vars(model)["_no_split_modules"] = present.intersection({*declared, *own})


def decoder_layers(language_model: nn.Module) -> list[str]:
    """Names of the classes of a language model's layers.

    Args:
        language_model: the language model, without a head.
    """
    declared: Any = getattr(language_model, "_no_split_modules", None) or ()
    return sorted({type(module).__name__ for module in language_model.modules()}.intersection(declared))


__all__ = ["decoder_layers", "keep_present_names"]
